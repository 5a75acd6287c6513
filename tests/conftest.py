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
