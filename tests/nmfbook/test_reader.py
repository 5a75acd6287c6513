"""What the site does for its reader: minutes below the title of a chapter, terms explained once a page."""

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx

GLOSSARY = """# Glossary

:::{glossary}
AuC
  Area under the curve, *divided* by $C$. See {doc}`page`.

CAM, Grad-CAM
  Where a network sees a class.

Fooling set
  Entries of a `support` no two of which fit; see [there](https://example.org).

Record
  Kept.

$U$, $V$
  Factors.
:::
"""
PAGE = """# AuC in a title

No aucs here, nor `AuC`, nor [an AuC](glossary.md), a record and U. Grad-CAMs, and the AuC: the AuC again, CAM.

- fooling sets in a list

> Fooling set
"""

CHAPTER = """---
jupytext:
  text_representation: {extension: .md, format_name: myst}
kernelspec: {name: python3, display_name: Python 3}
---
# A chapter

""" + 125 * "four words in each. " + """

```{code-cell} ipython3
"words of code are not counted" * 1000
```
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    source = tmp_path_factory.mktemp("book")
    (source / "book").mkdir()
    (source / "index.md").write_text("# Index\n\nAn AuC.\n\n```{toctree}\n:glob:\nbook/*\n```\n")
    (source / "book/page.md").write_text(PAGE)
    (source / "book/glossary.md").write_text(GLOSSARY)
    (source / "book/chapter.md").write_text(CHAPTER)
    app = Sphinx(source, None, source / "out", source / "doctrees", "html", status=None, warningiserror=True,
                 confoverrides={"extensions": ["myst_nb", "nmfbook.reader"], "html_theme": "basic",
                                "myst_enable_extensions": ["colon_fence", "dollarmath"], "nb_execution_mode": "off",
                                "suppress_warnings": ["myst-nb.lexer"]})
    app.build()
    return lambda name: BeautifulSoup((source / "out" / f"{name}.html").read_text(), "html.parser")


def test_the_first_of_each_term_in_a_paragraph_shows_its_meaning(page):
    terms = page("book/page").select(".nmf-term")
    links = [term.a for term in terms]
    assert [link.text for link in links] == ["Grad-CAMs", "AuC", "fooling sets"]
    assert [link["href"] for link in links] == [f"glossary.html#term-{anchor}" for anchor in
                                                ("CAM-Grad-CAM", "AuC", "Fooling-set")]
    meanings = [term.select_one(".nmf-meaning") for term in terms]
    assert [meaning.get_text() for meaning in meanings] == [
        "Where a network sees a class.", r"Area under the curve, divided by \(C\).",
        "Entries of a support no two of which fit; see there."]
    assert meanings[1].em.text == "divided" and meanings[1].select_one(".math")
    anchors = {term["id"] for term in page("book/glossary").select("dt")}
    assert {link["href"].partition("#")[2] for link in links} <= anchors


def test_the_text_is_otherwise_as_it_was(page):
    article = page("book/page")
    for meaning in article.select(".nmf-meaning"):
        meaning.decompose()
    assert ("No aucs here, nor AuC, nor an AuC, a record and U. Grad-CAMs, and the AuC: the AuC again, CAM."
            in article.get_text())


def test_addresses_fit_the_folder_of_a_page_and_the_glossary_explains_nothing(page):
    assert page("index").select_one(".nmf-term a")["href"] == "book/glossary.html#term-AuC"
    assert page("index").select("script[src*=mathjax]")  # its meaning has a formula
    assert not page("book/glossary").select(".nmf-term")


def test_a_chapter_says_how_many_minutes_its_prose_takes(page):
    assert [line.text for line in page("book/chapter").select("h1 + .nmf-minutes")] == ["2 min to read"]
    assert not page("book/page").select(".nmf-minutes")
