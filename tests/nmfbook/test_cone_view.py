"""The view of points in the plane: what it computes is what the library and numpy compute, and it obeys."""

import re

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from test_student_page import visible_hals

from nmfbook.widgets.cone import SWEEPS, cone
from nmfcore import nmf
from nmfcore.factorization import METHODS

RNG = np.random.default_rng(0)
POINTS = RNG.random((12, 2)).round(3)
TITLES = {"nmf": "NMF", "pca": "PCA", "kmeans": "k-means"}
GOLDEN = (5 ** 0.5 - 1) / 2


@pytest.fixture
def opened(show_page):
    def open_page(address="", points=POINTS, copies=1):
        view = cone(points, caption="Rays & <points>", axes=("first", "second"))
        return show_page(*copies * [view], address=address).locator(".nmf-cone").first
    return open_page


def handle(box, i):
    return box.get_by_role("slider", name=f"point {i + 1}", exact=True)


def points_of(box):
    """The points as they are said."""
    texts = [dot.get_attribute("aria-valuetext") for dot in box.locator("svg [role=slider]").all()]
    return np.array([re.fullmatch(r"first ([\d.]+), second ([\d.]+)", text).groups() for text in texts], dtype=float)


def expected(points, K, start, sweeps):
    """The rays and approximations of NMF by the function that the book shows, of the others by the library."""
    A = torch.as_tensor(points, dtype=torch.float64)
    angles = torch.tensor([np.pi / 2 * ((2 * start + k) * GOLDEN % 1) for k in range(K)], dtype=torch.float64)
    V = torch.stack([angles.cos(), angles.sin()], 1)
    def weights(V):
        return torch.tensor(np.array([nnls(V.T.numpy(), a.numpy())[0] for a in A]))
    _, V = visible_hals()(A, weights(V), V, sweeps)
    fits = {method: METHODS[method](A, K, seed=0, **{"n_init": 300} if method == "kmeans" else {})
            for method in ("pca", "kmeans")}
    return {"nmf": (V, weights(V) @ V)} | {method: (fit.V, fit.approximation) for method, fit in fits.items()}


def check(box, K=2, start=1, sweeps=3):
    """Words, numbers and drawings are those of the points shown."""
    points = points_of(box)
    wanted, found = expected(points, K, start, sweeps), box.evaluate("box => box.fits()")
    errors = {}
    for method, (V, approximation) in wanted.items():
        approximation = approximation.numpy()
        np.testing.assert_allclose(found[method]["approximation"], approximation, atol=1e-6)
        order = sorted if method == "kmeans" else list
        np.testing.assert_allclose(order(found[method]["V"]), order(V.tolist()), atol=1e-6)
        errors[method] = np.linalg.norm(points - approximation) / max(np.linalg.norm(points), 1e-9)
        assert found[method]["error"] == pytest.approx(errors[method], abs=1e-6)
        drawing = box.locator(f"svg[data-of={method}]")
        near = np.array([[float(circle.get_attribute(name)) for name in ("cx", "cy")]
                         for circle in drawing.locator("circle.near").all()])
        slope, offset = np.polyfit(approximation[:, 0], near[:, 0], 1) if np.ptp(approximation[:, 0]) else (None, None)
        if slope is not None:  # one scale for both axes, the second upwards
            np.testing.assert_allclose(near[:, 0], slope * approximation[:, 0] + offset, atol=1e-3)
            assert np.ptp(near[:, 1] + slope * approximation[:, 1]) < 1e-3
    told = f"{sweeps} sweep{'s' * (sweeps != 1)}"
    off = int((np.linalg.norm(points - wanted["nmf"][1].numpy(), axis=1) > 1e-3).sum())
    assert box.locator("p").inner_text().replace("\u00a0", " ") == (
        f"Error, K = {K}: NMF after {told}, start {start}, {100 * errors['nmf']:.1f} %, {off} of {len(points)} points "
        f"off its {'ray' if K == 1 else 'cone'}; PCA {100 * errors['pca']:.1f} %; "
        f"k-means {100 * errors['kmeans']:.1f} %.")
    assert box.locator("output").inner_text() == told
    assert box.locator("[aria-pressed=true]").inner_text() == f"K = {K}"
    assert [text.replace("\u00a0", " ") for text in box.locator("b").all_inner_texts()] == [
        f"{title} {100 * errors[method]:.1f} %" for method, title in TITLES.items()]
    return errors


def drag(page, dot, by):
    frame = dot.bounding_box()
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + by[0], y + by[1], steps=3)
    page.mouse.up()
    page.mouse.move(5, 5)


@pytest.mark.parametrize("points", [POINTS, RNG.random((3, 2)), RNG.random((14, 2)) ** 3,
                                    [[0, 0.5], [0.25, 0], [1, 1], [0, 0]], [[0.5, 0.25], [0.5, 0.25], [1, 0.5]]])
def test_the_numbers_are_those_of_the_library(opened, points):
    box = opened(points=points)
    slider = box.get_by_role("slider", name="sweeps of NMF")
    for K, start, presses in ((2, 1, 4), (1, 1, 3), (1, 2, 2), (2, 2, 0)):
        if start == 2 and K == 1:
            box.get_by_role("button", name="another start").click()
        box.get_by_role("button", name=f"K = {K}").click()
        slider.press("Home")
        for place in range(presses):
            check(box, K, start, SWEEPS[place])
            slider.press("ArrowRight")
    slider.press("End")
    errors = check(box, 2, 2, 1000)
    assert errors["pca"] == pytest.approx(0, abs=1e-9)


