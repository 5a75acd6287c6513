"""No measured number is typed into prose: it is glued from the cell that computed it."""

import re
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

BOOK = Path(__file__).resolve().parents[2] / "book"

NAMES = (  # digits that are part of a name
    r"\b(VGG-?\d+|ResNet-?\d+|CIFAR-?\d+|MNIST|ESC-(10|50)|UrbanSound8K|ImageNet-?\d*k?|conv\d+_\d+|layer\d(\.\d+)*|relu\d_\d|float(16|32|64)|bfloat16)\b",
    r"\b(Oxford5k|Paris6k|VOC ?20\d\d|Middlebury 20\d\d|PASCAL07-6x2|sha256|utf-8)\b",
    r"\b[1-4]-?D\b",
    r"(?<![\w.])[ℓℝRL][₀-₉⁰-⁹1-3]?(?!\w)",
)
PLACES = (  # where something stands in the thesis or another work
    r"(?i:\b(figures?|figs?\.|tables?|sections?|sec\.|chapters?|propositions?|corollar(y|ies)|equations?|eqs?\.|pp?\.))"
    r"[\s~]*\(?\d+(\.\d+)*[a-z]?\)?((,| and|,? to|–|-) ?\(?\d+(\.\d+)*[a-z]?\)?)*",
    r"\b[FTPCSE]\d+(\.\d+)*[a-z]?\b",
    r"\(([^()\d]*, )?(19|20)\d\d[a-z]?\)",
)
LIST_MARKER = r"(?m)^\s*\d+[.)]\s"
UNSEEN = (  # not prose, in the order in which they are taken away
    r"(?s)\A---\n.*?\n---\n",
    r"(?s)<!--.*?-->",
    r"(?m)^%.*$",
    r"(?m)^\s*\(?[\w:.-]+\)=\s*$",
    r"\{(glue|numref|ref|eq|doc|cite|prf:ref|glue:\w+|cite:\w+)\}`[^`]*`",
    r"https?://\S+",
    r"\]\([^)]*\)",
    r"`[^`\n]+`",
)


def typed_numbers(text):
    """The places of a chapter where a number stands in prose, with a little of what surrounds them."""
    prose, captions = split(text)
    found = []
    for part in [prose, *captions]:
        for pattern in UNSEEN:
            part = re.sub(pattern, " ", part)
        part = re.sub(r"(?s)\$\$(.*?)\$\$|\$([^$]+)\$", measured_in_math, part)
        for pattern in (LIST_MARKER, *PLACES, *NAMES):
            part = re.sub(pattern, " ", part)
        found += [part[max(0, hit.start() - 30):hit.end() + 10].replace("\n", " ") for hit in re.finditer(r"\d+", part)]
    return found


def measured_in_math(match):
    """Whole numbers belong to formulas; decimals and percentages are measurements."""
    formula = match[1] or match[2]
    return " ".join(hit[0] for hit in re.finditer(r"\d+[.,]\d+|\d+(\\[,;: ])?\s*\\?%", formula))


def split(text):
    """Prose and the captions in cell metadata. Code cells, math blocks and directive options are no prose."""
    prose, captions, fence, block = [], [], None, []
    for line in text.splitlines():
        opening = re.match(r"\s*(`{3,}|:{3,}|~{3,})\s*(\{[\w:-]+\})?(.*)$", line)
        if fence:
            if line.strip() == fence:
                captions += captions_of(block)
                fence, block = None, []
            else:
                block.append(line)
        elif opening and opening[1][0] != ":" and opening[2] in (None, "{code-cell}", "{code-block}", "{math}") and (
                opening[2] or opening[3].strip()):
            fence = opening[1]
        elif opening:
            prose.append(opening[3])
        elif re.match(r"\s*:[\w-]+:", line):
            prose.append(re.sub(r"^\s*:(?!(caption|alt):)[\w-]+:.*", "", line))
        else:
            prose.append(line)
    return "\n".join(prose), captions


def captions_of(cell):
    """Caption and alt text in the metadata of a code cell, which stand between dashes or behind colons."""
    if "---" in cell[:1]:
        header = cell[1:cell.index("---", 1)]
    else:
        header = [line.removeprefix(":") for line in takewhile(lambda line: line.startswith(":"), cell)]
    settings = (yaml.safe_load("\n".join(header)) or {}).get("mystnb", {})
    texts = settings.get("figure", {}).get("caption"), settings.get("image", {}).get("alt")
    return [text for text in texts if text]


@pytest.mark.parametrize("path", sorted(BOOK.glob("*.md")), ids=lambda path: path.name)
def test_chapter_has_no_typed_number(path):
    assert typed_numbers(path.read_text(encoding="utf-8")) == []


CELL = "```{code-cell} ipython3\n---\nmystnb:\n  figure:\n    caption: CAPTION\n---\nx = 0.93\n```\n"


@pytest.mark.parametrize("text", [
    "The accuracy is 0.93.", "We find $r = 0.93$.", "It takes 12 s.", "It keeps 91 % of them.", "About 91% agree.",
    "$$ r = 0{.}5 + 0.82 $$", "It reaches $82\\%$.", "The error is 1e-3.", "- *K* gives 7 parts", "| rank | 31 |",
    ":::{note}\nAbout 12 cells.\n:::", "```{figure} a.png\n:alt: It is 3 times larger\n```", 
    "We used VGG-19 on 50 images.", "About 2000 faces.", "It is $41\\,\\%$.",
    CELL.replace("CAPTION", "It agrees in 12 cases"),
    "```{code-cell} ipython3\n:tags: [x]\n:mystnb:\n:  image:\n:    alt: Has 12 parts\nx = 1\n```",
    "Table 4.2 says 41.", "In 2019 we saw 2020.5 of them.",
    "```{prf:proposition} Bound\nAt most 41 parts.\n```",
])
def test_a_typed_number_is_found(text):
    assert typed_numbers(text)


@pytest.mark.parametrize("text", [
    "As Figure 2.13 and Table 4.2 show (eq. 2.25, Section 4.2, Chapter 3).", "Equations (2.1) and (2.3), pp. 12–14.",
    "VGG-19, ResNet-50 and CIFAR-10 at conv5_4, in 2-D and 1-D.", "1. First.\n2. Second.", "Lee and Seung (1999).",
    "Rank $K = 3$ and $\\sum_{k=1}^{K} U_{ik}^2$.", "It is {glue:text}`accuracy:.2f`; see {numref}`fig-3`.",
    "Run `nmf(A, 3)`.", "```python\nx = 0.93\n```", CELL.replace("CAPTION", "Three maps"), "(row-f2-13)=\n# Faces",
    "<!-- 0.93 -->", "A [link](https://x.example/2.5).", "---\nnumber: 0.93\n---\ntext", "% 0.93 is a comment",
    "```{exercise}\n:label: ex-2\nDo it.\n```", "Row F2.13 and P2.",
])
def test_what_is_no_measurement_passes(text):
    assert typed_numbers(text) == []


def test_every_reference_is_cited():
    """A missing one is a warning of the site's build, and those are errors."""
    text = "".join(path.read_text(encoding="utf-8") for path in BOOK.glob("*.md"))
    cited = {key.strip() for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]*)`", text) for key in keys.split(",")}
    entries = re.findall(r"(?m)^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(encoding="utf-8"))
    assert len(entries) == len(set(entries)) and set(entries) - cited == set()
