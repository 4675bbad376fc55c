"""What is true of every page, light and dark, wide and narrow."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.browser]

KINDS = ("report", "cohort-3", "cohort-24", "cohort-1000", "viewer", "plain")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", KINDS)
def test_it_opens_fits_and_is_accessible(kind, width, scheme, pages, opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: make browser-test")
    with opened(pages[kind], width=width, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
        dark = sum(map(int, page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)"))) < 200
        assert dark == (scheme == "dark")
        found = axe.Axe().run(page).response
        assert len(found["passes"]) > 10
        grave = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
        assert [(v["id"], v["nodes"][0]["html"][:150]) for v in grave] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_control_has_a_name_and_shows_its_focus(kind, pages, opened):
    with opened(pages[kind]) as page:
        for _ in range(12):
            page.keyboard.press("Tab")
            outline, name = page.evaluate(
                """() => { const e = document.activeElement, s = getComputedStyle(e);
                return [e === document.body ? 'none there' : s.outlineStyle,
                        e.ariaLabel || e.innerText || (e.labels && e.labels[0] && e.labels[0].innerText) || e.id] }"""
            )
            assert outline != "none"
            assert name or outline == "none there"


def test_without_scripts_the_report_still_shows_its_pictures(pages, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["report"].as_uri())
    assert page.locator(".layer.after img").first.is_visible()
    assert not page.locator("button").first.is_visible()
    context.close()
