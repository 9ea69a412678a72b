"""The built book in a browser without a network: its links, sliders and quizzes, and that it asks no other site."""

import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import pytest

import hygiene
from browsing import PAGES, notebook_pages, until


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
