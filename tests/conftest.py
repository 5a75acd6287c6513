import os
import shutil

import nbval.kernel
import pytest
import torch


def patient(start, attempts=3):
    """Start a notebook's kernel again if it dies at once: its ports, free when chosen, may be taken by then."""
    def start_kernel(*given, **options):
        for _ in range(attempts - 1):
            try:
                return start(*given, **options)
            except RuntimeError as error:
                if "died" not in str(error):
                    raise
        return start(*given, **options)
    return start_kernel


nbval.kernel.start_new_kernel = patient(nbval.kernel.start_new_kernel)


@pytest.fixture
def one_thread():
    """For nets that are too small to share out: with every core busy elsewhere, waiting costs a hundredfold."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def browser():
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not executable:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no chromium: install it to test pages and views")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        yield play.chromium.launch(executable_path=executable, args=[
            "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--no-first-run"])


@pytest.fixture
def show_page(browser, tmp_path):
    """Opens a page of the given views, from a disk and as wide as a phone; at the end none has failed, asked for
    anything or grown wider."""
    pages, faults = [], []

    def opened(*views, address=""):
        file = tmp_path / "page.html"
        file.write_text('<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
                        + "".join(view.data for view in views)
                        + '<a href="#end">down</a><p id="end" style="margin-bottom: 2000px">', encoding="utf-8")
        page = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True).new_page()
        page.on("console", lambda message: message.type in ("error", "warning") and "readback" not in message.text
                and faults.append(message.text))  # of a canvas that a test reads
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url.partition("#")[0] == file.as_uri()
                or request.url.startswith("data:") or faults.append(request.url))
        page.goto(file.as_uri() + address)
        pages.append(page)
        return page
    yield opened
    for page in pages:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the view is wider than a phone"
        page.context.close()
    assert faults == []
