"""The cohort page: sorted, filtered, chosen; a thousand scans at once."""

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def _column(page, index):
    return page.evaluate(
        "i => Array.from(document.querySelectorAll('#table tbody tr:not([hidden])')).map(r => r.cells[i].textContent)",
        index,
    )


def test_a_thousand_scans_load_within_two_seconds(pages, opened):
    assert pages["cohort-1000"].stat().st_size < 10_000_000
    with opened(pages["cohort-1000"]) as page:
        assert page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") < 2000
        assert page.locator("#table tbody tr").count() == 990
        assert page.locator("circle").count() == 990


def test_outliers_come_first_and_columns_sort(pages, opened):
    with opened(pages["cohort-1000"]) as page:
        why = [bool(text) for text in _column(page, 8)]
        assert why[0]
        assert why == sorted(why, reverse=True)
        for heading, index in (("distance before", 2), ("change %", 6)):
            button = page.locator("#table th button", has_text=heading)
            button.click()
            down = [float(text.replace("−", "-")) for text in _column(page, index)]
            assert down == sorted(down, reverse=True)
            button.press("Enter")
            assert [float(text.replace("−", "-")) for text in _column(page, index)] == sorted(down)
            assert page.locator("th[aria-sort=ascending]").inner_text().startswith(heading)


def test_filters_count_and_dim_points(pages, opened):
    with opened(pages["cohort-24"]) as page:
        page.fill("#find", "sub-000")
        assert page.inner_text("#count") == "10 of 24 scans"
        assert page.locator("circle.dim").count() == 14
        page.fill("#find", "")
        page.select_option("#scanner", "Maker-1-abcdef")
        assert set(_column(page, 7)) == {"Maker-1-abcdef"}
        page.select_option("#scanner", "")
        page.select_option("#only", "odd")
        odd = _column(page, 8)
        assert 0 < len(odd) < 24
        assert all(odd)
        page.locator("circle.dim").first.click()
        assert page.inner_text("#count") == "24 of 24 scans"
        assert page.locator("#table tbody tr:visible a[tabindex='0']").count() <= 1


def test_a_row_shows_its_point_and_lines_by_mouse_and_keyboard(pages, opened):
    with opened(pages["cohort-24"]) as page:
        page.locator("#table tbody tr").nth(3).locator("td").nth(2).click()
        assert page.locator("circle.chosen").count() == 1
        assert page.locator("path.chosen").count() == 4
        name = page.inner_text("#table tr.chosen th").split()[-1]
        assert name in page.inner_text("#chosen")
        page.focus("#table tbody tr[tabindex='0']")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        assert page.locator("#table tr.chosen").get_attribute("data-row") == "1"


def test_a_point_leads_to_its_row_and_a_name_to_its_report(pages, opened):
    with opened(pages["cohort-24"]) as page:
        page.locator("circle").nth(5).dispatch_event("click")
        assert page.locator("#table tr.chosen").count() == 1
        links = page.evaluate("Array.from(document.querySelectorAll('#table a')).map(a => a.getAttribute('href'))")
        assert len(links) == 24
        assert all(link.startswith("sub-") and link.endswith(".html") for link in links)
