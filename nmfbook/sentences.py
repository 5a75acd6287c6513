"""Sentences in prose that state an outcome, each bound to the claim that it states.

    Random ablation is no better {claim}`F3.10/nearer = fails`.

On the page the role becomes what the ledger says, with interval and n, and leads to the measured jobs. When the answer
is no longer the one that is written there, the build fails and `make ledger` prints the sentence.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from .claims import ANSWERS, Judgment

ROLE = re.compile(r"\{claim\}`([^`=]+?)\s*=\s*([^`]+?)\s*`")


def turned(book: Path, judgments: Iterable[Judgment]) -> list[str]:
    """Where a page states what the ledger does not say (any more): file, line, the words, and what would be right."""
    known = {judgment.key: judgment for judgment in judgments}
    complaints = []
    for path in sorted(book.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for match in ROLE.finditer(text):
            key, stated = match[1], match[2]
            place = f"book/{path.name}, line {text[:match.start()].count(chr(10)) + 1}"
            if key not in known:
                complaints.append(f"{place}: there is no claim {key!r}; those of the row are "
                                  f"{[other for other in known if other.startswith(key.partition('/')[0] + '/')]}")
            elif stated not in (*ANSWERS, "measuring"):
                complaints.append(f"{place}: {stated!r} is no outcome; write one of {', '.join(ANSWERS)} or measuring")
            elif stated != known[key].outcome:
                words = " ".join(text[:match.start()].split()[-25:])
                complaints.append(f"{place}: «… {words}» states that {key} {stated}, and the ledger says "
                                  f"{known[key].words}; write the sentence anew")
    return complaints


def bound(text: str, judgments: Iterable[Judgment]) -> str:
    """The text with what the ledger says in place of each role."""
    known = {judgment.key: judgment for judgment in judgments}

    def link(match):
        judgment = known[match[1]]
        return f"({{ref}}`{judgment.words} <{target(judgment.claim.experiment)}>`)"

    return ROLE.sub(link, text)


def target(experiment: str) -> str:
    """The MyST target of the jobs of an experiment, on the page of the ledger."""
    return "ledger-" + experiment.replace("_", "-")
