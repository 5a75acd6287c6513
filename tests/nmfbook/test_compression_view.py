"""The view of accuracy against rank: it says the numbers it was given, by mouse, keyboard and address."""

import re

import numpy as np
import pytest

from nmfbook.widgets.compression import Network, compression

RNG = np.random.default_rng(0)
METHODS = {"nmf": "NMF", "pca": "P<CA>"}
RANKS = [0, 1, 2, 4, 8]


def network(name="true & random", **changes):
    right = {method: RNG.random((5, 6)) < 0.5 for method in METHODS}
    return Network(**{"name": name, "color": (0, 0.5, 1), "pictures": RNG.random((6, 8, 8)), "right": right,
                      "accuracy": {method: flags.mean(1) for method, flags in right.items()}} | changes)


SETS = {"digits": (RANKS, [network(), network("other")]),
        "recorded": ([0, 3, 16], [network("p = 0", pictures=None, accuracy={"nmf": [0, 0.5, 1], "pca": [0, 0.75, 1]})])}
ADDRESS = "compression.data=digits&compression.method=pca&compression.K=4"


@pytest.fixture
def opened(show_page):
    def open_page(address="", copies=1):
        view = compression(SETS, methods=METHODS, rank=2, caption="Curves & digits")
        return show_page(*copies * [view], address=address).locator(".nmf-compression").first
    return open_page


def check(box, title, method, K):
    """Everything in sight says the numbers of `SETS`."""
    ranks, networks = SETS[title]
    place = ranks.index(K)
    percents = [f"{entry.name} {100 * entry.accuracy[method][place]:.0f} % right" for entry in networks]
    assert box.locator("p").inner_text() == f"{METHODS[method]}, K = {K}: {', '.join(percents)}."
    assert box.locator("output").inner_text() == str(K)
    assert box.locator("[aria-pressed=true]").inner_text() == METHODS[method]
    shown = box.locator("section")
    assert shown.count() == sum(entry.pictures is not None for entry in networks)
    for i in range(shown.count()):
        wrong = [image.get_attribute("class") == "wrong" for image in shown.nth(i).locator("img").all()]
        assert wrong == (~networks[i].right[method][place]).tolist()
    heights = [float(circle.get_attribute("cy")) for circle in box.locator("circle").all()]
    np.testing.assert_allclose(heights, [216 - 204 * entry.accuracy[method][place] for entry in networks], atol=0.02)


def test_it_says_what_it_was_given_by_mouse_and_keyboard(opened):
    box = opened()
    check(box, "digits", "nmf", 2)
    box.locator("[type=range]").press("ArrowRight")
    check(box, "digits", "nmf", 4)
    box.get_by_role("button", name="P<CA>").click()
    check(box, "digits", "pca", 4)
    assert box.page.url.endswith("#" + ADDRESS)
    box.locator("[type=range]").press("End")
    check(box, "digits", "pca", 8)
    box.locator("select").select_option("recorded")
    check(box, "recorded", "pca", 16)
    box.get_by_role("button", name="NMF").press("Enter")
    check(box, "recorded", "nmf", 16)


@pytest.mark.parametrize("address", ["", "#end", "#compression.data=none&compression.method=pca", "#%=",
                                     "#compression.data=digits&compression.method=other&compression.K=4"])
def test_an_address_that_says_nothing_to_it_is_left_alone(opened, address):
    box = opened(address)
    check(box, "digits", "nmf", 2)
    assert box.page.url.endswith(f"page.html{address}")


def test_the_address_holds_the_view(opened):
    box = opened("#" + ADDRESS)
    check(box, "digits", "pca", 4)
    box.page.evaluate("location.hash = 'compression.data=recorded&compression.method=nmf&compression.K=3'")
    box.page.wait_for_function("document.querySelector('output').value == 3")
    check(box, "recorded", "nmf", 3)
    box.page.get_by_role("link", name="down").click()
    check(box, "recorded", "nmf", 3)


def test_two_views_and_a_phone(opened):
    first = opened(copies=2)
    second = first.page.locator(".nmf-compression").nth(1)
    second.locator("[type=range]").press("Home")
    check(second, "digits", "nmf", 0)
    check(first, "digits", "nmf", 2)
    assert first.page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("sets, methods, message", [
    ({}, METHODS, "at least one data set"),
    (SETS, {}, "one method, got 2 and 0"),
    ({"a": ([0, 0], [network()])}, METHODS, r"'a' must be two or more and increase, got \[0, 0\]"),
    ({"a": (RANKS, [])}, METHODS, "'a' has no networks"),
    ({"a": (RANKS, [network(accuracy={"nmf": [0.5] * 5})])}, METHODS, r"'true & random' of 'a' needs 5 .* for 'pca'"),
    ({"a": (RANKS, [network(accuracy={"nmf": [0.5] * 4 + [1.5], "pca": [0] * 5})])}, METHODS, "1.5"),
    ({"a": (RANKS, [network(accuracy={"nmf": [np.nan] * 5, "pca": [0] * 5})])}, METHODS, "nan"),
    ({"a": (RANKS, [network(right=None)])}, METHODS, r"right or wrong \(5, n\), got shapes \(6, 8, 8\) and \(0,\)"),
])
def test_bad_input_is_named(sets, methods, message):
    with pytest.raises(ValueError, match=message):
        compression(sets, methods=methods, caption="x")


def test_texts_are_escaped():
    html = compression(SETS, methods=METHODS, caption="a < b").data
    assert "P<CA>" not in html and "a &lt; b" in html and not re.search(r"https?://(?!www\.w3\.org)", html)
