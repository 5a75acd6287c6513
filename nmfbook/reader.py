"""A Sphinx extension for the reader: how long a chapter takes, and what a term means where a page first says it."""

import re
from functools import cache
from itertools import takewhile

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

GLOSSARY = "book/glossary"
WORDS = 200  # that are read in a minute
EVERYDAY = {"row", "record", "profile", "factor", "memorization", "rank", "verdict"}  # often said in another sense
KEPT = (nodes.Text, nodes.math, nodes.emphasis, nodes.literal, nodes.reference)
APART = (nodes.figure, nodes.table, nodes.title, nodes.raw, nodes.caption)


@cache
def definitions(env: BuildEnvironment) -> dict[str, tuple[str, list[nodes.Node]]]:
    """Each term -> its anchor and what it means, without citations and without the pages to see.

    Terms that share an entry, separated by commas, stand for themselves; a formula is no term.
    """
    entries = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        term, paragraph = item.next_node(nodes.term), item.next_node(nodes.definition).next_node(nodes.paragraph)
        parts = [nodes.Text(node.astext()) if isinstance(node, nodes.reference) else node
                 for node in paragraph if isinstance(node, KEPT)]
        meaning = [*takewhile(lambda node: not node.astext().endswith("See "), parts)]
        meaning += [nodes.Text(node.removesuffix("See ").rstrip()) for node in parts[len(meaning):][:1]]
        for name in "".join(node for node in term if isinstance(node, nodes.Text)).split(","):
            if (name := name.strip()) and name.lower() not in EVERYDAY:
                entries[name] = term["ids"][0], meaning
    return entries


def pattern(name: str) -> str:
    """A term as it stands or in the plural, and a word with either kind of initial."""
    initial = f"[{name[0].lower()}{name[0].upper()}]" if re.match(r"\w[a-z -]", name) else re.escape(name[0])
    return f"{initial}{re.escape(name[1:])}s?"


def explain(app: Sphinx, doctree: nodes.document, page: str) -> None:
    if app.builder.format != "html" or page == GLOSSARY or GLOSSARY not in app.env.found_docs:
        return
    wanted = definitions(app.env)
    address = app.builder.get_relative_uri(page, GLOSSARY)
    texts = [text for paragraph in doctree.findall(nodes.paragraph) for text in paragraph
             if isinstance(text, nodes.Text) and not any(isinstance(node, APART) for node in _above(paragraph))]
    for text in texts:
        pieces: list[nodes.Node] = []
        rest = str(text)
        while wanted and (match := re.search(
                rf"(?<![\w-])(?:{'|'.join(map(pattern, sorted(wanted, key=len, reverse=True)))})(?![\w-])", rest)):
            anchor, meaning = next(wanted[name] for name in wanted if re.fullmatch(pattern(name), match[0]))
            link = nodes.reference("", match[0], internal=True, refuri=f"{address}#{anchor}")
            pieces += [nodes.Text(rest[: match.start()]), nodes.inline("", "", link, nodes.inline(
                "", "", *(node.deepcopy() for node in meaning), classes=["nmf-meaning"]), classes=["nmf-term"])]
            rest = rest[match.end():]
            wanted = {name: entry for name, entry in wanted.items() if entry[0] != anchor}
        if pieces:
            if any(next(piece.findall(nodes.math), None) for piece in pieces):
                app.env.get_domain("math").data["has_equations"][page] = True  # so that MathJax comes with the page
            text.parent.replace(text, [*pieces, nodes.Text(rest)])


def tell_time(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Minutes that the prose of a chapter takes, below its title. Pages without code, and the first, go without."""
    is_chapter = any(node.get("nb_element") == "cell_code" for node in doctree.findall(nodes.container))
    if app.builder.format == "html" and is_chapter and page != app.config.root_doc:
        words = sum(len(paragraph.astext().split()) for paragraph in doctree.findall(nodes.paragraph))
        minutes = nodes.paragraph("", f"{max(1, round(words / WORDS))} min to read", classes=["nmf-minutes"])
        doctree.next_node(nodes.title).parent.insert(1, minutes)


def _above(node):
    while node.parent is not None:
        node = node.parent
        yield node


def setup(app: Sphinx) -> dict:
    app.connect("doctree-resolved", tell_time)
    app.connect("doctree-resolved", explain, priority=600)  # later: its meanings are not to be counted
    return {"parallel_read_safe": True, "parallel_write_safe": True}
