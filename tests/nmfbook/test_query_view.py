"""The view of a query: what it shows is what the rankings say, by mouse, by keyboard and from the address."""

import numpy as np
import pytest
from test_widgets import Elements

from nmfbook import backbones
from nmfbook.experiments.image_retrieval import embedded, ranked_tiles
from nmfbook.widgets.query import query

GENERATOR = np.random.default_rng(0)
NAMES = [f"{kind} {i}" for kind in ("grass", "'brick' <b>", "coins") for i in range(3)]
PICTURES = {name: GENERATOR.integers(0, 255, (40, 30, 3), dtype=np.uint8) for name in NAMES}
ASKED = NAMES[:7]  # the other two are found, and no queries
RANKINGS = {method: {name: GENERATOR.permutation(NAMES).tolist() for name in ASKED} for method in ("R-MAC", "NMF V")}
RELEVANT = {name: {other for other in NAMES if other[:3] == name[:3]} for name in ASKED}


def made(**options):
    return query(**{"pictures": PICTURES, "rankings": RANKINGS, "relevant": RELEVANT, "caption": "Queries",
                    "offered": NAMES[1:6:2], "top": 4, **options})


def expected(name, top=4):
    """Of each method the names found and whether each is right."""
    found = [[other for other in of_query[name] if other != name][:top] for of_query in RANKINGS.values()]
    return [[(other, other[:3] == name[:3]) for other in names] for names in found]


def check(box, name, top=4):
    """The view shows this query, and nothing but what the rankings say."""
    lines = expected(name, top)
    counts = [f"{method}: {sum(right for _, right in line)} of {len(line)} right"
              for method, line in zip(RANKINGS, lines, strict=True)]
    assert box.locator("p").inner_text() == f"Query {name}. {'; '.join(counts)}."
    assert box.locator(".asked img").get_attribute("alt") == name
    source = box.evaluate("(box, name) => JSON.parse(box.dataset.view).pictures[name]", name)
    assert box.locator(".asked img").get_attribute("src") == source
    for section, line, count in zip(box.locator(".found section").all(), lines, counts, strict=True):
        assert section.locator("strong").inner_text() == count
        buttons = section.locator("button:not([hidden])").all()
        assert len(buttons) == len(line)
        for i, (button, (other, right)) in enumerate(zip(buttons, line, strict=True)):
            assert button.get_attribute("aria-label") == (f"{i + 1}: {other}, {'right' if right else 'wrong'}"
                                                          + "; search with it" * (other in ASKED))
            assert button.inner_text() == ("✓" if right else "✗") and button.is_enabled() == (other in ASKED)
            assert button.locator("img").get_attribute("src") == box.evaluate(
                "(box, name) => JSON.parse(box.dataset.view).pictures[name]", other)
    pressed = box.locator(".strip [aria-pressed=true]").evaluate_all("buttons => buttons.map(b => b.dataset.name)")
    offered = box.locator(".strip button").evaluate_all("buttons => buttons.map(b => b.dataset.name)")
    assert pressed == [name] * (name in offered)


def test_it_obeys_the_mouse(show_page):
    box = show_page(made()).locator(".nmf-query")
    check(box, NAMES[1])
    for i, name in enumerate(NAMES[1:6:2]):
        box.locator(".strip button").nth(i).click()
        check(box, name)
    found = next(other for other, _ in expected(NAMES[5])[1] if other in ASKED)
    box.locator(".found section").nth(1).get_by_role("button", name=found).click()
    check(box, found)


def test_it_obeys_the_keyboard(show_page):
    page = show_page(made())
    box, name = page.locator(".nmf-query"), NAMES[3]
    box.locator(".strip button").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    check(box, name)
    for _ in range(3):  # from one query on to what it finds, the focus staying where it is
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.dataset.name")
        assert focused in ASKED
        page.keyboard.press("Space")
        check(box, focused)


