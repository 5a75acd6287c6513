"""The view of a film under two heatmaps: what is drawn is nmfcore's overlay, of the frame and the ways in question."""

import re
from base64 import b64decode
from html import unescape
from io import BytesIO
from json import loads

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from nmfbook.widgets.scrub import Scrubbed, scrub
from nmfcore.heatmaps import overlay

NASTY, WAYS, FACTORS = "a <film> & 'b'", ("joint", "one & <one>", "stream"), 3


def made(count, seed=0, **changes):
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, size=(count, 4, 6, 3), dtype=np.uint8)
    maps = {way: generator.random((count, FACTORS, 5, 7)) ** 3 for way in WAYS}
    scores = {way: np.r_[np.nan, generator.random(count - 1).round(2)] for way in WAYS}
    return Scrubbed(**{"frames": small.repeat(20, 1).repeat(20, 2), "maps": maps, "scores": scores} | changes)


FILMS = {NASTY: made(4), "other": made(3, seed=1)}


def view():
    return scrub(FILMS, score="the score", caption="Maps & <frames>")


@pytest.fixture
def opened(show_page):
    def open_page(address="", copies=1):
        return show_page(*copies * [view()], address=address).locator(".nmf-scrub").first
    return open_page


def decoded(film, frame):
    """A frame as the page has it: (1, 3, H, W) in [0, 1]."""
    data = loads(unescape(re.search(r'data-view="([^"]*)"', view().data)[1]))["films"][film]["frames"][frame - 1]
    image = Image.open(BytesIO(b64decode(data.split(",")[1]))).convert("RGB")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def check(box, film, frame, left="joint", right=WAYS[1], only=0):
    """Both canvases show the overlay of the frame, and the words and the bars tell its scores."""
    words = box.locator("p")
    box.page.wait_for_function("([p, start]) => p.textContent.startsWith(start)",
                               arg=[words.element_handle(), f"Frame {frame} of {len(FILMS[film].frames)}."])
    told = []
    for side, way in zip(box.locator(".side").all(), (left, right), strict=True):
        assert side.locator("select").input_value() == way
        canvas = side.locator("canvas")
        seen = canvas.evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
        picture = decoded(film, frame)
        maps = torch.tensor(FILMS[film].maps[way][frame - 1])[None].float()
        maps = interpolate(maps, size=picture.shape[2:], mode="bilinear")
        if only:
            maps = maps * (torch.arange(FACTORS) == only - 1)[None, :, None, None]
        expected = 255 * overlay(picture, maps)[0].permute(1, 2, 0).numpy()
        seen = np.reshape(seen, (*expected.shape[:2], 4))
        assert np.abs(seen[..., :3] - expected).max() < 4 and (seen[..., 3] == 255).all()
        assert canvas.get_attribute("aria-label") == f"{film}, frame {frame} in grey under heatmaps, {way}"
        scores = FILMS[film].scores[way]
        heights = side.locator("rect").evaluate_all("all => all.map(bar => +bar.getAttribute('height'))")
        assert heights == pytest.approx(np.nan_to_num(scores), abs=1e-3)
        assert side.locator("rect").evaluate_all("all => all.findIndex(bar => bar.matches('.now'))") == frame - 1
        told.append(f"{way} {'none' if frame == 1 else format(scores[frame - 1], '.2f')}")
    slider = box.get_by_role("slider")
    assert slider.get_attribute("aria-valuetext") == f"frame {frame} of {len(FILMS[film].frames)}"
    assert slider.input_value() == str(frame) and slider.get_attribute("max") == str(len(FILMS[film].frames))
    assert words.inner_text().split(". ", 1)[1] == f"The score: {', '.join(told)}."


def test_the_slider_obeys_mouse_and_keyboard(opened):
    box = opened()
    check(box, NASTY, 1)
    slider = box.get_by_role("slider")
    slider.press("ArrowRight")
    check(box, NASTY, 2)
    slider.press("End")
    check(box, NASTY, 4)
    place = slider.bounding_box()
    box.page.mouse.click(place["x"] + 2, place["y"] + place["height"] / 2)
    check(box, NASTY, 1)


def test_choices_of_film_way_and_factor(opened):
    box = opened()
    left, right = box.locator(".side select").all()
    box.get_by_role("slider").press("End")
    box.locator("[data-of=factor]").select_option("factor 2")
    check(box, NASTY, 4, only=2)
    left.select_option("stream")
    right.select_option("joint")
    box.locator("[data-of=factor]").select_option("all factors")
    check(box, NASTY, 4, "stream", "joint")
    box.locator("[data-of=film]").select_option("other")  # which is shorter
    check(box, "other", 3, "stream", "joint")


