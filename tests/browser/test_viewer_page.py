"""The viewer: two volumes, one crosshair, everything by keyboard too."""

import re

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def _place(page):
    return [int(page.input_value(f"#slice-{axis}")) for axis in range(3)]


def _values(page):
    return [float(page.inner_text(f"#value-{which}")) for which in ("before", "after")]


def _pixels(page, which):
    return page.locator(f"#{which}").screenshot()


def test_arrow_keys_move_the_crosshair_in_both(pages, opened):
    with opened(pages["viewer"]) as page:
        page.focus("#pictures")
        start = _place(page)
        for key, axis, step in (
            ("ArrowLeft", 0, 1),
            ("ArrowRight", 0, -1),
            ("ArrowUp", 1, 1),
            ("ArrowDown", 1, -1),
            ("PageUp", 2, 1),
            ("PageDown", 2, -1),
            ("Shift+PageUp", 2, 10),
        ):
            old, pictures = _place(page), [_pixels(page, which) for which in ("before", "after")]
            page.keyboard.press(key)
            assert [b - a for a, b in zip(old, _place(page), strict=True)] == [step * (i == axis) for i in range(3)]
            assert all(_pixels(page, w) != p for w, p in zip(("before", "after"), pictures, strict=True))
        page.keyboard.press("0")
        assert _place(page) == start


def test_the_values_are_those_of_the_files_at_that_place(pages, opened, stripped_head):
    """The scan lies askew with its axes in another order (PIR): place and value must belong together all the same."""
    to_voxel = np.linalg.inv(stripped_head.affine)
    seen = set()
    with opened(pages["viewer"]) as page:
        page.focus("#pictures")
        for key in ("ArrowLeft", "ArrowUp", "PageUp", "Shift+ArrowLeft", "Shift+PageUp", "Shift+ArrowDown"):
            page.keyboard.press(key)
            place = [float(number) for number in re.findall(r"-?\d+", page.inner_text("#where"))]
            voxel = tuple(np.rint((to_voxel @ [*place, 1])[:3]).astype(int))
            true = float(stripped_head.data[voxel])
            before, after = _values(page)
            assert before == pytest.approx(true, abs=0.01 * float(stripped_head.data.max()))
            assert after == pytest.approx(3 * true, abs=0.03 * float(stripped_head.data.max()))
            seen.add(before)
    assert len(seen) > 3


def test_a_click_in_one_moves_both_and_the_wheel_goes_through_slices(pages, opened):
    with opened(pages["viewer"]) as page:
        box = page.locator("#after").bounding_box()
        start, picture = _place(page), _pixels(page, "before")
        page.mouse.click(box["x"] + 0.15 * box["width"], box["y"] + 0.2 * box["height"])
        page.wait_for_timeout(200)
        clicked = _place(page)
        assert clicked != start
        assert _pixels(page, "before") != picture
        page.mouse.wheel(0, 120)
        page.wait_for_timeout(300)
        assert sum(a != b for a, b in zip(clicked, _place(page), strict=True)) == 1


@pytest.mark.parametrize(("plane", "across", "up"), [("0", 0, 1), ("1", 0, 2), ("2", 1, 2)])
def test_right_is_on_the_left_and_front_and_top_are_up(pages, opened, plane, across, up):
    """RAS+ voxels count towards right, front and top; in the sagittal plane one looks at a face that looks left."""
    with opened(pages["viewer"]) as page:
        page.select_option("#planes", plane)
        page.wait_for_timeout(200)
        box = page.locator("#before").bounding_box()

        def clicked(x, y):
            page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
            page.wait_for_timeout(200)
            return _place(page)

        left, right, top, bottom = (clicked(*at) for at in ((0.42, 0.5), (0.58, 0.5), (0.5, 0.42), (0.5, 0.58)))
        assert left[across] > right[across]
        assert top[up] > bottom[up]


def test_zoom_window_planes_and_swap(pages, opened):
    with opened(pages["viewer"]) as page:
        page.focus("#pictures")
        page.keyboard.press("+")
        assert page.inner_text("#zoom") == "1.3 ×"
        page.keyboard.press("-")
        page.keyboard.press("b")
        assert page.input_value("#high") == "95"
        page.locator("#low").fill("20")
        assert page.inner_text("#low + output").count("|") == 1
        picture = _pixels(page, "before")
        page.select_option("#planes", "2")
        page.wait_for_timeout(200)
        assert _pixels(page, "before") != picture
        page.focus("#pictures")
        page.keyboard.press("Space")
        assert page.locator("#before").is_visible() != page.locator("#after").is_visible()
        page.keyboard.press("Space")
        assert page.locator("#after").is_visible()
        page.keyboard.press("0")
        assert page.locator("#before").is_visible()
        assert page.locator("#after").is_visible()


def test_dragging_with_the_right_button_sets_one_window_for_both(pages, opened):
    with opened(pages["viewer"]) as page:
        box = page.locator("#before").bounding_box()
        old = page.inner_text("#high + output")
        page.mouse.move(box["x"] + 150, box["y"] + 150)
        page.mouse.down(button="right")
        page.mouse.move(box["x"] + 170, box["y"] + 190, steps=4)
        page.mouse.up(button="right")
        now = page.inner_text("#high + output")
        assert now != old
        before, after = (float(part) for part in now.split(" | "))
        assert after / before == pytest.approx(3, rel=0.02)


def test_without_webgl_it_says_so(pages, launch, opened):
    plain = launch("--disable-gpu", "--disable-3d-apis")
    with opened(pages["viewer"], browser=plain) as page:
        assert "no WebGL 2" in page.inner_text("#trouble")
        assert not page.locator("#pictures").is_visible()
    plain.close()


def test_the_demo_opens(demo, opened, tmp_path):
    file = tmp_path / "viewer-demo.html"
    file.write_bytes((demo / "sub-01_acq-simulated_desc-harmonized_T1w.viewer.html").read_bytes())
    with opened(file) as page:
        assert min(_values(page)) > 0
        assert page.locator("#trouble").is_hidden()