def test_its_state_is_in_the_address(show_page):
    page = show_page(made(), made(top=2, start=NAMES[0]))
    first, second = page.locator(".nmf-query").all()
    check(first, NAMES[1])
    check(second, NAMES[0], top=2)
    first.locator(".strip button").nth(2).click()
    check(second, NAMES[0], top=2)
    assert page.evaluate("new URLSearchParams(location.hash.slice(1)).get('query.picture')") == NAMES[5]
    for name in (NAMES[2], NAMES[6]):
        page.evaluate("name => { location.hash = new URLSearchParams({'query.picture': name}); }", name)
        page.wait_for_function("name => [...document.querySelectorAll('.nmf-query .asked img')]"
                               ".every(image => image.alt == name)", arg=name)
        check(first, name)
        check(second, name, top=2)
    for other in ("query.picture=nothing", "query.picture=constructor", "simplex.kappa=3"):
        page.evaluate("hash => { location.hash = hash; }", other)
        page.wait_for_timeout(50)
        check(first, NAMES[6])


def test_a_ranking_may_be_short(show_page):
    rankings = {"R-MAC": {name: [other for other in NAMES if other != name][:2] for name in ASKED}}
    box = show_page(made(rankings=rankings)).locator(".nmf-query")
    assert box.locator(".found button:visible").count() == 2
    assert "of 2 right" in box.locator("p").inner_text()


def test_it_is_one_captioned_figure_with_the_pictures_it_needs():
    page = Elements(made().data)
    assert page.open == [] and "Queries" in page.texts and len(page.of("figure")) == len(page.of("figcaption")) == 1
    assert page.tags[0][1]["data-lm-suppress-shortcuts"] == "true"
    few = made(rankings={"R-MAC": {NAMES[0]: NAMES[1:3]}}, relevant={NAMES[0]: NAMES[:3]}, offered=None)
    data = Elements(few.data).tags[0][1]["data-view"]
    assert [name for name in NAMES if f'{name}": "data:' in data] == NAMES[:3]


@pytest.mark.parametrize("change, names", [
    ({"rankings": {}}, "0 and 3"),
    ({"relevant": {}, "offered": None}, "2 and 0"),
    ({"top": 0}, "top 0"),
    ({"offered": ["nothing"]}, "'nothing'"),
    ({"start": NAMES[8]}, NAMES[8]),
    ({"rankings": {"R-MAC": {}}}, f"'R-MAC' has no ranking for the query {NAMES[0]!r}"),
    ({"rankings": {"R-MAC": {name: [name] for name in ASKED}}}, r"got \[\]"),
    ({"rankings": {"R-MAC": {name: [NAMES[7], NAMES[7]] for name in ASKED}}}, NAMES[7]),
    ({"rankings": {"R-MAC": {name: ["nothing"] for name in ASKED}}}, "ranking of 'R-MAC' names 'nothing'"),
    ({"relevant": {**RELEVANT, NAMES[0]: ["nothing"]}}, "relevant names 'nothing'"),
    ({"pictures": {**PICTURES, NAMES[1]: np.zeros((4, 4))}}, f"{NAMES[1]!r}.*float64"),
])
def test_bad_input_is_named(change, names):
    with pytest.raises(ValueError, match=names):
        made(**change)


def test_ranked_tiles_are_found_by_both_methods():
    pictures, rankings, relevant = ranked_tiles(backbones.load("student"))
    tiles = embedded()[0]["tiles"]
    assert list(pictures) == tiles.names == list(relevant) and list(rankings) == ["R-MAC", "NMF V"]
    for method, of_query in rankings.items():
        assert all(sorted(ranking) == sorted(tiles.names) and ranking[0] == name for name, ranking in of_query.items())
        right = [np.mean([other in relevant[name] for other in ranking[1:6]]) for name, ranking in of_query.items()]
        assert np.mean(right) > 0.8, method
        assert all(relevant[name] == {other for other in tiles.names if other.split("/")[0] == name.split("/")[0]}
                   for name in tiles.names)
    assert len(query(pictures, rankings, relevant, caption="Tiles").data) < 300_000
