"""The built site in a real browser: nothing missing, nothing from elsewhere, everything moves, also on a phone."""

import functools
import http.server
import os
import re
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup

SITE = Path(__file__).resolve().parent.parent / "_build" / "html"
PAGES = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html") if "_static" not in path.parts)
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "video": "src", "audio": "src",
         "source": "src", "object": "data", "embed": "src"}


def foreign(html):
    """Addresses on other hosts that the page would load by itself. Links that a reader follows are none of them."""
    found = [tag.get(LOADS[tag.name], "") for tag in BeautifulSoup(html, "html.parser")(list(LOADS))]
    found += re.findall(r"""(?:@import\s+["']|url\(\s*["']?)([^"')\s]+)""", html)
    return [address for address in found if re.match(r"(https?:)?//", address)]


def mute(html):
    """Pictures of the content without a description, a caption, or both."""
    faults = []
    content = BeautifulSoup(html, "html.parser").select_one("article") or BeautifulSoup("", "html.parser")
    for image in content.select("img[src]"):  # what has no address is filled by a script
        figure, alt = image.find_parent("figure"), image.get("alt", "").strip()
        name = image.get("src", "")[:60]
        if not alt or re.search(r"\.(png|jpe?g|gif|svg|webp)$", alt, re.I):
            faults.append(f"{name} has no alt text")
        if not figure or not figure.find("figcaption") or not figure.find("figcaption").get_text(strip=True):
            faults.append(f"{name} has no caption")
    return faults


def dead_links(page, site=SITE):
    """Links of a page whose file or anchor does not exist."""
    faults = []
    for link in parsed(site / page).select("a[href]"):
        address, anchor = urldefrag(link["href"])
        if urlparse(address).scheme or address.startswith("//"):
            continue
        target = (site / page).parent / unquote(address.split("?")[0]) if address else site / page
        if not target.exists():
            faults.append(f"{link['href']}: no such page")
        elif anchor and target.suffix == ".html" and anchor not in anchors(target.resolve()):
            faults.append(f"{link['href']}: no such anchor")
    return faults


