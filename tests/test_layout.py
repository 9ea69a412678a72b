"""Every page of the built book in a browser: whole, on a narrow screen, formulas and code in full, in the dark."""

import pytest

from browsing import PAGES, WIDE

CHAPTERS = [name for name in PAGES if name.startswith("chapters/")]


@pytest.mark.browser
@pytest.mark.parametrize("opened", PAGES, indirect=True)
def test_page_is_whole(opened):
    """It loads without asking another site, its pictures load and have texts, its formulas are set."""
    page = opened.page
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
    assert opened.foreign == [], "the page asks another site"
    assert opened.failed == []
    assert opened.errors == []


@pytest.mark.browser
@pytest.mark.parametrize("opened", PAGES, indirect=True)
def test_a_narrow_screen_does_not_scroll_sideways(opened):
    opened.page.set_viewport_size({"width": 390, "height": 800})
    wide = opened.page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")
    opened.page.set_viewport_size(WIDE)
    assert wide <= 1, f"{wide} pixels too wide"


@pytest.mark.browser
@pytest.mark.parametrize("opened", CHAPTERS, indirect=True)
def test_no_formula_is_cut(opened):
    """At 1280 pixels each displayed formula is seen whole: a long one with a number would begin left of its column."""
    page = opened.page
    page.wait_for_selector("mjx-container[display=true]", timeout=20000)
    begins = page.evaluate(
        "() => [...document.querySelectorAll('.bd-article mjx-container[display=true]')].map(formula => [Math.min("
        "...[...formula.querySelectorAll('mjx-c')].map(sign => sign.getBoundingClientRect().left)) - "
        "formula.parentElement.getBoundingClientRect().left, formula.textContent.slice(0, 60)])"
    )
    assert begins and [formula for formula in begins if formula[0] < -1] == []


@pytest.mark.browser
@pytest.mark.parametrize("opened", CHAPTERS, indirect=True)
def test_no_code_scrolls_sideways(opened):
    """At 1280 pixels each line of code is seen whole, folded cells opened; the quiz is data, and stays folded."""
    page = opened.page
    page.evaluate("() => document.querySelectorAll('.bd-article details').forEach(d => { d.open = true; })")
    wide = page.evaluate(
        "() => [...document.querySelectorAll('.bd-article .cell:not(.tag_quiz) .cell_input pre')]"
        ".map(pre => [pre.clientWidth, pre.scrollWidth - pre.clientWidth, pre.textContent.slice(0, 60)])"
    )
    assert len(wide) >= 50 and min(width for width, _, _ in wide) > 400, "each cell of code is seen"
    assert [cell for cell in wide if cell[1] > 0] == []


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
