"""A scan report does what its controls say, with made-up evidence and on the real demo."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def _shown(page, plane):
    return page.evaluate(
        "plane => new DOMMatrix(getComputedStyle(document.querySelector("
        "`.panel:has([data-slice=${plane}]) .layer img`)).transform).e",
        plane,
    )


@pytest.fixture(params=["made up", "demo"])
def file(request):
    if request.param == "made up":
        return request.getfixturevalue("pages")["report"]
    return request.getfixturevalue("demo") / "sub-01_acq-simulated_desc-harmonized_T1w.html"


def test_flicker_puts_the_scan_in_the_results_place_and_takes_it_away(file, opened):
    with opened(file) as page:
        source = "document.querySelector('.view:not([hidden]) .panel.{} img').src"
        scan, result = (page.evaluate(source.format(which)) for which in ("before", "after"))
        assert scan != result
        page.focus("button[data-flicker]")
        page.keyboard.press("Enter")
        assert page.evaluate(source.format("after")) == scan
        page.wait_for_selector("html[data-shown=result]")  # no wait_for_function: the page forbids eval
        assert page.evaluate(source.format("before")) == scan
        page.click("button[data-flicker]")
        assert page.evaluate(source.format("after")) == result
        assert page.get_attribute("button[data-flicker]", "aria-pressed") == "false"


def test_one_plane_is_shown_at_a_time(file, opened):
    with opened(file) as page:
        for plane in ("coronal", "sagittal", "axial"):
            page.check(f"input[data-plane][value={plane}]")
            assert page.locator(".view:visible").count() == 1
            assert page.locator(f".view[data-view={plane}]").is_visible()


def test_explanations_open_by_the_keyboard(file, opened):
    with opened(file) as page:
        words = page.locator("#images .info .note")
        assert not words.is_visible()
        page.focus("#images .info summary")
        page.keyboard.press("Enter")
        assert words.is_visible()


def test_slices_move_together_in_all_figures(file, opened):
    with opened(file) as page:
        for plane in ("axial", "coronal", "sagittal"):
            sliders = page.locator(f"input[data-slice={plane}]")
            start = _shown(page, plane)
            page.check(f"input[data-plane][value={plane}]")
            sliders.first.fill("2")
            assert _shown(page, plane) != start
            assert {slider.input_value() for slider in sliders.all()} == {"2"}
            assert sliders.count() == 3


def test_outlines_can_be_hidden(file, opened):
    with opened(file) as page:
        line = page.locator(".layer.mask-lines").first
        assert line.is_visible()
        page.uncheck("input[data-toggle=mask-lines]")
        assert not line.is_visible()


def test_the_methods_can_be_copied(file, opened):
    with opened(file) as page:
        page.click("button[data-copy]")
        assert page.inner_text("button[data-copy]") != "Copy"
        assert "Jeong" in page.evaluate("getSelection().toString()")


def test_the_demo_is_small(demo):
    assert (demo / "sub-01_acq-simulated_desc-harmonized_T1w.html").stat().st_size < 3_000_000
    assert (demo / "sub-01_acq-simulated_desc-harmonized_T1w.viewer.html").stat().st_size < 25_000_000
