"""The student network in the page: it computes what PyTorch and the library compute, obeys, says what goes wrong."""

import ast
import io
import re
import shutil
import subprocess
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_site import SITE
from torch.nn.functional import interpolate

from nmfbook import build, datasets, widgets
from nmfbook.build import notebook_of
from nmfcore.heatmaps import COLORS, heatmaps, overlay
from nmfcore.matching import correlation, match
from nmfcore.networks import pretrained

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINE = Path(widgets.__file__).parent / "student_worker.js"
LEFT = datasets.PHOTOGRAPHS["motorcycle"]()
RIGHT = datasets.EMBEDDED["motorcycle"][1][1][1]()[:, ::-1]
CAT, PORTRAIT = (datasets.PHOTOGRAPHS[name]() for name in ("cat", "portrait"))
SETS = {"motorcycle": [("left", LEFT), ("right", RIGHT)], "two faces": [("cat", CAT), ("portrait", PORTRAIT)]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A site of one page, as it lies on a disk."""
    root = tmp_path_factory.mktemp("site")
    for name in ("book", "_static"):
        (root / name).mkdir()
    (root / "_static" / widgets.WEIGHTS).write_text(widgets.student_weights(), encoding="utf-8")
    return root


@pytest.fixture
def page(browser):
    """A page of a phone's width that keeps its requests and, at the end, has neither failed nor left its folder."""
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(120_000)
    page.faults, page.requests = [], []
    page.on("console", lambda message: message.type in ("error", "warning") and page.faults.append(message.text))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the view is wider than a phone"
    assert page.faults == []
    assert all(url.startswith(("file:", "blob:")) for url in page.requests)
    page.close()


@pytest.fixture
def opened(page, folder):
    """Opens a page with the view, from file://, and returns the view's element."""
    def opened(address="", weights=f"../_static/{widgets.WEIGHTS}", change=lambda html: html, **options):
        view = widgets.student(SETS, caption="What recurs", weights=weights, **options)
        (folder / "book/page.html").write_text(
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f'<title>A page</title><main><h1 id="title">A page</h1><a href="#end">down</a>{change(view.data)}'
            '<p id="end" style="margin-bottom: 2000px">The end</p></main></html>', encoding="utf-8")
        page.goto(f"{(folder / 'book/page.html').as_uri()}{address}")
        page.wait_for_function("document.querySelectorAll('.nmf-student canvas').length >= 2")
        return page.locator(".nmf-student")
    return opened


def settled(box, says):
    """What the view says, once it has finished and says so."""
    box.page.wait_for_function(
        "says => !document.querySelector('.nmf-student').ariaBusy"
        " && new RegExp(says).test(document.querySelector('.nmf-student > p').textContent)", arg=says)
    return words(box)


def words(box):
    return box.locator("> p").inner_text()


def colour(box, K=3, start=1):
    box.locator(".again").click()
    print(settled(box, f"K = {K}, start {start}:"))  # the times, for whoever reads the log


FLOATS = """({data, shape}) => {
    let text = '';
    for (const byte of new Uint8Array(data.buffer, data.byteOffset, data.byteLength)) text += String.fromCharCode(byte);
    return {floats: btoa(text), shape};
}"""


def array(found):
    return torch.from_numpy(np.frombuffer(b64decode(found["floats"]), np.float32).copy()).view(found["shape"])


def maps(box):
    """The maps of each photograph, (K, h, w)."""
    return [array(found) for found in box.evaluate(
        "box => box.photographs().map(({maps: {values, height, width}}) => (" + FLOATS + ")({data: values, "
        "shape: [values.length / height / width, height, width]}))")]


def pictures(box):
    """The canvases, (3, h, w) bytes."""
    shown = box.locator("canvas").evaluate_all("canvases => canvases.map(canvas => canvas.toDataURL())")
    return [torch.from_numpy(rgb(b64decode(data.partition(",")[2]))).permute(2, 0, 1) for data in shown]


def rgb(file):
    return np.array(Image.open(io.BytesIO(file)).convert("RGB"))


def small(image):
    """(3, h, w) in [0, 1], of about as many pixels as the network takes."""
    image = Image.fromarray(np.ascontiguousarray(image))
    scale = 224 / (image.width * image.height) ** 0.5
    size = round(scale * image.width), round(scale * image.height)
    return torch.from_numpy(np.array(image.resize(size, Image.Resampling.LANCZOS))).permute(2, 0, 1) / 255


def give(box, images):
    """Hand (h, w, 3) bytes to the network as photographs; returns the activations of all positions, (N, 512)."""
    found = box.evaluate("""async (box, images) => {
        await box.ready();
        const photographs = images.map(({rgb, width, height}) => {
            const bytes = atob(rgb), pixels = new Uint8ClampedArray(4 * width * height).fill(255);
            for (let i = 0; i < bytes.length; i++) pixels[4 * (i / 3 | 0) + i % 3] = bytes.charCodeAt(i);
            return {pixels, width, height};
        });
        const {seconds} = await box.ask('photographs', photographs), {answer} = await box.ask('activations');
        return {...(""" + FLOATS + """)({data: answer, shape: [answer.length / 512, 512]}), seconds};
    }""", [dict(rgb=b64encode(image.tobytes()).decode(), height=len(image), width=image.shape[1]) for image in images])
    print(f"forward pass of {len(images)} photographs: {found['seconds']:.2f} s")
    return array(found)


def test_every_half_is_decoded(page, browser):
    page.add_script_tag(path=ENGINE)
    found = page.evaluate("Array.from({length: 65536}, (_, half) => number(half))")
    known = np.arange(65536, dtype=np.uint16).view(np.float16).astype(float)
    np.testing.assert_array_equal(found, known)
    assert (np.signbit(found) == np.signbit(known))[~np.isnan(known)].all()


def test_the_engine_is_a_module_of_node():
    if not shutil.which("node"):
        pytest.skip("no node: install it to load the engine without a browser")
    sums = f"const {{product, panels}} = require('{ENGINE}');" \
           "console.log(product([1, 2, 3, 4, 5, 6], panels([1, 1, 0, 2], 2), 2).join())"
    assert subprocess.run(["node", "-e", sums], capture_output=True, text=True, check=True).stdout == "3,4,7,8,11,12\n"


def test_the_activations_are_those_of_pytorch(opened):
    model, preprocess = pretrained("student")
    rng = np.random.default_rng(0)
    images = [(small(LEFT) * 255).round().byte().permute(1, 2, 0).contiguous().numpy(),
              rng.integers(0, 256, (224, 224, 3), dtype=np.uint8), rng.integers(0, 256, (37, 61, 3), dtype=np.uint8),
              rng.integers(0, 256, (1, 16, 3), dtype=np.uint8)]
    found = give(opened(), images)
    with torch.no_grad():
        known = torch.cat([model(preprocess(torch.from_numpy(image).permute(2, 0, 1)[None] / 255))[0].flatten(1).T
                           for image in images])
    assert found.shape == known.shape and known.max() > 1
    assert (found - known).abs().max() < 1e-4 * known.max()


def visible_hals():
    """The function that the chapter on factorizations shows."""
    text = (REPOSITORY / "book" / "factorization.md").read_text(encoding="utf-8")
    code = next(cell.source for cell in notebook_of(text).cells if "def hals" in cell.source)
    function, = (node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    names: dict = {}
    exec(compile(ast.Module([function], []), "factorization.md", "exec"), names)
    return names["hals"]


@pytest.mark.parametrize("K", [1, 3, 6])
def test_nmf_makes_the_sweeps_of_hals(opened, K):
    box, image = opened(), (small(CAT) * 255).byte().permute(1, 2, 0).contiguous().numpy()
    A = give(box, [image]).double()
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.rand(shape, generator=generator) for shape in ((len(A), K), (K, 512)))
    for sweeps in (1, 25):
        answer = box.evaluate("""async (box, [U, V, K, sweeps]) => {
            const given = {K, U: Float32Array.from(U), V: Float32Array.from(V), sweeps, tolerance: -1};  // all of them
            const {answer: {maps: [data], V: found, error, sweeps: done}} = await box.ask('factors', given);
            const floats = """ + FLOATS + """;
            return {maps: floats({data, shape: [K, data.length / K]}), V: floats({data: found, shape: [K, 512]}), error,
                    done};
        }""", [U.T.flatten().tolist(), V.flatten().tolist(), K, sweeps])
        known, rows = visible_hals()(A, U.double(), V.double(), sweeps)
        assert answer["done"] == sweeps
        assert (array(answer["maps"]) - (known / known.amax(0)).T).abs().max() < 1e-3
        assert (array(answer["V"]) - rows).norm() < 1e-3 * rows.norm()
        assert answer["error"] == pytest.approx(float((A - known @ rows).norm() / A.norm()), abs=1e-5)


def drop(box, files):
    """Drop files, (name, bytes), on the view."""
    transfer = box.page.evaluate_handle("""files => {
        const transfer = new DataTransfer();
        for (const [name, data] of files)
            transfer.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name));
        return transfer;
    }""", [(name, b64encode(data).decode()) for name, data in files])
    box.locator(".sheet").dispatch_event("drop", {"dataTransfer": transfer})


def jpeg(image, turned=False):
    """A JPEG file; turned: it lies on its side, and its metadata say so."""
    image, file = Image.fromarray(np.ascontiguousarray(image)), io.BytesIO()
    metadata = image.getexif()
    if turned:
        image, metadata[0x0112] = image.transpose(Image.Transpose.ROTATE_90), 6
    image.save(file, "jpeg", quality=92, exif=metadata)
    return file.getvalue()


def test_dropped_photographs_have_the_maps_of_the_library(opened):
    model, preprocess = pretrained("student")
    box = opened()
    drop(box, [("left.jpg", jpeg(LEFT)), ("right.jpg", jpeg(RIGHT[40:, 100:], turned=True))])
    print(settled(box, "K = 3, start 1:"))
    images = [preprocess(small(rgb(jpeg(image)))) for image in (LEFT, RIGHT[40:, 100:])]
    found, known = maps(box), heatmaps(model, images, 3, layer=preprocess.layer).maps
    assert [each.shape for each in found] == [each.shape for each in known] and found[0].shape != found[1].shape
    assert torch.stack([each.amax((1, 2)) for each in found]).amax(0).tolist() == [1, 1, 1]
    together = correlation(known, [each[match(found, known)] for each in found]).diagonal()
    assert together.min() > 0.98, together
    assert box.locator("select").input_value() == "" and box.locator(".sheet span").all_inner_texts() == [
        "left.jpg", "right.jpg"]
    assert "#" not in box.page.url  # others have not these photographs
    box.locator("select").select_option("motorcycle")
    settled(box, "K = 3, start 1: the network")
    box.locator("select").select_option("")  # the reader's own once more
    settled(box, "K = 3, start 1: the network")
    assert box.locator(".sheet span").first.inner_text() == "left.jpg" and "#" not in box.page.url


def test_the_pictures_are_the_overlays_of_the_library(opened):
    box = opened()
    plain = pictures(box)
    colour(box)

    def check(factors):
        for shown, picture, heat in zip(pictures(box), plain, maps(box), strict=True):
            large = interpolate(heat[None, factors], picture.shape[1:], mode="bilinear", align_corners=False)
            known = overlay(picture[None] / 255, large, colors=[COLORS[k] for k in factors])[0]
            assert (shown / 255 - known).abs().max() < 1.01 / 255

    check([0, 1, 2])
    box.get_by_role("button", name="factor 2").click()
    check([1])
    box.page.mouse.move(0, 0)
    check([1])
    assert box.locator(".faded").all_inner_texts() == ["factor 1", "factor 3"]
    box.get_by_role("button", name="factor 3").hover()
    check([2])
    box.page.mouse.move(0, 0)
    box.get_by_role("button", name="factor 2").click()
    check([0, 1, 2])
    heat = maps(box)[0]
    k, y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    first = box.locator("canvas").first
    frame = first.bounding_box()
    place = {"x": (x + 0.5) / heat.shape[2] * frame["width"], "y": (y + 0.5) / heat.shape[1] * frame["height"]}
    first.click(position=place)
    check([int(k)])
    first.click(position=place)
    check([0, 1, 2])
    tops = [int(top) for top in re.findall(r"factor \d, (\d+)", first.get_attribute("aria-label"))]
    assert tops == (100 * heat.amax((1, 2))).round().int().tolist()


def test_maps_that_are_given_colour_the_photographs_before_anything_is_loaded(opened):
    plain = pictures(opened())
    heat = torch.rand(2, 3, 5, 7, generator=torch.manual_seed(0))
    box = opened(maps=[*heat.numpy()])
    assert "Move K" in words(box) and box.locator(".legend button").count() == 3 and box.locator(".save").is_enabled()
    for shown, picture, given in zip(pictures(box), plain, heat, strict=True):
        large = interpolate(given[None], picture.shape[1:], mode="bilinear", align_corners=False)
        assert (shown / 255 - overlay(picture[None] / 255, large)[0]).abs().max() < 1.01 / 255
    assert not box.page.evaluate("'nmfStudent' in globalThis")
    box.get_by_role("button", name="another start").click()
    settled(box, "K = 3, start 2: the network")
    assert [each.shape[1:] for each in maps(box)] != [(5, 7), (5, 7)]


def test_everything_obeys_the_keyboard(opened):
    box = opened()
    page, slider = box.page, box.locator("[type=range]")
    box.locator("select").focus()
    visited = []
    for _ in range(3):
        page.keyboard.press("Tab")
        visited.append(page.evaluate("document.activeElement.type + document.activeElement.className"))
    assert visited == ["file", "range", "buttonagain"]
    page.keyboard.press("Enter")
    assert "the network took" in settled(box, "K = 3, start 1:")
    first = maps(box)
    page.keyboard.press("Enter")
    assert "the network took" not in settled(box, "K = 3, start 2:")
    assert all(torch.allclose(a, b, atol=0.02) for a, b in zip(first, maps(box), strict=True)), "another order"
    assert not all(torch.equal(a, b) for a, b in zip(first, maps(box), strict=True)), "the same start"
    slider.press("End")
    settled(box, "K = 6, start 2:")
    for K in (5, 4):
        slider.press("ArrowLeft")
        settled(box, f"K = {K}, start 2:")
        assert len(maps(box)[0]) == box.locator(".legend button").count() == K
        assert box.locator("output").inner_text() == str(K)
    assert page.url.endswith("#student.set=motorcycle&student.K=4&student.start=2")
    everything = pictures(box)[0]
    for _ in range(3):  # another start, the picture, the first factor
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "factor 1"
    alone = pictures(box)[0]
    assert (alone != everything).any()
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    assert box.get_by_role("button", pressed=True).all_inner_texts() == ["factor 1"]
    assert torch.equal(pictures(box)[0], alone)
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert torch.equal(pictures(box)[0], everything)
    box.locator("select").focus()
    page.keyboard.press("ArrowDown")
    settled(box, "K = 4, start 2: the network")
    assert box.locator(".sheet span").all_inner_texts() == ["cat", "portrait"]


def test_only_what_is_wanted_last_is_shown(opened):
    box = opened(rank=1)
    box.evaluate("""box => {
        box.said = [];
        new MutationObserver(() => box.said.push(box.querySelector('p').textContent)).observe(
            box.querySelector('p'), {childList: true});
        const slider = box.querySelector('[type=range]');
        for (slider.value = 2; slider.value < 6; slider.value++) slider.dispatchEvent(new Event('input'));
        slider.dispatchEvent(new Event('input'));
    }""")
    settled(box, "K = 6, start 1:")
    assert [said for said in box.evaluate("box => box.said") if said.startswith("K =")] == [words(box)]
    assert len(maps(box)[0]) == 6


def test_the_picture_can_be_saved(opened):
    box = opened()
    save = box.locator(".save")
    assert save.is_disabled()
    colour(box)
    with box.page.expect_download() as download:
        save.click()
    saved = rgb(Path(download.value.path()).read_bytes())
    left, right = (picture.permute(1, 2, 0).numpy() for picture in pictures(box))
    assert download.value.suggested_filename == "nmf_K3.png" and len(saved) == len(left) == len(right)
    assert (saved[:, :left.shape[1]] == left).all() and (saved[:, -right.shape[1]:] == right).all()


def test_what_cannot_be_read_is_named(opened, tmp_path):
    box = opened(change=lambda html: html.replace("&quot;most&quot;: 24", "&quot;most&quot;: 3"))
    drop(box, [("notes.txt", b"no picture")])
    assert settled(box, "is not an image") == "notes.txt is not an image that this browser can read."
    assert box.locator(".sheet span").all_inner_texts() == ["left", "right"] and box.locator(".save").is_disabled()
    strip = io.BytesIO()
    Image.new("RGB", (600, 20)).save(strip, "png")
    drop(box, [("torn.jpg", jpeg(CAT)[:4000]), ("strip.png", strip.getvalue()), ("cat.jpg", jpeg(CAT)),
               ("more.jpg", jpeg(CAT))])
    said = settled(box, "K = 3, start 1:")
    assert "strip.png is too narrow a strip" in said and "Of 4 files the first 3 were taken." in said
    assert box.locator(".sheet span").all_inner_texts()[-1] == "cat.jpg"
    box.evaluate("""box => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(60 * 2 ** 20)], 'huge.tif'));
        box.ondrop(Object.assign(new DragEvent('drop', {dataTransfer: transfer})));
    }""")
    assert settled(box, "is too large") == "huge.tif is too large: 60 MB, of at most 50."
    (tmp_path / "cat.jpg").write_bytes(jpeg(CAT))
    box.locator("[type=file]").set_input_files(tmp_path / "cat.jpg")
    assert settled(box, "the network took").startswith("K = 3, start 1:")  # and nothing of what was wrong before


def test_a_page_without_its_weights_says_so(opened, folder):
    box = opened(weights="../_static/late.js")
    box.locator(".again").click()
    assert settled(box, "open the built site") == \
        "The weights of the network are not beside this page: open the built site."
    fault = box.page.faults.pop()
    assert "ERR_FILE_NOT_FOUND" in fault and not box.page.faults
    shutil.copy(folder / "_static" / widgets.WEIGHTS, folder / "_static/late.js")
    colour(box)  # now they are


def test_the_address_holds_the_view_and_leaves_anchors_alone(opened):
    box = opened("#student.set=two+faces&student.K=2&student.start=7")
    settled(box, "K = 2, start 7: the network")
    assert box.locator("select").input_value() == "two faces" and box.locator("output").inner_text() == "2"
    shared = pictures(box)
    box.locator("[type=range]").press("ArrowRight")
    settled(box, "K = 3, start 7:")
    assert box.page.url.endswith("#student.set=two+faces&student.K=3&student.start=7")
    box.page.get_by_role("link", name="down").click()
    assert box.page.url.endswith("#end") and words(box).startswith("K = 3, start 7:")
    assert box.page.evaluate("scrollY") > 100
    box.page.go_back()
    settled(box, "K = 3, start 7:")
    box.page.evaluate("location.hash = 'student.set=two+faces&student.K=2&student.start=7'")
    settled(box, "K = 2, start 7:")
    assert all(map(torch.equal, shared, pictures(box)))


@pytest.mark.parametrize("address", [
    "", "#end", "#student.set=two+faces&student.K=7&student.start=1", "#student.set=none&student.K=2&student.start=1",
    "#student.set=two+faces&student.K=2&student.start=x", "#%"])
def test_nothing_is_loaded_before_it_is_wanted(opened, address):
    box = opened(address)
    box.page.wait_for_timeout(300)
    assert box.locator("select").input_value() == "motorcycle" and words(box).startswith("Press a button")
    assert len(box.page.requests) == 1 and box.page.url.endswith(f"page.html{address}")
    assert [canvas.get_attribute("aria-label") for canvas in box.locator("canvas").all()] == ["left", "right"]
    colour(box)
    assert len(box.page.requests) == 3  # the weights, and the worker


def test_two_views_share_a_page(opened):
    box = opened(change=lambda html: html + widgets.student({"one": [("cat", CAT)]}, caption="Another").data)
    other = box.nth(1)
    other.locator(".again").click()
    box.page.wait_for_function("!document.querySelectorAll('.save')[1].disabled")
    assert box.first.locator(".save").is_disabled() and other.locator(".legend button").count() == 3


def test_the_view_escapes_and_repeats_itself():
    nasty = "<b>\"K\" & 'M'</b></script>"
    html = widgets.student({nasty: [(nasty, CAT)]}, caption=nasty).data
    assert "<b>\"" not in html and html.count("</script>") == html.count("<figcaption>") == 1
    assert html == widgets.student({nasty: [(nasty, Image.fromarray(CAT))]}, caption=nasty).data
    assert "http" not in html and "src=" not in html and len(html) < 2**17


def test_oddly_named_photographs_are_shown_as_they_are_named(opened):
    nasty = "<b>\"K\" & 'M'</b>"
    view = widgets.student({nasty: [(nasty, CAT)] * 2}, caption="c").data
    box = opened(change=lambda html: view)
    assert box.locator(".sheet span").first.inner_text() == nasty
    colour(box)
    box.page.reload()  # at the address of the view
    settled(box, "K = 3, start 1: the network")


@pytest.mark.parametrize("sets, options, message", [
    ({}, {}, "at least one set"),
    ({" ": [("cat", CAT)]}, {}, "need a name"),
    ({"x": [("", CAT)]}, {}, "need a name"),
    ({"x": []}, {}, "'x' must have 1 to 24 photographs, got 0"),
    ({"x": [("cat", CAT)] * 25}, {}, "got 25"),
    ({"x": [("cat", CAT / 255)]}, {}, r"'cat' must be \(H, W, 3\) uint8, got shape .* of float64"),
    ({"x": [("cat", CAT[..., 0])]}, {}, "'cat' must be"),
    ({"x": [("cat", CAT[:0])]}, {}, "'cat' must be"),
    ({"x": [("cat", CAT)]}, {"rank": 7}, r"rank 7 must lie in 1\.\.6"),
    ({"x": [("cat", CAT)]}, {"rank": 0}, "rank 0"),
    ({"x": [("cat", CAT)]}, {"maps": []}, r"maps must be \(3, h, w\) for each photograph of the first set, got \[\]"),
    ({"x": [("cat", CAT)]}, {"maps": [np.ones((2, 4, 4))]}, r"got \[\(2, 4, 4\)\]"),
    ({"x": [("cat", CAT)]}, {"maps": [np.full((3, 4, 4), np.nan)]}, r"maps must lie in \[0, 1\]"),
])
def test_bad_photographs(sets, options, message):
    with pytest.raises(ValueError, match=message):
        widgets.student(sets, caption="c", **options)


@pytest.mark.parametrize("name", ["student.js", "student_worker.js", "student.css"])
def test_a_changed_script_or_style_runs_chapters_again(tmp_path, name):
    shutil.copytree(ENGINE.parents[1], tmp_path / "nmfbook", ignore=shutil.ignore_patterns("__pycache__"))
    chapter = (REPOSITORY / "book/your_photographs.md").read_text(encoding="utf-8")
    before = build.own(tmp_path, chapter)
    with open(tmp_path / "nmfbook/widgets" / name, "a", encoding="utf-8") as file:
        file.write(" ")
    after = build.own(tmp_path, chapter)
    assert [key for key in before if before[key] != after[key]] == ["nmfbook"]


def test_the_built_page_finds_its_weights(page):
    chapter = SITE / "book/your_photographs.html"
    if not chapter.exists() or "nmf-student" not in chapter.read_text(encoding="utf-8"):
        pytest.skip("no built site with the view: run make book")
    page.goto(chapter.as_uri())
    colour(page.locator(".nmf-student"))
    assert len(maps(page.locator(".nmf-student"))[0]) == 3
    page.faults.clear()  # the theme's: from file://, no browser loads its fonts
