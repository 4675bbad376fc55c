"""A scan report does what its controls say, with made-up evidence and on the real demo."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def _clip(page):
    return page.evaluate("getComputedStyle(document.querySelector('.layer.after')).clipPath")


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
    return request.getfixturevalue("demo") / "sub-01_desc-harmonized_T1w.html"


def test_the_slider_uncovers_before_and_after(file, opened):
    with opened(file) as page:
        slider = page.locator("input[data-wipe]")
        seen = []
        for value in ("0", "50", "100"):
            slider.fill(value)
            seen.append(_clip(page))
        assert len(set(seen)) == 3
        slider.focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        assert _clip(page).endswith("1%)")
        page.click("button[data-swap]")
        assert _clip(page).endswith((" 0px)", " 0%)"))
        page.click("button[data-swap]")
        assert _clip(page).endswith("100%)")


def test_dragging_over_a_picture_moves_the_border(file, opened):
    with opened(file) as page:
        frame = page.locator(".frame[data-compare]").first
        frame.scroll_into_view_if_needed()
        box = frame.bounding_box()
        page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 40, steps=4)
        page.mouse.up()
        assert 23 <= float(page.input_value("input[data-wipe]")) <= 27


def test_slices_move_together_in_all_figures(file, opened):
    with opened(file) as page:
        for plane in ("axial", "coronal", "sagittal"):
            sliders = page.locator(f"input[data-slice={plane}]")
            start = _shown(page, plane)
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
    assert (demo / "sub-01_desc-harmonized_T1w.html").stat().st_size < 3_000_000
    assert (demo / "sub-01_desc-harmonized_T1w.viewer.html").stat().st_size < 25_000_000
