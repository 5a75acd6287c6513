"""The thesis's sentences as tests: a statistic with its interval, a threshold, and the goals at which it is judged.

    judgment = judge(claim, entries("early_stopping"))
    judgment.words  # "measuring, 4 of 12", or "holds: 0.4 (0.1 to 0.9), n = 12 runs"
    verdict(["holds", "undecided"], protocol_met=False)  # "undecided"

Goals and thresholds stand in the experiments' modules, committed before the first measurement.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ANSWERS = ("holds", "fails", "undecided")
VERDICTS = ("reproduced", "holds at smaller scale", "mixed", "contradicted", "fails at smaller scale", "undecided",
            "shown", "not tested", "measured")
OURS = "ours"  # the row of claims that are this book's own, not the thesis's


def verdict(answers: Sequence[str], *, protocol_met: bool) -> str:
    """The verdict on a row from the answers to its claims and whether the thesis's protocol was followed.

    "shown" (a demonstration or a proof), "not tested" (data that nobody can get here) and "measured" (the thesis only
    proposed it) are not computed: they say that there is no statistic. Raises ValueError for an unknown answer and for
    none at all.
    """
    if not answers or not {*answers} <= {*ANSWERS}:
        raise ValueError(f"answers {list(answers)}: expected at least one, each of {', '.join(ANSWERS)}")
    holds, fails = "holds" in answers, "fails" in answers
    if holds and fails:
        return "mixed"
    if fails:
        return "contradicted" if protocol_met else "fails at smaller scale"
    if "undecided" in answers:
        return "undecided"
    return "reproduced" if protocol_met else "holds at smaller scale"


@dataclass(frozen=True)
class Scale:
    """What a claim may be judged on: which measurements, and how many units of them."""

    label: str  # data, images and width, in words
    units: Callable[[list], list]  # of an experiment's entries: one item a run, or a dict {p: measurements} a seed
    goals: tuple[int, ...]  # numbers of units at which it is judged
    demanded: int | None  # units the thesis had, where data, schedule and width are its own; None: they are not


@dataclass(frozen=True)
class Claim:
    """One sentence. It holds if the whole interval of its statistic lies above the threshold (below, if `below`)."""

    row: str
    name: str  # by which prose refers to it, one of its row: {claim}`F3.10/near = holds`
    sentence: str
    experiment: str
    statistic: Callable[[list], tuple[float, float, float]]  # of units: value and 95 % interval
    scales: tuple[Scale, ...]  # the one that says most first
    unit: str = "seeds"  # what is counted, in words
    threshold: float = 0.0
    below: bool = False


@dataclass(frozen=True)
class Judgment:
    """What the ledger says of a claim now."""

    claim: Claim
    scale: Scale
    n: int  # units judged, or measured so far
    answer: str | None  # one of ANSWERS; None before the first goal
    interval: tuple[float, float, float] | None
    goal: int | None  # the next one

    @property
    def key(self) -> str:
        return f"{self.claim.row}/{self.claim.name}"

    @property
    def outcome(self) -> str:
        """The answer, or "measuring"."""
        return self.answer or "measuring"

    @property
    def protocol_met(self) -> bool:
        return self.scale.demanded is not None and self.n >= self.scale.demanded

    @property
    def needed(self) -> str:
        """What the interval must be, in words."""
        return f"holds if {'below' if self.claim.below else 'above'} {self.claim.threshold:g}"

    @property
    def words(self) -> str:
        if self.answer is None or self.interval is None:
            return f"measuring, {self.n} of {self.goal}"
        value, low, high = self.interval
        return f"{self.answer}: {value:.2f} ({low:.2f} to {high:.2f}), n = {self.n} {self.claim.unit}"


def judge(claim: Claim, entries: list) -> Judgment:
    """Judge a claim on the first scale of which enough is measured, at the largest goal reached.

    Between goals nothing new is looked at, so that a run more cannot turn an answer at a lucky moment.
    """
    counted = [(scale, scale.units(entries)) for scale in claim.scales]
    for scale, units in counted:
        reached = [goal for goal in scale.goals if goal <= len(units)]
        if reached:
            value, low, high = claim.statistic(units[:reached[-1]])
            under, over = high < claim.threshold, low > claim.threshold
            answer = "undecided" if not (under or over) else "holds" if under == claim.below else "fails"
            following = [goal for goal in scale.goals if goal > reached[-1]]
            return Judgment(claim, scale, reached[-1], answer, (value, low, high), following[0] if following else None)
    scale, units = max(reversed(counted), key=lambda pair: len(pair[1]) / pair[0].goals[0])
    return Judgment(claim, scale, len(units), None, None, scale.goals[0])


def judge_all(ledger: Path | None = None) -> list[Judgment]:
    """Every claim of every experiment, judged on the ledger as it is now."""
    from .ledger import EXPERIMENTS, entries, experiment

    found = []
    for name in EXPERIMENTS:
        measured = entries(name, ledger)
        found += [judge(claim, measured) for claim in experiment(name).claims()]
    return found


def by_row(judgments: list[Judgment]) -> dict[str, list[Judgment]]:
    """Judgments by the row of the thesis to which their claims belong."""
    rows = defaultdict(list)
    for judgment in judgments:
        rows[judgment.claim.row].append(judgment)
    return dict(rows)


def row_verdict(judgments: list[Judgment]) -> str:
    """The verdict on a row, "measuring" as long as a claim of it is not judged."""
    answers = [judgment.outcome for judgment in judgments]
    if "measuring" in answers:
        return "measuring"
    return verdict(answers, protocol_met=all(judgment.protocol_met for judgment in judgments))


def row_words(judgments: list[Judgment]) -> str:
    """The verdict on a row, or how far its measuring has come."""
    waiting = [judgment for judgment in judgments if judgment.answer is None]
    if not waiting:
        return row_verdict(judgments)
    behind = min(waiting, key=lambda judgment: judgment.n / judgment.scale.goals[0])
    done = len(judgments) - len(waiting)
    return behind.words + (f"; {done} of {len(judgments)} claims judged" if done else "")
