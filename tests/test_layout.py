"""How the built book looks in a browser: in the dark, on a narrow screen, formulas and code in full."""

import pytest

from browsing import PAGES

CHAPTERS = [name for name in PAGES if name.startswith("chapters/")]


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
@pytest.mark.parametrize("name", CHAPTERS)
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
@pytest.mark.parametrize("name", CHAPTERS)
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