@functools.cache
def parsed(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@functools.cache
def anchors(path):
    return {tag["id"] for tag in parsed(path).select("[id]")} | {tag["name"] for tag in parsed(path).select("a[name]")}


def test_the_checks_find_what_they_look_for():
    assert foreign('<script src="https://cdn.example/x.js"></script>') == ["https://cdn.example/x.js"]
    assert foreign('<link rel="stylesheet" href="//fonts.example/a.css">')
    assert foreign('<img src="http://x.example/a.png">')
    assert foreign("<style>@import url('https://x.example/a.css')</style>")
    assert not foreign('<a href="https://x.example">x</a><script src="../x.js"></script><img src="data:image/png,">')
    good = '<article><figure><img src="a.png" alt="A cat"><figcaption>A cat.</figcaption></figure></article>'
    assert not mute(good)
    assert mute(good.replace('alt="A cat"', "")) and mute(good.replace("A cat\"", "../_images/1f.png\""))
    assert mute(good.replace("<figcaption>A cat.</figcaption>", ""))


@pytest.fixture(scope="module")
def address():
    if not SITE.exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no built site: run make book")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def view(browser, address):
    """A page that keeps every error and every request to another host in `view.faults`."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.faults = []

    def check(route):
        if route.request.url.startswith(address):
            route.continue_()
        else:
            page.faults.append(f"request to {route.request.url}")
            route.abort()

    page.route(lambda url: not url.startswith(("data:", "blob:")), check)
    page.on("console", lambda message: message.type == "error" and page.faults.append(message.text))
    page.on("pageerror", lambda error: page.faults.append(str(error)))

    def follow(name):
        page.goto(f"{address}/{name}", wait_until="load")
        onward = parsed(SITE / name.split("?")[0]).select_one("meta[http-equiv=refresh]")
        if onward:  # the page leaves by itself, at a moment of its own
            page.wait_for_url(f"{address}/{onward['content'].partition('url=')[2]}", wait_until="load")
    page.open = follow
    yield page
    page.close()


@pytest.mark.parametrize("page", PAGES)
def test_page_text_is_whole(page):
    html = (SITE / page).read_text(encoding="utf-8")
    assert not foreign(html)
    assert not mute(html)
    assert not dead_links(page)


@pytest.mark.parametrize("page", PAGES)
def test_page_in_the_browser(view, page):
    view.open(page)
    if view.locator("article .math").count():
        view.wait_for_selector("mjx-container", state="attached")
        view.evaluate("MathJax.startup.promise.then(() => null)")
        drawn = "[...document.querySelectorAll('article .math')].filter(e => !e.querySelector('mjx-container'))"
        assert view.evaluate(f"{drawn}.map(e => e.textContent)") == []
        assert view.locator("mjx-merror, mjx-container [style*='color: red']").count() == 0
    lost = "[...document.querySelectorAll('article img')].filter(e => e.complete && !e.naturalWidth).map(e => e.src)"
    assert view.evaluate(lost) == []
    for box in view.locator(".nmf-short").all():
        place = box.bounding_box()
        assert place["y"] + place["height"] <= 800, "the answer is not on the first screen"
    view.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
    for box in view.locator(".nmf-frames").all():
        slides(box)
    for theme, rules in (("light", {}), ("dark", {"runOnly": ["color-contrast"]})):
        view.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        view.wait_for_timeout(500)  # until colours have changed
        assert inaccessible(view, rules) == []
    view.set_viewport_size({"width": 390, "height": 844})
    view.wait_for_timeout(200)
    assert view.evaluate("document.documentElement.scrollWidth") <= 390, "the page scrolls sideways on a phone"
    assert view.faults == []


def inaccessible(view, options):
    """What axe finds serious or critical."""
    options = {"resultTypes": ["violations"], "preload": False} | options
    context = {"exclude": [[".citation-list"]]}  # sphinxcontrib-bibtex puts links among the items of its list
    found = Axe().run(view, context=context, options=options).response["violations"]
    return [f"{rule['id']}: {node['html'][:100]}: {node['failureSummary']}" for rule in found
            if rule["impact"] in ("serious", "critical") for node in rule["nodes"]]


def slides(box):
    """A slider shows one frame at a time and obeys the keyboard; a single frame has none."""
    expect = pytest.importorskip("playwright.sync_api").expect
    sliders, figures = box.locator("input[type=range]"), box.locator("figure")
    last, slider = figures.count() - 1, sliders.first
    if last == 0:
        assert figures.first.is_visible() and sliders.count() == 0
        return
    for key, place in (("Home", 0), ("ArrowRight", 1), ("End", last)):
        slider.press(key)
        expect(figures.nth(place)).to_be_visible()  # waits: under load a browser answers a key late
        shown = [index for index, frame in enumerate(figures.all()) if frame.is_visible()]
        assert shown == [place], f"frames {shown} are visible after {key}"


def test_first_screen(view):
    """Without scrolling, a first-time reader meets the claim in words, and photographs that their factors colour."""
    view.open("index.html")
    view.wait_for_selector("article h1")
    claim = view.locator("article p").first
    assert len(claim.inner_text()) > 80
    box = claim.bounding_box()
    assert box["y"] + box["height"] <= 800
    figure = view.locator("article figure").first
    assert "heatmap" in figure.inner_text().lower()
    picture, press = figure.locator("canvas").first, figure.get_by_role("button", name="another start")
    assert all(part.bounding_box()["y"] <= 640 for part in (picture, press)), "they begin below the fold"
    assert figure.get_by_role("button", name="factor").count() == 3
    press.press("Enter")
    figure.get_by_text("K = 3, start 2").wait_for(timeout=120_000)
    assert view.faults == []


def test_the_dashboard_is_filtered_by_mouse_and_keyboard_and_shared_by_its_address(view):
    view.open("book/reproduction.html")
    rows, told = view.locator(".nmf-rows > details"), view.locator(".nmf-filters output")
    total = rows.count()
    assert told.inner_text() == f"{total} rows" and view.locator(".nmf-strip a").count() == total

    def shown():
        return [row.get_attribute("id") for row in rows.all() if row.is_visible()]

    view.locator(".nmf-filters select").select_option("3")
    of_chapter = shown()
    assert 0 < len(of_chapter) < total and told.inner_text() == f"{len(of_chapter)} of {total} rows"
    view.locator(".nmf-filters input").fill("first local maximum")
    assert shown() == ["row-f3-10"]
    view.locator(".nmf-filters input").fill("")
    view.locator(".nmf-filters summary").press("Enter")
    view.locator(".nmf-filters button[data-verdict=reproduced]").press("Space")
    reproduced = shown()
    assert {*reproduced} < {*of_chapter} and "verdict=reproduced" in view.url and "chapter=3" in view.url
    shared = view.url
    view.goto("about:blank")
    view.goto(shared)
    assert shown() == reproduced
    view.goto(shared.partition("#")[0] + "#row-f3-10")
    assert len(shown()) == total and view.locator("#row-f3-10").get_attribute("open") is not None
    assert view.faults == []


def test_search(view):
    view.open("search.html?q=heatmap")
    view.wait_for_selector("#search-results li a")
    assert view.faults == []
