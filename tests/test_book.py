"""The built book in a browser without a network: every page, link, picture, formula, slider and quiz."""

import os
import re
import subprocess
import sys
import threading
import time
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import pytest

import hygiene

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(hygiene.book_pages())


def sources_time() -> float:
    """When the newest source of the book was written."""
    files = [ROOT / "_config.yml", ROOT / "_toc.yml", ROOT / "tools" / "bookext.py"]
    files += [p for folder in ("book", "chapters") for p in (ROOT / folder).rglob("*") if p.is_file()]
    return max(file.stat().st_mtime for file in files)


@pytest.fixture(scope="session")
def html() -> Path:
    """The built book: the one that is there if it is newer than its sources, else a new one."""
    index = ROOT / "_build" / "html" / "index.html"
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


@pytest.fixture
def visit(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield Visit(context.new_page(), address)
    context.close()


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


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_page_is_whole(visit, name):
    """It loads without asking another site, its pictures load and have texts, its formulas are set."""
    page = visit.open(name)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert page.locator(".bd-article h1").count() == 1
    if page.locator(".bd-article .math").count():
        page.wait_for_selector(".bd-article .math mjx-container", state="attached", timeout=15000)
        assert (
            page.locator(".bd-article .math").evaluate_all(
                "nodes => nodes.filter(n => !n.querySelector('mjx-container')).map(n => n.textContent)"
            )
            == []
        )
        assert page.locator("mjx-merror").count() == 0
    pictures = page.evaluate(
        "() => [...document.querySelectorAll('.bd-article img')].map(i => "
        "({src: i.src.slice(0, 80), alt: i.alt, width: i.naturalWidth, seen: i.offsetParent !== null}))"
    )
    for picture in pictures:
        assert picture["alt"], f"no alternative text: {picture['src']}"
        assert picture["width"] > 0 or not picture["seen"], f"does not load: {picture['src']}"
    assert visit.foreign == [], "the page asks another site"
    assert visit.failed == []
    assert visit.errors == []


@pytest.mark.browser
def test_a_request_to_another_site_is_seen(visit):
    """The guard itself: a page that asks another site, and one that asks for what is not there."""
    page = visit.open("book/glossary")
    ask = "<img src='https://example.org/a.png'><img src='" + visit.address + "gone.png'>"
    page.set_content(ask)  # the page keeps its policy: the browser refuses, and says so
    page.wait_for_timeout(300)
    assert visit.foreign == [] and any("Content Security Policy" in error for error in visit.errors)
    page.goto("about:blank")
    page.set_content(ask)  # without the policy the request is seen, and cut
    page.wait_for_timeout(300)
    assert visit.foreign == ["https://example.org/a.png"]
    assert any(failure.endswith("gone.png") for failure in visit.failed)


class Anchors(HTMLParser):
    """The links and the ids of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found["id"]} if found.get("id") else set()
        self.links += [found["href"]] if tag == "a" and found.get("href") else []


def dead_links(folder: Path, names: list[str]) -> list[str]:
    """The links between pages of the book that lead nowhere, and those that were left absolute."""
    pages = {f"{name}.html": Anchors((folder / f"{name}.html").read_text("utf-8")) for name in names}
    dead = []
    for name, page in pages.items():
        for link in page.links:
            target, anchor = urldefrag(urljoin(f"http://book/{name}", link))
            if target.startswith(hygiene.BOOK):
                dead.append(f"{name}: {link} was not made relative")
            if not target.startswith("http://book/"):
                continue
            path = target.removeprefix("http://book/") or "index.html"
            if not (folder / path).is_file() or (anchor and path in pages and anchor not in pages[path].ids):
                dead.append(f"{name}: {link}")
    return dead


def test_links_lead_somewhere(html):
    assert dead_links(html, PAGES) == []


def test_dead_links_are_seen(tmp_path):
    links = [
        "b.html",
        "b.html#there",
        "b.html#gone",
        "gone.html",
        hygiene.BOOK + "b.html",
        "https://example.org",
    ]
    (tmp_path / "a.html").write_text("".join(f"<a href='{link}'>x</a>" for link in links))
    (tmp_path / "b.html").write_text("<p id='there'></p>")
    assert len(dead_links(tmp_path, ["a", "b"])) == 3


@pytest.mark.browser
@pytest.mark.parametrize("name", notebook_pages("interactive"))
def test_sliders_move_a_picture(visit, name):
    page = visit.open(name)
    page.wait_for_selector(".widget-slider .noUi-handle", timeout=20000)
    visible = "box => [...box.querySelectorAll('img')].filter(i => i.offsetParent !== null).map(i => i.src).join()"
    boxes = page.locator(".jupyter-widgets.widget-vbox:has(.widget-slider):has(img)")
    assert boxes.count() > 0
    for number in range(boxes.count()):
        box = boxes.nth(number)
        before = box.evaluate(visible)
        box.locator(".noUi-handle").first.focus()
        page.keyboard.press("ArrowRight")
        moved = partial(lambda box, before: box.evaluate(visible) != before, box, before)
        assert before and until(moved), f"slider {number} moves nothing"
    assert visit.errors == []


@pytest.mark.browser
@pytest.mark.parametrize("name", notebook_pages("quiz"))
def test_quiz_answers(visit, name):
    page = visit.open(name)
    quizzes = page.locator(".Quiz")
    assert quizzes.count() == 5
    for number in range(5):
        quiz = quizzes.nth(number)
        quiz.locator(".MCButton[data-correct=false]").first.click()
        assert quiz.locator(".Feedback.incorrect").inner_text().strip()
        quiz.locator(".MCButton[data-correct=true]").first.click()
        assert quiz.locator(".Feedback.correct").inner_text().strip()
    assert visit.foreign == [] and visit.errors == []


@pytest.mark.browser
def test_readiness_test_counts(visit):
    page = visit.open("book/start")
    cards = page.locator(".readiness-question")
    assert cards.count() == 10
    for number in range(10):
        wanted = "button[data-right]" if number else "button:not([data-right])"
        cards.nth(number).locator(wanted).first.click()
        assert cards.nth(number).locator(".readiness-why").is_visible()
    assert page.locator(".readiness-score").inner_text().startswith("9 right of 10 answered. You are ready")


@pytest.mark.browser
def test_landing_figure_moves(visit):
    page = visit.open("book/index")
    values = page.locator(".landing-matrix .value")
    before = values.all_inner_texts()
    assert len(before) == 36
    slider = page.locator(".landing-matrix input")
    slider.focus()
    page.keyboard.press("End")
    assert values.all_inner_texts() != before
    assert "right, among these 6 names" in page.locator(".landing-matrix figcaption").inner_text()


def test_landing_figure_is_what_the_model_says():
    import landing

    assert landing.current(), "run: python tools/landing.py"


@pytest.mark.browser
def test_dark_mode(visit):
    page = visit.open("book/index")
    colour = "() => getComputedStyle(document.body).backgroundColor"
    seen = set()
    for _ in range(3):  # auto, light, dark
        page.locator(".theme-switch-button:visible").first.click()
        page.wait_for_timeout(150)
        seen.add(page.evaluate(colour))
    assert len(seen) == 2


@pytest.mark.browser
def test_a_narrow_screen_does_not_scroll_sideways(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    for name in PAGES:
        page.goto(f"{address}{name}.html", wait_until="load")
        wide = page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 1, f"{name} is {wide} pixels too wide"
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("chapters/")])
def test_no_formula_is_cut(visit, name):
    """At 1280 pixels each displayed formula is seen whole: a long one with a number would begin left of its column."""
    page = visit.open(name)
    page.wait_for_selector("mjx-container[display=true]", timeout=20000)
    begins = page.evaluate(
        "() => [...document.querySelectorAll('.bd-article mjx-container[display=true]')].map(formula => [Math.min("
        "...[...formula.querySelectorAll('mjx-c')].map(sign => sign.getBoundingClientRect().left)) - "
        "formula.parentElement.getBoundingClientRect().left, formula.textContent.slice(0, 60)])"
    )
    assert begins and [formula for formula in begins if formula[0] < -1] == []


@pytest.mark.browser
@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("chapters/")])
def test_no_code_scrolls_sideways(visit, name):
    """At 1280 pixels each line of code is seen whole, folded cells opened; the quiz is data, and stays folded."""
    page = visit.open(name)
    page.evaluate("() => document.querySelectorAll('.bd-article details').forEach(d => { d.open = true; })")
    wide = page.evaluate(
        "() => [...document.querySelectorAll('.bd-article .cell:not(.tag_quiz) .cell_input pre')]"
        ".map(pre => [pre.clientWidth, pre.scrollWidth - pre.clientWidth, pre.textContent.slice(0, 60)])"
    )
    assert len(wide) >= 50 and min(width for width, _, _ in wide) > 400, "each cell of code is seen"
    assert [cell for cell in wide if cell[1] > 0] == []


@pytest.mark.browser
def test_the_book_opens_from_the_disk(browser, html):
    """Without a server too: file:// is what `make book` prints."""
    context = browser.new_context()
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((html / "book" / "notation.html").as_uri(), wait_until="load")
    page.wait_for_selector("mjx-container", timeout=15000)
    assert errors == []
    context.close()


@pytest.mark.browser
def test_no_form_is_sent_elsewhere_and_no_base_is_taken(visit):
    page = visit.open("book/glossary")
    page.set_content("<base href='https://example.org/'><form action='https://example.org/form'></form>"
                     "<object data='https://example.org/x.pdf'></object>")  # the page keeps its policy
    page.evaluate("document.forms[0].submit()")
    page.wait_for_timeout(300)
    for directive in ("form-action", "base-uri", "object-src"):
        assert any(directive in error for error in visit.errors), directive
    assert visit.foreign == [] and page.url.startswith(visit.address)


def test_the_policy_is_in_the_page(html):
    """The browser itself is told to ask no other site, and no tag names one."""
    text = (html / "book" / "index.html").read_text("utf-8")
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]+)">', text)
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules.keys() >= {"default-src", "script-src", "connect-src", "form-action", "base-uri", "object-src"}
    assert set(" ".join(rules.values()).split()) <= {"'self'", "'none'", "data:", "blob:", "'unsafe-inline'",
                                                     "'unsafe-eval'"}
    assert "thebe" not in text.lower()
    assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?://(?!clip-notes\.github\.io)', text)