def test_it_plays_round_and_round_until_it_is_stopped(opened):
    box = opened()
    check(box, NASTY, 1)
    button, words, slider = box.get_by_role("button"), box.locator("p"), box.get_by_role("slider")
    seen = "window.seen = new Set(); new MutationObserver(() => seen.add(p.textContent.slice(0, 12)))"
    box.page.evaluate(f"p => {{ {seen}.observe(p, {{childList: true}}) }}", words.element_handle())
    button.press("Enter")
    assert button.inner_text() == "pause" and words.get_attribute("aria-live") == "off"
    box.page.wait_for_function("seen.size == 4")  # the last frame and the first again
    button.click()
    assert button.inner_text() == "play" and words.get_attribute("aria-live") == "polite"
    stopped = int(slider.input_value())
    box.page.wait_for_timeout(600)
    check(box, NASTY, stopped)
    button.click()
    slider.press("Home")  # to scrub is to stop
    assert button.inner_text() == "play"
    box.page.wait_for_timeout(600)
    check(box, NASTY, 1)


def test_the_address_holds_what_is_seen(opened):
    box = opened()
    box.locator("[data-of=film]").select_option("other")
    box.locator(".side select").nth(1).select_option("stream")
    box.locator("[data-of=factor]").select_option("factor 3")
    box.get_by_role("slider").press("ArrowRight")
    check(box, "other", 2, right="stream", only=3)
    address = box.page.evaluate("location.hash")
    assert address == "#scrub.film=other&scrub.left=joint&scrub.right=stream&scrub.factor=3&scrub.frame=2"
    check(opened(address), "other", 2, right="stream", only=3)
    box.page.evaluate("location.hash = 'scrub.film=other&scrub.left=stream&scrub.right=joint&scrub.frame=3'")
    check(box, "other", 3, "stream", "joint")
    for nonsense in ("#end", "#scrub.film=x&scrub.left=joint&scrub.right=joint",
                     "#scrub.film=other&scrub.left=joint&scrub.right=x&scrub.frame=2"):
        check(opened(nonsense), NASTY, 1)
    check(opened("#scrub.film=other&scrub.left=joint&scrub.right=stream&scrub.factor=9&scrub.frame=x"), "other", 1,
          right="stream")


def test_two_views_on_a_page_do_not_meddle(opened):
    first = opened(copies=2)
    second = first.page.locator(".nmf-scrub").nth(1)
    second.get_by_role("slider").press("End")
    second.locator("[data-of=factor]").select_option("factor 1")
    check(first, NASTY, 1)
    check(second, NASTY, 4, only=1)


def test_the_view_repeats_itself_and_escapes_its_texts():
    html = view().data
    assert html == view().data and html.count("</script>") == 1 and "<film>" not in html and "<one>" not in html


def maps_of(value, shape=(4, FACTORS, 5, 7)):
    return dict.fromkeys(WAYS, np.full(shape, value))


@pytest.mark.parametrize("films, message", [
    ({}, "at least one film"),
    ({" ": made(4)}, "a film needs a name"),
    ({"x": made(4, maps={"joint": np.zeros((4, 3, 5, 7))})}, "two ways or more are compared, got joint"),
    ({"x": made(4), "y": made(4, maps=maps_of(0.5) | {"more": maps_of(0)["joint"]})}, "'y' must have maps and scores"),
    ({"x": made(4, scores={})}, "'x' must have maps and scores of joint, one"),
    ({"x": made(4, frames=np.zeros((80, 120, 3), np.uint8))}, r"'x' must have frames .* shape \(80, 120, 3\)"),
    ({"x": made(4, frames=np.zeros((4, 8, 8, 3)))}, "'a frame of x' must be .* uint8"),
    ({"x": made(4, maps=maps_of(1.5))}, r"the maps 'joint' of 'x' must be \(4, K, h, w\) in \[0, 1\]"),
    ({"x": made(4, maps=maps_of(np.nan))}, "the maps 'joint' of 'x'"),
    ({"x": made(4, maps=maps_of(0.5, (3, 3, 5, 7)))}, r"must be \(4, K, h, w\) .* got shape \(3, 3, 5, 7\)"),
    ({"x": made(4, scores=dict.fromkeys(WAYS, np.zeros(3)))}, r"scores 'joint' of 'x' must be 4 numbers .* \(3,\)"),
    ({"x": made(4, scores=dict.fromkeys(WAYS, 2 * np.ones(4)))}, "4 numbers of at most 1"),
    ({"x": made(4), "y": made(4, maps=maps_of(0.5, (4, 2, 5, 7)))}, r"one number of factors, 1 to 8, got \[2, 3\]"),
    ({"x": made(4, maps=maps_of(0.5, (4, 9, 5, 7)))}, r"1 to 8, got \[9\]"),
])
def test_bad_films(films, message):
    with pytest.raises(ValueError, match=message):
        scrub(films, score="s", caption="c")
