"""The view of a design: what each method reaches at the combination chosen, by mouse, keyboard and address."""

import pytest

from nmfbook.widgets.choices import choices

FACTORS = ("box", "K", "stop")
COLORS = {"NMF <V>": "C0", "R-MAC": (0.5, 0.5, 0)}
SETS = {
    "kinds & more": {
        "R-MAC": {("cut", "", ""): 0.6, ("whole", "", ""): 0.55},
        "NMF <V>": {("cut", "4", "soon"): 0.5, ("cut", "32", "soon"): 0.7, ("inside", "4", "soon"): 0.2,
                    ("cut", "4", "late"): 0.49, ("cut", "32", "late"): 0.66, ("inside", "4", "late"): 0.1}},
    "buildings": {"NMF <V>": {("whole", "4", "late"): 0.31}}}
START = ("cut", "4", "late")


@pytest.fixture
def opened(show_page):
    def open_page(address="", copies=1):
        view = choices(SETS, factors=FACTORS, colors=COLORS, start=START, caption="Choose")
        return show_page(*copies * [view], address=address).locator(".nmf-choices").first
    return open_page


def check(box, title, levels, values):
    """Everything in sight says what each method reaches."""
    said = ", ".join(f"{method} {value} %" if value else f"{method} not measured" for method, value in values.items())
    assert box.locator("p").inner_text() == box.locator("svg").get_attribute("aria-label")
    chosen = "; ".join(f"{factor} {level}" for factor, level in zip(FACTORS, levels, strict=True))
    assert box.locator("p").inner_text() == f"{title}; {chosen}: {said}."
    assert [select.input_value() for select in box.locator("select").all()] == [title, *levels]
    assert box.locator(".chosen").count() == sum(value is not None for value in values.values())
    assert box.locator(".other").count() == sum(map(len, SETS[title].values()))


def test_it_says_what_was_measured_by_mouse_and_keyboard(opened):
    box = opened()
    check(box, "kinds & more", START, {"NMF <V>": "49.0", "R-MAC": "60.0"})
    box.locator("select").nth(2).press("ArrowDown")
    check(box, "kinds & more", ("cut", "32", "late"), {"NMF <V>": "66.0", "R-MAC": "60.0"})
    box.locator("select").nth(1).select_option("inside")
    check(box, "kinds & more", ("inside", "32", "late"), {"NMF <V>": None, "R-MAC": None})
    assert box.page.url.endswith("#choices.set=kinds+%26+more&choices.levels=inside%7E32%7Elate")
    box.get_by_role("button", name="best of NMF <V>").press("Enter")
    check(box, "kinds & more", ("cut", "32", "soon"), {"NMF <V>": "70.0", "R-MAC": "60.0"})
    box.locator("select").nth(1).select_option("whole")
    box.get_by_role("button", name="best of R-MAC").click()  # has no K and no stop, which stay
    check(box, "kinds & more", ("cut", "32", "soon"), {"NMF <V>": "70.0", "R-MAC": "60.0"})
    box.locator("select").first.select_option("buildings")
    check(box, "buildings", ("whole", "4", "late"), {"NMF <V>": "31.0"})


def test_dots_lie_where_their_values_are(opened):
    places = sorted(float(dot.get_attribute("cx")) for dot in opened().locator(".other").all())
    values = sorted(value for methods in SETS["kinds & more"].values() for value in methods.values())
    scale = (places[-1] - places[0]) / (values[-1] - values[0])
    assert places == pytest.approx([places[0] + scale * (value - values[0]) for value in values], abs=0.01)


@pytest.mark.parametrize("address", ["", "#end", "#choices.set=none&choices.levels=cut~4~late", "#%=",
                                     "#choices.set=buildings&choices.levels=cut"])
def test_an_address_that_says_nothing_to_it_is_left_alone(opened, address):
    box = opened(address)
    check(box, "kinds & more", START, {"NMF <V>": "49.0", "R-MAC": "60.0"})
    assert box.page.url.endswith(f"page.html{address}")


def test_the_address_holds_the_view(opened):
    box = opened("#choices.set=kinds+%26+more&choices.levels=cut~32~soon")
    check(box, "kinds & more", ("cut", "32", "soon"), {"NMF <V>": "70.0", "R-MAC": "60.0"})


def test_two_views_and_a_phone(opened):
    first = opened(copies=2)
    second = first.page.locator(".nmf-choices").nth(1)
    second.locator("select").first.select_option("buildings")
    check(second, "buildings", ("whole", "4", "late"), {"NMF <V>": "31.0"})
    check(first, "kinds & more", START, {"NMF <V>": "49.0", "R-MAC": "60.0"})
    assert first.page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("change, message", [
    ({"sets": {}}, "at least one set"),
    ({"sets": {"a": {}}}, r"methods of 'a' are \[\]"),
    ({"sets": {"a": {"GeM": {START: 0.5}}}}, r"are \['GeM'\]; each needs a colour"),
    ({"sets": {"a": {"R-MAC": {}}}}, "'R-MAC' of 'a' was measured at no combination"),
    ({"sets": {"a": {"R-MAC": {("cut", "4"): 0.5}}}}, r"levels \('cut', '4'\); one for each of \['box', 'K', 'stop'\]"),
    ({"sets": {"a": {"R-MAC": {START: 1.5}}}}, "the value 1.5"),
    ({"sets": {"a": {"R-MAC": {START: float("nan")}}}}, "the value nan"),
    ({"start": ("cut", "5", "late"), "sets": {"a": {"NMF <V>": {START: 0.5}}}}, r"measured at \('cut', '5', 'late'\)"),
])
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        choices(**{"sets": SETS, "factors": FACTORS, "colors": COLORS, "start": START, "caption": "x"} | change)


def test_texts_are_escaped():
    html = choices(SETS, factors=FACTORS, colors=COLORS, start=START, caption="a < b").data
    assert "NMF <V>" not in html and "a &lt; b" in html
