"""The built book in a browser without a network, for the tests that look at its pages."""

import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import hygiene
from clipnotes.files import lock

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(hygiene.book_pages())
WIDE = {"width": 1280, "height": 900}


def sources_time() -> float:
    """When the newest source of the book was written."""
    files = [ROOT / "_config.yml", ROOT / "_toc.yml", ROOT / "tools" / "bookext.py"]
    files += [p for folder in ("book", "chapters") for p in (ROOT / folder).rglob("*") if p.is_file()]
    return max(file.stat().st_mtime for file in files)


@pytest.fixture(scope="session")
def html() -> Path:
    """The built book: the one that is there if it is newer than its sources, else a new one."""
    index = ROOT / "_build" / "html" / "index.html"
    with lock(ROOT / "build" / "book", 600):  # two files of tests ask for it, each in a process of its own
        if not index.exists() or index.stat().st_mtime < sources_time():
            program = Path(sys.executable).parent / "jupyter-book"
            command = [program, "build", ROOT, "--all", "-W", "--keep-going"]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
            os.utime(index)
    return index.parent


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def address(html):
    """The book on a plain file server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


class Visit:
    """One page in the browser: what it asked for, what failed, what it complained about."""

    def __init__(self, page, address: str):
        self.page, self.address = page, address
        self.foreign: list[str] = []
        self.failed: list[str] = []
        self.errors: list[str] = []
        page.route("**/*", self.gate)
        page.on("response", lambda r: self.failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def gate(self, route):
        """Let through what comes from the book's own server; record and cut everything else."""
        if route.request.url.startswith((self.address, "data:", "blob:")):
            route.continue_()
        else:
            self.foreign.append(route.request.url)
            route.abort()

    def open(self, name: str):
        self.page.goto(f"{self.address}{name}.html", wait_until="load")
        self.page.wait_for_timeout(700)  # quizzes typeset half a second later
        return self.page


@contextmanager
def visiting(browser, address: str):
    context = browser.new_context(viewport=WIDE, color_scheme="light")
    context.set_default_timeout(120_000)  # a page with sliders is heavy, and other tests run beside
    yield Visit(context.new_page(), address)
    context.close()


@pytest.fixture
def visit(browser, address):
    """A page of the test's own, to open and to click in."""
    with visiting(browser, address) as here:
        yield here


@pytest.fixture(scope="module")
def opened(browser, address, request):
    """The page that is named, opened once for all tests that only look at it: they leave it as it was."""
    with visiting(browser, address) as here:
        here.open(request.param)
        yield here


def until(condition, seconds: float = 5.0) -> bool:
    """Wait until a condition holds: a busy machine needs longer than a quiet one."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def notebook_pages(tag: str) -> list[str]:
    """The pages made from notebooks that have a cell with this tag."""
    from notebooks import read, tags

    found = []
    for name in PAGES:
        path = ROOT / f"{name}.ipynb"
        if path.exists() and any(tag in tags(cell) for cell in read(path).cells):
            found.append(name)
    return found
