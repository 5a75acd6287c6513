"""The views of the pages: texts escaped, the same bytes every time, and in a browser they obey and say what is true."""

import matplotlib

matplotlib.use("agg")

import re
from base64 import b64decode
from functools import cache
from html.parser import HTMLParser
from io import BytesIO
from itertools import combinations, product

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from scipy.optimize import Bounds, LinearConstraint, milp

from nmfbook.widgets import frames, simplex, support_editor


class Elements(HTMLParser):
    """Start tags with their attributes, the text outside them, and whether every tag is closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def figures(n=3):
    made = []
    for k in range(n):
        figure, axis = plt.subplots(figsize=(2, 1))
        axis.plot([0, k, 1])
        made.append(figure)
    return made


def show(n=3, **options):
    return frames(figures(n), **{"labels": [f"K = {k}" for k in range(n)], "alts": [f"curve {k}" for k in range(n)],
                                 "caption": "Curves", **options}).data


@pytest.mark.parametrize("start", [0, 1, 2])
def test_exactly_one_figure_is_visible(start):
    page = Elements(show(start=start))
    assert page.open == []
    shown = [figure["data-label"] for figure in page.of("figure") if "hidden" not in figure]
    assert len(page.of("figure")) == 3 and shown == [f"K = {start}"]
    slider, = page.of("input")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "2", str(start))
    assert slider["aria-valuetext"] == shown[0] and slider["aria-label"] == "Curves"
    assert page.texts[0] == shown[0]


def test_a_single_figure_has_no_slider():
    page = Elements(show(1))
    assert page.of("input") == [] and len(page.of("figure")) == 1 and "hidden" not in page.of("figure")[0]


def test_every_frame_is_an_embedded_image_with_its_text():
    page = Elements(show())
    assert [image["alt"] for image in page.of("img")] == ["curve 0", "curve 1", "curve 2"]
    assert len({image["src"] for image in page.of("img")}) == 3
    for image in page.of("img"):
        kind, data = image["src"].split(",")
        assert kind == "data:image/webp;base64"
        assert Image.open(BytesIO(b64decode(data))).size == (220, 110)
    assert "http" not in show() and "<script" not in show()
    assert [text for text in page.texts if "Curves" in text] == [f"K = {k}. Curves" for k in range(3)]


def test_texts_are_escaped():
    nasty = "<b>\"K\" & 'M'</b> > 1"
    html = show(2, labels=[nasty] * 2, alts=[nasty] * 2, caption=nasty)
    page = Elements(html)
    assert "<b>" not in html and {tag for tag, _ in page.tags} == {"div", "label", "output", "input", "figure", "img",
                                                                   "figcaption"}
    assert page.of("img")[0]["alt"] == page.of("figure")[0]["data-label"] == page.of("input")[0]["aria-label"] == nasty
    assert page.texts[0] == nasty


def test_the_script_survives_escaping():
    script = Elements(show()).of("input")[0]["oninput"]
    assert "this.closest('.nmf-frames')" in script and "frame.hidden = i != this.value" in script


def test_the_output_is_the_same_every_time():
    assert show() == show()


def test_figures_are_closed():
    before = plt.get_fignums()
    show()
    assert plt.get_fignums() == before


@pytest.mark.parametrize("options, message", [
    (dict(labels=["a", "b"]), "3 figures need as many labels .* got 2 and 3"),
    (dict(alts=["a", "b"]), "got 3 and 2"),
    (dict(alts=["a", "", "c"]), "got 3 and 2"),
    (dict(alts=["a", " ", "c"]), "got 3 and 2"),
    (dict(start=-1), r"start -1 must lie in 0\.\.2"),
    (dict(start=3), r"start 3 must lie in 0\.\.2"),
])
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        show(**options)
    plt.close("all")


def test_no_figures_at_all():
    with pytest.raises(ValueError, match="0 figures"):
        show(0)


def rectangles(M):
    """All pairs of a set of rows and a set of columns, neither empty, between which M has only ones."""
    def subsets(indices):
        return [chosen for size in range(1, len(indices) + 1) for chosen in combinations(indices, size)]
    return [(rows, columns) for rows in subsets(range(len(M)))
            for columns in subsets(np.flatnonzero(M[list(rows)].all(0)))]


def cover_number(M):
    if not M.any():
        return 0
    covers = np.array([[i in rows and j in columns for rows, columns in rectangles(M)] for i, j in np.argwhere(M)])
    n = covers.shape[1]
    found = milp(np.ones(n), integrality=np.ones(n), bounds=Bounds(0, 1), constraints=LinearConstraint(covers, 1))
    assert found.status == 0
    return round(found.fun)


def fools(M, cells):
    return all(i != k and j != l and not (M[i, l] and M[k, j]) for (i, j), (k, l) in combinations(cells, 2))


def fooling_number(M):
    """The size of a largest fooling set: all of them are made, row by row."""
    sets = [()]
    for i, row in enumerate(M):
        sets += [(*cells, (i, j)) for cells in sets for j in np.flatnonzero(row) if fools(M, (*cells, (i, j)))]
    return max(map(len, sets))


def rank(M):
    return int(np.linalg.matrix_rank(M))


def random_supports(n=220):
    rng = np.random.default_rng(0)
    return [(rng.random(rng.integers(1, 7, 2)) < rng.uniform(0.2, 0.95)).astype(int) for _ in range(n)]


def solve(M):
    return M, cover_number(M), fooling_number(M), rank(M)


CYCLE = np.eye(4, dtype=int) + np.roll(np.eye(4, dtype=int), 1, 0)  # which corners of a square are off which sides


@cache
def answers():
    """Matrices with their cover number, fooling number and rank: every 3 x 3 one, and random ones up to 6 x 6."""
    matrices = [np.reshape(entries, (3, 3)) for entries in product((0, 1), repeat=9)] + random_supports() + [CYCLE]
    return [solve(M) for M in matrices]


def test_the_answers():
    """Known values and inequalities."""
    assert solve(np.eye(4, dtype=int))[1:] == (4, 4, 4)
    assert solve(1 - np.eye(6, dtype=int))[1:] == (4, 3, 6)  # sets of 2 out of 4 are 6, none of which holds another
    assert solve(CYCLE)[1:] == (4, 4, 3)
    assert len(answers()) == 512 + 220 + 1
    assert all(fooling <= cover <= min(M.shape) and fooling <= r * r for M, cover, fooling, r in answers())
    assert any(fooling < cover for _, cover, fooling, _ in answers())
    assert any(cover < r for _, cover, _, r in answers()) and any(cover > r for _, cover, _, r in answers())


EXAMPLES = {"identity": np.eye(3), "complement": 1 - np.eye(6, dtype=int), "a row": [[1, 0]]}


def editor(**options):
    return support_editor(**{"examples": EXAMPLES, "caption": "Supports", **options})


# What a reader sees: the words, whether each cell is pressed, the numbers drawn into it, and its ring.
DRAWN = """box => ({
    words: box.querySelector('[aria-live=polite]').textContent,
    list: [...box.querySelectorAll('li')].map(item => item.textContent),
    cells: [...box.querySelectorAll('.grid button')].map(button => ({
        at: [+button.dataset.i, +button.dataset.j], one: button.getAttribute('aria-pressed') == 'true',
        label: button.getAttribute('aria-label'), ring: getComputedStyle(button).boxShadow != 'none',
        marks: [...button.querySelectorAll('b')].map(b => +b.textContent)}))})"""


def check_drawn(drawn, M, cover, fooling, r):
    """The drawing is of M, its rectangles cover the ones and nothing else, its rings are a fooling set."""
    assert [cell["at"] for cell in drawn["cells"]] == [list(index) for index in np.ndindex(M.shape)]
    assert [cell["one"] for cell in drawn["cells"]] == M.ravel().astype(bool).tolist()
    numbers = re.fullmatch(r"Fooling set \(ringed\): (\d+) ≤ rectangle cover number rc = (\d+)\. "
                           r"Rank over the reals:\s(\d+)\.", drawn["words"])
    assert numbers and [int(n) for n in numbers.groups()] == [fooling, cover, r], (M, drawn["words"])
    drawn_sets, union = [], np.zeros_like(M)
    for k in range(1, cover + 1):
        cells = [cell["at"] for cell in drawn["cells"] if k in cell["marks"]]
        rows, columns = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
        assert cells == [list(pair) for pair in product(rows, columns)] != [], f"{k} is no rectangle of {M}"
        union[np.ix_(rows, columns)] = 1
        one_based = ["{" + ", ".join(str(i + 1) for i in indices) + "}" for indices in (rows, columns)]
        drawn_sets.append(f"{k}rows {one_based[0]} × columns {one_based[1]}")
    assert (union == M).all()
    assert drawn["list"] == drawn_sets
    rings = [cell["at"] for cell in drawn["cells"] if cell["ring"]]
    assert len(rings) == fooling and fools(M, rings) and all(M[i, j] for i, j in rings)
    for cell in drawn["cells"]:
        assert sorted(set(cell["marks"])) == cell["marks"] and set(cell["marks"]) <= set(range(1, cover + 1))
        (i, j), inside = cell["at"], " and ".join(map(str, cell["marks"]))
        assert cell["label"] == (f"row {i + 1}, column {j + 1}" + f": rectangle {inside}" * bool(inside)
                                 + ", in the fooling set" * cell["ring"])


def test_the_editor_agrees_with_brute_force(show_page):
    page = show_page(editor())
    everything = page.locator(".nmf-support").evaluate(
        f"(box, matrices) => matrices.map(M => {{ box.load(M); return ({DRAWN})(box); }})",
        [M.tolist() for M, *_ in answers()])
    for drawn, known in zip(everything, answers(), strict=True):
        check_drawn(drawn, *known)


def test_the_editor_does_not_lie_when_its_search_is_cut_short(show_page):
    page = show_page(editor())
    inexact = 0
    for budget in (1, 3, 10):
        solved = page.locator(".nmf-support").evaluate(
            "(box, [matrices, budget]) => matrices.map(M => box.solve(M, budget))",
            [[M.tolist() for M, *_ in answers()], budget])
        for found, (M, cover, fooling, r) in zip(solved, answers(), strict=True):
            union = np.zeros_like(M)
            for rectangle in found["cover"]:
                union[np.ix_(rectangle["rows"], rectangle["columns"])] = 1
            assert (union == M).all() and found["rank"] == r and fools(M, found["fooling"])
            assert found["least"] <= cover <= len(found["cover"]) <= len(M)
            assert not found["exact"] or found["least"] == cover == len(found["cover"])
            assert len(found["fooling"]) == fooling if found["surely"] else len(found["fooling"]) <= fooling
            inexact += not found["exact"]
    assert inexact
    hurried = editor(examples={"complement": 1 - np.eye(7)})
    assert "300000" in hurried.data
    hurried.data = hurried.data.replace("300000", "1")
    words = show_page(hurried).locator(".nmf-support p").inner_text()
    least, most = map(int, re.search(r"rc at least (\d), at most (\d), the search was cut short", words).groups())
    assert "at least" in words.partition("≤")[0] and least <= 5 <= most == 7


def test_the_editor_is_quick_on_a_hard_matrix(show_page):
    """The complement of the identity: four rectangles almost suffice, so that ruling them out takes the longest."""
    spent, solved = show_page(editor()).locator(".nmf-support").evaluate(
        "(box, M) => { const start = performance.now(), s = box.solve(M); return [performance.now() - start, s]; }",
        (1 - np.eye(7, dtype=int)).tolist())
    assert solved["exact"] and solved["surely"] and len(solved["cover"]) == 5 and len(solved["fooling"]) == 3
    assert spent < 2000  # about 0.1 s on an idle machine


def test_the_editor_obeys_mouse_and_keyboard(show_page):
    box = show_page(editor()).locator(".nmf-support")
    M = np.eye(3, dtype=int)
    check_drawn(box.evaluate(DRAWN), *solve(M))

    box.get_by_role("button", name="row 1, column 2").click()
    M[0, 1] = 1
    check_drawn(box.evaluate(DRAWN), *solve(M))
    assert box.locator("select").input_value() == ""
    box.page.evaluate("addEventListener('keydown', event => { window.scrolls = !event.defaultPrevented; })")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowLeft"):  # the third leads nowhere
        box.page.keyboard.press(key)
        assert not box.page.evaluate("scrolls")
    box.page.keyboard.press("Space")
    M[2, 0] = 1
    check_drawn(box.evaluate(DRAWN), *solve(M))
    for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Enter"):
        box.page.keyboard.press(key)
    M[1, 2] = 1
    check_drawn(box.evaluate(DRAWN), *solve(M))
    assert box.locator(".grid button[tabindex='0']").count() == 1
    box.get_by_role("button", name="row 2, column 3").click()
    M[1, 2] = 0
    check_drawn(box.evaluate(DRAWN), *solve(M))

    box.get_by_role("button", name="add a row").click()
    box.get_by_role("button", name="add a column").click()
    M = np.pad(M, ((0, 1), (0, 1)))
    check_drawn(box.evaluate(DRAWN), *solve(M))
    box.get_by_role("button", name="row 4, column 4").click()
    M[3, 3] = 1
    check_drawn(box.evaluate(DRAWN), *solve(M))
    box.get_by_role("button", name="remove the last column").click()
    M = M[:, :-1]
    check_drawn(box.evaluate(DRAWN), *solve(M))
    for name in ("complement", "identity"):  # the first click changed no example
        box.locator("select").select_option(name)
        check_drawn(box.evaluate(DRAWN), *solve(np.array(EXAMPLES[name], dtype=int)))


def address(box):
    return box.page.evaluate("location.hash")


def test_the_address_holds_the_editors_matrix(show_page):
    box = show_page(editor()).locator(".nmf-support")
    box.get_by_role("button", name="row 1, column 2").click()
    assert address(box) == "#support.rows=110.010.001"
    for key in ("ArrowDown", "ArrowDown", "Space"):
        box.page.keyboard.press(key)
    assert address(box) == "#support.rows=110.010.011"
    box.get_by_role("button", name="add a column").press("Enter")
    assert address(box) == "#support.rows=1100.0100.0110"
    M = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0]])
    shared = show_page(editor(), address=address(box)).locator(".nmf-support")
    check_drawn(shared.evaluate(DRAWN), *solve(M))
    assert shared.locator("select").input_value() == ""

    box.locator("select").select_option("a row")
    assert address(box) == "#support.example=a+row"
    shared = show_page(editor(), address=address(box)).locator(".nmf-support")
    check_drawn(shared.evaluate(DRAWN), *solve(np.array([[1, 0]])))
    assert shared.locator("select").input_value() == "a row"
    box.locator("select").select_option("identity")  # as at first
    assert address(box) == ""
    box.page.evaluate("location.hash = 'support.rows=11.10'")
    box.page.wait_for_function("document.querySelectorAll('.grid button').length == 4")
    check_drawn(box.evaluate(DRAWN), *solve(np.array([[1, 1], [1, 0]])))
    box.page.get_by_role("link", name="down").click()
    check_drawn(box.evaluate(DRAWN), *solve(np.array([[1, 1], [1, 0]])))


@pytest.mark.parametrize("hash", [
    "#end", "#support.rows=", "#support.rows=12.11", "#support.rows=110.11", "#support.rows=11111111",
    "#support.rows=1.1.1.1.1.1.1.1", "#support.rows=1..1", "#support.example=none", "#support.example=toString"])
def test_the_editor_takes_no_other_address(show_page, hash):
    box = show_page(editor(), address=hash).locator(".nmf-support")
    check_drawn(box.evaluate(DRAWN), *solve(np.eye(3, dtype=int)))
    assert box.locator("select").input_value() == "identity" and address(box) == hash


def test_the_editor_keeps_to_its_sizes(show_page):
    box = show_page(editor()).locator(".nmf-support")
    box.locator("select").select_option("a row")
    remove = box.get_by_role("button", name="remove the last row")
    assert remove.is_disabled()
    for axis in ("row", "column"):
        add = box.get_by_role("button", name=f"add a {axis}")
        while add.is_enabled():
            add.click()
    assert box.locator(".grid button").count() == 49 and remove.is_enabled()
    assert min(button.bounding_box()["width"] for button in box.locator(".grid button").all()) > 40, "too small to hit"


def test_views_stand_side_by_side_and_reach_the_page_late(show_page):
    """JupyterLab sets the HTML of an element, renews the scripts in it and puts it into the page at any time."""
    page = show_page(editor(), editor(), simplex(RAYS, caption="a"), simplex(RAYS, caption="b"))
    page.locator(".nmf-support").nth(1).locator("select").select_option("complement")
    assert [box.locator(".grid button").count() for box in page.locator(".nmf-support").all()] == [9, 36]
    page.locator(".nmf-simplex [type=range]").nth(1).press("Home")
    assert [box.locator("output").inner_text() for box in page.locator(".nmf-simplex").all()] == ["30", "0"]
    page.evaluate("""html => {
        const host = document.createElement('div');
        host.innerHTML = html;
        for (const old of host.querySelectorAll('script')) {
            const script = document.createElement('script');
            script.textContent = old.textContent;
            old.replaceWith(script);
        }
        document.body.append(host);
    }""", editor().data + simplex(RAYS, caption="c").data)
    late = page.locator(".nmf-support").nth(2)  # as the address says by then
    check_drawn(late.evaluate(DRAWN), *solve(1 - np.eye(6, dtype=int)))
    assert page.locator(".nmf-simplex").nth(2).locator("output").inner_text() == "0"


RAYS = np.array([[3, 0, 1, 0.2], [0, 1, 1, 0.5], [0.1, 0, 0.5, 2]])


def read(box):
    """The numbers shown: prior and posterior weights and their entropies."""
    texts = box.locator("data").all_inner_texts()
    assert all(re.fullmatch(r"\d\.\d\d", text) for text in texts)
    return np.array([float(text) for text in texts]).reshape(2, 4)


def expected(V, a, z, kappa):
    """The same in numpy, with the vectors themselves, and exact to rounding."""
    V, prior, z = np.asarray(V, float), np.asarray(a) / np.sum(a), np.asarray(z) @ V
    units = V / np.linalg.norm(V, axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        log = np.log(prior) + kappa * units @ (z / np.linalg.norm(z))
    posterior = np.exp(log - log.max()) / np.exp(log - log.max()).sum()
    return np.array([[*p, -(p[p > 0] * np.log2(p[p > 0])).sum()] for p in (prior, posterior)])


def near(shown, wanted):
    return shown == pytest.approx(wanted, abs=0.00501)


@pytest.mark.parametrize("V", [RAYS, np.eye(3), RAYS[[0, 0, 0]] * [[1], [2], [5]]])
def test_the_weights_agree_with_numpy(show_page, V):
    kappas = (0, 0.5, 2, 10, 50, 1000, 1e6)
    box = show_page(simplex(V, concentrations=kappas, caption="rays")).locator(".nmf-simplex")
    slider, rng = box.locator("[type=range]"), np.random.default_rng(0)
    places = [*rng.dirichlet([1, 1, 1], (4, 2)), [[0, 0.5, 0.5], [1, 0, 0]], [[0, 0, 1], [1, 0, 0]]]
    slider.press("Home")
    for kappa in kappas:
        assert box.locator("output").inner_text() == slider.get_attribute("aria-valuetext") == f"{kappa:.9g}"
        for linked in (True, False):
            box.get_by_role("checkbox").set_checked(not linked)
            for a, z in np.asarray(places).tolist():
                box.evaluate("(box, [a, z]) => { Object.assign(box.points, {a, z}); box.draw(); }", [a, z])
                shown = read(box)
                assert near(shown, expected(V, a, a if linked else z, kappa)), (kappa, a, z, linked)
                words = [float(number) for number in re.findall(r"([\d.]+) bits", box.locator("p").inner_text())]
                assert words == shown[:, 3].tolist()
                tracks = box.locator(".bars div").evaluate_all(
                    "bars => bars.map(e => e.firstChild.getBoundingClientRect().width / e.clientWidth)")
                assert np.reshape(tracks, (2, 4)) * [1, 1, 1, np.log2(3)] == pytest.approx(shown, abs=0.02)
        slider.press("ArrowRight")


def test_the_sample_decides_only_when_concentrated(show_page):
    box = show_page(simplex(RAYS, caption="rays")).locator(".nmf-simplex")
    box.locator("[type=range]").press("Home")
    prior, posterior = read(box)
    assert (prior == posterior).all() and prior[:3].max() < 0.5
    box.locator("[type=range]").press("End")
    assert (read(box)[0] == prior).all() and read(box)[1, :3].max() > 0.99 and read(box)[1, 3] < 0.1


def middle(locator):
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_handles_follow_mouse_finger_and_keys(show_page):
    page = show_page(simplex(RAYS, concentrations=(0, 10), caption="rays"))
    box, mouse = page.locator(".nmf-simplex"), page.mouse
    activation, sample = box.get_by_role("slider", name="activation"), box.get_by_role("slider", name="sample")
    corners = [middle(corner) for corner in box.locator("svg > circle").all()]
    assert len(corners) == 3 and near(read(box), expected(RAYS, [0.45, 0.35, 0.2], [0.45, 0.35, 0.2], 10))

    def drag(handle, x, y):
        mouse.move(*middle(handle))
        mouse.down()
        mouse.move(x, y, steps=3)
        mouse.up()
        mouse.move(x + 9, y + 9, steps=3)  # without a button: nothing follows

    for w in ([0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0, 1, 0]):
        drag(activation, *(np.array(w) @ corners))
        assert box.evaluate("box => box.points.a") == pytest.approx(w, abs=0.02)
        assert middle(activation) == pytest.approx(np.array(w) @ corners, abs=2)
        assert near(read(box), expected(RAYS, *[box.evaluate("box => box.points.a")] * 2, 10))
        assert middle(sample) == pytest.approx(middle(activation), abs=1)
        assert activation.get_attribute("aria-valuetext") == ", ".join(f"V{k + 1} {read(box)[0, k]:.0%}".replace(
            "%", " %") for k in range(3))
    drag(activation, corners[0][0], 1)  # above the triangle
    assert box.evaluate("box => box.points.a") == pytest.approx([1, 0, 0], abs=0.01)

    assert sample.get_attribute("tabindex") == "-1"
    box.get_by_role("checkbox").check()
    drag(sample, *corners[2])
    points = box.evaluate("box => box.points")
    assert points["z"] == pytest.approx([0, 0, 1], abs=0.02) and points["a"] == pytest.approx([1, 0, 0], abs=0.01)

    page.keyboard.press("Tab")  # from the checkbox, which had the focus
    activation.focus()
    for key in ("ArrowDown", "Shift+ArrowDown", "ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowDown"):
        before = middle(activation)
        page.keyboard.press(key)
        step = np.subtract(middle(activation), before)
        along = {"Down": (0, 1), "Up": (0, -1), "Left": (-1, 0), "Right": (1, 0)}[key.partition("Arrow")[2]]
        assert step @ along > 2 and abs(step @ along[::-1]) < 0.5, key
    points = box.evaluate("box => box.points")
    assert near(read(box), expected(RAYS, points["a"], points["z"], 10))
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+ArrowUp")
    assert box.evaluate("box => box.points.z[0]") > points["z"][0]

    page.add_style_tag(content="body { height: 3000px; }")  # a finger elsewhere would scroll
    touch = page.context.new_cdp_session(page)
    path = np.linspace(middle(activation), np.array([0.1, 0.3, 0.6]) @ corners, 9)
    for kind, at in (("Start", path[:1]), *(("Move", [point]) for point in path), ("End", [])):
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": [dict(x=x, y=y) for x, y in at]})
    assert box.evaluate("box => box.points.a") == pytest.approx([0.1, 0.3, 0.6], abs=0.03)


def test_the_address_holds_the_triangle(show_page):
    view = simplex(RAYS, concentrations=(0, 0.5, 10), caption="rays")

    def opened(hash=""):
        return show_page(view, address=hash).locator(".nmf-simplex")

    def state(box):
        return box.evaluate("box => [box.querySelector('output').value, box.points, "
                            "box.querySelector('[type=checkbox]').checked]")

    box = opened()
    mouse, start = box.page.mouse, state(box)
    activation, sample = box.get_by_role("slider", name="activation"), box.get_by_role("slider", name="sample")
    corners = np.array([middle(corner) for corner in box.locator("svg > circle").all()])
    box.locator("[type=range]").press("End")
    assert address(box) == "#simplex.kappa=10"
    mouse.move(*middle(activation))
    mouse.down()
    mouse.move(*(np.array([0.1, 0.6, 0.3]) @ corners), steps=3)
    assert address(box) == "#simplex.kappa=10", "browsers allow few changes a second"
    mouse.up()
    kappa, a = re.fullmatch(r"#simplex\.kappa=(\d+)&simplex\.a=(\d+-\d+-\d+)", address(box)).groups()
    assert kappa == "10" and [int(w) for w in a.split("-")] == pytest.approx([100, 600, 300], abs=10)
    shared = opened(address(box))
    assert state(shared) == state(box) and (read(shared) == read(box)).all()

    box.get_by_role("checkbox").press("Space")
    assert address(box).endswith(f"{a}&simplex.z=150-250-600")
    sample.focus()
    box.page.keyboard.press("Shift+ArrowLeft")
    assert not address(box).endswith("150-250-600")
    shared = opened(address(box))
    assert state(shared) == state(box) and (read(shared) == read(box)).all()
    assert near(read(shared), expected(RAYS, *state(box)[1].values(), 10))
    box.get_by_role("checkbox").uncheck()
    assert address(box) == f"#simplex.kappa=10&simplex.a={a}"

    box.page.evaluate("location.hash = 'simplex.kappa=0&simplex.z=1-0-0'")
    box.page.wait_for_function("document.querySelector('output').value == '0'")
    assert state(box) == ["0", {"a": start[1]["a"], "z": [1, 0, 0]}, True]
    box.locator("[type=range]").press("ArrowRight")
    box.get_by_role("checkbox").uncheck()
    assert address(box) == "" and state(box) == [start[0], {"a": start[1]["a"], "z": [1, 0, 0]}, False]
    for nonsense in ("#end", "#simplex.kappa=7", "#simplex.kappa=", "#simplex.a=0-0-0", "#simplex.a=1-2",
                     "#simplex.z=1-2-x", "#simplex.a=-1-1-1"):
        assert state(opened(nonsense)) == start, nonsense
    box = opened("#end")
    box.get_by_role("slider", name="activation").focus()
    box.page.keyboard.press("Tab")
    assert address(box) == "#end", "nothing has been moved"


@pytest.mark.parametrize("view", [editor(), simplex(RAYS, caption="Supports")])
def test_a_view_is_one_captioned_figure_by_itself(view):
    page = Elements(view.data)
    assert page.tags[0][1]["data-lm-suppress-shortcuts"] == "true"  # or JupyterLab keeps the arrow keys to itself
    assert page.tags[0][0] == "figure" and len(page.of("figure")) == len(page.of("figcaption")) == 1
    assert "Supports" in page.texts and "http" not in view.data and "src=" not in view.data
    assert [e["aria-live"] for _, e in page.tags if "aria-live" in e] == ["polite"]
    assert any(e.get("aria-label") == "Supports" for _, e in page.tags)


def test_the_views_escape_and_repeat_themselves():
    nasty = "<b>\"K\" & 'M'</b></script>"
    for make in (lambda: editor(examples={nasty: [[1]]}, caption=nasty), lambda: simplex(RAYS, caption=nasty)):
        assert "<b>\"" not in make().data and make().data.count("</script>") == 1
        assert nasty in Elements(make().data).texts and make().data == make().data
    option, _ = Elements(editor(examples={nasty: [[1]]}).data).of("option")
    assert option["value"] == nasty


def test_the_reader_can_choose_an_oddly_named_example(show_page):
    nasty = "<b>\"K\" & 'M'</b></script>"
    box = show_page(editor(examples={"plain": [[1]], nasty: [[0, 1], [1, 1]]}, caption=nasty)).locator(".nmf-support")
    box.locator("select").select_option(nasty)
    check_drawn(box.evaluate(DRAWN), *solve(np.array([[0, 1], [1, 1]])))
    assert box.locator("figcaption").inner_text() == nasty


@pytest.mark.parametrize("examples, message", [
    ({}, "at least one example"),
    ({" ": [[1]]}, "needs a name"),
    ({"x": [1, 0]}, r"'x' must be a matrix of 1 to 7 rows and columns, got shape \(2,\)"),
    ({"x": np.ones((8, 2))}, r"got shape \(8, 2\)"),
    ({"x": np.ones((2, 8))}, r"got shape \(2, 8\)"),
    ({"x": np.ones((0, 2))}, r"got shape \(0, 2\)"),
    ({"good": [[1]], "x": [[1, 2]]}, "'x' must have no entries but 0 and 1"),
    ({"x": [[0.5]]}, "0 and 1"),
    ({"x": [[float("nan")]]}, "0 and 1"),
])
def test_bad_supports(examples, message):
    with pytest.raises(ValueError, match=message):
        editor(examples=examples)


@pytest.mark.parametrize("V", [RAYS[:2], RAYS[0], -RAYS, RAYS * [[1], [0], [1]], RAYS * [[1], [np.nan], [1]],
                               np.where(RAYS > 2, np.inf, RAYS), np.zeros((3, 0))])
def test_bad_directions(V):
    with pytest.raises(ValueError, match="three non-negative finite rows"):
        simplex(V, caption="rays")


@pytest.mark.parametrize("kappas", [(), (1,), (1, 1), (2, 1), (-1, 1), (0, np.inf), (0, np.nan), ((0, 1), (1, 2))])
def test_bad_concentrations(kappas):
    with pytest.raises(ValueError, match="concentrations must be"):
        simplex(RAYS, concentrations=kappas, caption="rays")