def test_at_the_end_nmf_is_the_librarys(opened):
    box = opened()
    box.get_by_role("slider", name="sweeps of NMF").press("End")
    best = min(float(nmf(torch.tensor(POINTS), 2, seed=seed, max_iter=1000, tol=0).error) for seed in range(3))
    assert check(box, sweeps=1000)["nmf"] == pytest.approx(best, abs=1e-3)
    box.get_by_role("button", name="K = 1").click()
    errors = check(box, K=1, sweeps=1000)
    assert errors["nmf"] == pytest.approx(errors["pca"], abs=1e-6)  # Perron and Frobenius


def test_points_follow_mouse_and_keys(opened):
    box = opened()
    page, dot = box.page, handle(box, 4)
    scale = box.locator("svg[data-of=nmf]").bounding_box()["width"] / 340 * 300  # pixels for a unit
    toward = np.array([0.4, 0.6]) - POINTS[4]
    drag(page, dot, (scale * toward[0], -scale * toward[1]))
    moved = points_of(box)
    assert moved[4] == pytest.approx([0.4, 0.6], abs=0.02) and (np.delete(moved, 4, 0) == np.delete(POINTS, 4, 0)).all()
    check(box)
    drag(page, dot, (-scale, scale))  # no further than the corner of the quadrant
    assert points_of(box)[4].tolist() == [0, 0]
    check(box)
    dot.focus()
    for key, step in (("ArrowUp", (0, 0.01)), ("Shift+ArrowRight", (0.05, 0)), ("ArrowLeft", (-0.01, 0)),
                      ("ArrowDown", (0, -0.01)), ("ArrowDown", (0, 0))):
        before = points_of(box)
        page.keyboard.press(key)
        assert points_of(box)[4] == pytest.approx(before[4] + step), key
    check(box)
    assert page.evaluate("scrollY") == 0
    box.get_by_role("button", name="reset points").click()
    assert (points_of(box) == POINTS).all() and box.get_by_role("button", name="reset points").is_disabled()
    check(box)


def test_the_state_is_in_the_address(opened):
    box = opened()
    assert "#" not in box.page.url
    handle(box, 0).press("ArrowUp")
    assert "#cone.points=" in box.page.url
    box.get_by_role("button", name="K = 1").click()
    box.get_by_role("slider", name="sweeps of NMF").press("ArrowRight")
    box.get_by_role("button", name="another start").click()
    moved = points_of(box)
    text = ".".join("-".join(str(round(1000 * x)) for x in point) for point in moved)
    assert set(box.page.url.partition("#")[2].split("&")) == {
        "cone.K=1", "cone.sweeps=4", "cone.start=2", f"cone.points={text}"}
    shared = opened(box.page.url.partition("page.html")[2])
    assert (points_of(shared) == moved).all()
    check(shared, K=1, start=2, sweeps=4)
    shared.page.get_by_role("link", name="down").click()
    check(shared, K=1, start=2, sweeps=4)  # a place of the page is no state
    shared.page.evaluate("location.hash = 'cone.sweeps=100'")
    shared.page.wait_for_function("document.querySelector('output').value == '100 sweeps'")
    assert (points_of(shared) == POINTS).all()
    check(shared, sweeps=100)


@pytest.mark.parametrize("address", [
    "#end", "#%", "#cone.K=3&cone.sweeps=12&cone.start=1.5", "#cone.points=1-2.3-4",
    *("#cone.points=" + ".".join([point] * 12) for point in ("1-1001", "x-1", ""))])
def test_a_bad_address_is_none(opened, address):
    box = opened(address)
    assert (points_of(box) == POINTS).all()
    check(box)


def test_two_views_share_a_page(opened):
    box = opened(copies=2)
    other = box.page.locator(".nmf-cone").nth(1)
    handle(other, 2).press("Shift+ArrowLeft")
    other.get_by_role("button", name="K = 1").click()
    assert (points_of(box) == POINTS).all() and (points_of(other) != POINTS).any()
    check(box)
    check(other, K=1)


def test_the_view_escapes_and_repeats_itself():
    nasty = "<b>\"K\" & 'M'</b></script>"
    html, again = (cone(POINTS, caption=nasty, axes=(nasty, "y")).data for _ in range(2))
    assert "<b>\"" not in html and html.count("</script>") == 1
    assert html == again and len(html) < 30_000


@pytest.mark.parametrize("points, options, message", [
    (POINTS[:2], {}, r"3 to 14 rows of two numbers, got shape \(2, 2\)"),
    (np.ones((15, 2)), {}, r"got shape \(15, 2\)"),
    (POINTS.T, {}, r"got shape \(2, 12\)"),
    (POINTS - 0.9, {}, r"must lie in \[0, 1\]"),
    (POINTS * np.nan, {}, r"must lie in \[0, 1\]"),
    (np.zeros((3, 2)), {}, "one of them off the origin"),
    (POINTS, {"axes": ("x",)}, "axes must be two names"),
    (POINTS, {"axes": ("x", " ")}, "axes must be two names"),
    (POINTS, {"sweeps": 12}, "sweeps 12 must be one of"),
])
def test_bad_points(points, options, message):
    with pytest.raises(ValueError, match=message):
        cone(points, caption="c", **options)
