"""What the tests share: the programs of tools/ can be imported, and skipped browser tests are said aloud."""

import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
NO_BROWSER = "no Chromium"

from browsing import address, html, opened, visit  # noqa: E402, F401
from clipnotes.clip import load_clip  # noqa: E402
from notebooks import defined  # noqa: E402


def chromium() -> str | None:
    """The path of a Chromium: CHROMIUM, or the first that is installed."""
    named = os.environ.get("CHROMIUM")
    candidates = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return named or next(filter(None, map(shutil.which, candidates)), None)


@pytest.fixture(scope="session")
def browser_path() -> str:
    """A Chromium; without one the test is skipped, or fails where CLIPNOTES_REQUIRE_BROWSER is set."""
    path = chromium()
    if not path:
        message = f"{NO_BROWSER}: install it (Debian: apt install chromium) or set CHROMIUM=/path/to/it"
        if os.environ.get("CLIPNOTES_REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def browser(browser_path):
    """The one browser of all tests: Playwright does not start twice in a process."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def chapter(request):
    """What a chapter defines; `NOTEBOOK` in the test file says which chapter."""
    return defined(request.module.NOTEBOOK)


@pytest.fixture(scope="module")
def clip():
    """The tiny CLIP, frozen."""
    return load_clip("tiny").requires_grad_(False)


def pytest_terminal_summary(terminalreporter):
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if NO_BROWSER in str(r.longrepr)]
    if skipped:
        terminalreporter.section("THE BOOK WAS NOT LOOKED AT", sep="!")
        terminalreporter.write_line(
            f"{len(skipped)} browser tests were skipped, because no Chromium was found. "
            "Install it (Debian: apt install chromium) or set CHROMIUM=/path/to/it, and run make test again."
        )
