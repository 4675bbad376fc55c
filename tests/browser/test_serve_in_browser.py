"""The page for people without a terminal: scans dropped, watched, opened, deleted; a real server, a real browser."""

import json
import re
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import pytest

pytest.importorskip("fastapi", reason="pip install blindharmony[ui]")
sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
from live import FAKE_SERVER, REAL_SERVER, Live

from blindharmony.preprocessing.registration import load_template
from dicoms import write_series

pytestmark = [pytest.mark.slow, pytest.mark.browser]

# Puts files onto the page as a hand would that drags them from a folder.
_DROP = """async ([selector, files]) => {
  const data = new DataTransfer();
  for (const [name, content] of files) {
    const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
    data.items.add(new File([bytes], name));
  }
  const zone = document.querySelector(selector);
  for (const kind of ['dragenter', 'dragover', 'drop'])
    zone.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@pytest.fixture
def scan(stripped_head, tmp_path):
    file = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(stripped_head.data[::2, ::2, ::2], stripped_head.affine), file)
    return file


@pytest.fixture
def live(tmp_path):
    server = Live(FAKE_SERVER, tmp_path / "jobs")
    yield server
    if server.process.poll() is None:
        server.end(signal.SIGKILL)


@contextmanager
def visiting(browser, server, *, width=1280, scheme="light", expected=()):
    """The page in a browser that was given the link; fails if it complains or asks anybody else."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, accept_downloads=True)
    # Time on a shared machine says nothing about a page.
    context.set_default_timeout(90_000)
    troubles, outside = [], []

    def watch(page):
        page.on("console", lambda m: troubles.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: troubles.append(str(error)))

    # The server is told by its port: everything else is outside.
    context.on(
        "request", lambda r: None if r.url.startswith((server.site, "data:", "blob:")) else outside.append(r.url)
    )
    context.on("page", watch)
    page = context.new_page()
    page.goto(server.link)
    assert page.url == server.site + "/"
    yield page
    context.close()
    assert [t for t in troubles if not any(words in t for words in expected)] == []
    assert outside == []


def _drop(page, *files):
    import base64

    page.evaluate(_DROP, ["#drop", [[name, base64.b64encode(content).decode()] for name, content in files]])


def _until(page, condition, seconds=90.0):
    # The page's own policy forbids the browser's way of waiting, which evaluates text.
    end = time.time() + seconds
    while not page.evaluate(condition):
        assert time.time() < end, f"never: {condition}"
        page.wait_for_timeout(50)


def _done(page, count=1, state="done", seconds=90.0):
    _until(page, f"document.querySelectorAll('.job[data-state={state}]').length === {count}", seconds)


def _axe(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: make browser-test")
    found = axe.Axe().run(page).response
    assert len(found["passes"]) > 10
    assert [(v["id"], v["nodes"][0]["html"][:150]) for v in found["violations"]] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_scans_are_dropped_watched_and_opened(width, scheme, browser, live, scan, tmp_path):
    content = scan.read_bytes()
    refused = "status of 422"
    with visiting(browser, live, width=width, scheme=scheme, expected=(refused,)) as page:
        _axe(page)
        assert page.locator("#go").is_disabled()
        _drop(page, ("Anna <b>Berg.nii.gz", content), ("slow.nii.gz", content), ("broken.nii.gz", b"no scan"))
        _drop(page, ("notes.txt", b"words"), ("fail and a very long name without end " * 3 + ".nii.gz", content))
        assert page.locator("#chosen li").count() == 5
        assert (
            "cannot" in page.locator("#chosen li", has_text="notes.txt").inner_text()
            or "not a scan" in page.locator("#chosen li", has_text="notes.txt").inner_text()
        )
        page.click("#go")
        _done(page)
        _done(page, state="running")
        _done(page, state="queued")
        # What could not be read is still in the list, with the reason.
        _until(page, "document.querySelectorAll('#chosen li').length === 2")
        assert "not compressed" in page.locator("#chosen li", has_text="broken").inner_text()
        _until(page, "document.querySelector('.job[data-state=running] progress').value === 0.5")
        going = page.locator(".job[data-state=running]").inner_text()
        assert "50 %" in going
        assert re.search(r"about \d+ s left", going)
        assert "Done in about" in page.locator(".job[data-state=queued]").inner_text()
        _axe(page)
        page.get_by_role("button", name="Cancel slow.nii.gz").click()
        _done(page, state="failed")
        _done(page, state="cancelled")
        failed = page.locator(".job[data-state=failed]").inner_text()
        assert "No brain was found. Check the scan." in failed
        done = page.locator(".job[data-state=done]")
        assert "Anna <b>Berg.nii.gz" in done.inner_text()
        assert "Good" in done.inner_text()
        _axe(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        dark = sum(map(int, page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)"))) < 200
        assert dark == (scheme == "dark")
        slider = done.get_by_role("slider")
        slider.focus()
        page.keyboard.press("End")
        assert slider.get_attribute("aria-valuetext") == "0 % harmonized"
        seen = "[...document.querySelectorAll('.compared img')].map(i => [i.naturalWidth, i.style.clipPath])"
        assert page.evaluate(seen) == [[64, ""], [64, "inset(0px 0px 0px 100%)"]]
        boxes = "[...document.querySelectorAll('.compared img')].map(i => JSON.stringify(i.getBoundingClientRect()))"
        assert len(set(page.evaluate(boxes))) == 1, "one picture lies exactly on the other"
        with page.context.expect_page() as opened:
            page.get_by_role("link", name="Open report").click()
        assert "desc-harmonized.html" in opened.value.inner_text("body")
        assert opened.value.evaluate("window.origin") == "null", "a result's page must not reach this page's server"
        with page.expect_download() as got:
            page.get_by_role("link", name="Download results").first.click()
        assert got.value.suggested_filename.endswith(".zip")


def test_a_dicom_folder_is_chosen_and_converted(browser, live, tmp_path):
    pytest.importorskip("pydicom")
    pytest.importorskip("dcm2niix")
    visit = tmp_path / "Visit 1"
    write_series(visit / "a", load_template().data[::4, ::4, ::4], (4, 4, 4), number=4)
    (visit / "note.txt").write_text("words")
    with visiting(browser, live) as page:
        page.set_input_files("#folder", str(visit))
        assert "Visit 1" in page.inner_text("#chosen")
        page.click("#go")
        _done(page)
        assert "Visit 1, series 4 t1_mprage_sag" in page.locator(".job").inner_text()
        assert page.locator("#chosen li").count() == 0


def test_everything_works_by_keyboard(browser, live, scan):
    # What is deleted at the end may still be on its way to the page.
    with visiting(browser, live, expected=("ERR_CONTENT_LENGTH_MISMATCH", "404")) as page:
        page.set_input_files("#files", [str(scan)])
        page.locator("body").press("Tab")
        seen = []
        for _ in range(12):
            outline, name = page.evaluate(
                """() => { const e = document.activeElement, label = e.labels && e.labels[0];
                const shown = e.id === 'files' ? label : e;
                const name = e.ariaLabel || (label && label.innerText) || e.innerText;
                return [getComputedStyle(shown).outlineStyle, name] }"""
            )
            seen.append(name.strip())
            assert outline != "none", name
            if name.strip() == "Harmonize":
                break
            page.keyboard.press("Tab")
        wanted = (
            "Choose files",
            "Choose a DICOM folder",
            "Remove scan.nii.gz",
            "Target scanner",
            "These scans are from one scanner",
            "Harmonize",
        )
        assert [n for n in seen if n in wanted] == list(wanted)
        page.keyboard.press("Enter")
        _done(page)
        assert page.evaluate("document.activeElement.id") == "jobs-title"
        page.get_by_role("button", name="Delete scan.nii.gz").focus()
        page.keyboard.press("Enter")
        assert page.locator("dialog").is_visible()
        page.keyboard.press("Escape")
        assert page.locator(".job").count() == 1
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        _until(page, "document.querySelectorAll('.job').length === 0")
        assert "deleted" in page.inner_text("#said")


def test_what_a_button_could_not_do_is_said_and_stays(browser, live, scan):
    job = live.add({"scan.nii.gz": scan.read_bytes()})
    live.until(job, "done")
    with visiting(browser, live, expected=("409",)) as page:
        page.route(
            "**/api/jobs/*", lambda route: route.fulfill(status=409, body='{"what": "it is in use", "remedy": "wait"}')
        )
        page.get_by_role("button", name="Delete scan.nii.gz").click()
        page.click("#ask-yes")
        page.wait_for_selector("#failed:not([hidden])")
        page.wait_for_timeout(4000)  # it is looked after the jobs once more
        assert page.inner_text("#failed") == "scan.nii.gz was not deleted. It is in use. Wait."
        assert "deleted" not in page.inner_text("#said")
        page.unroute("**/api/jobs/*")
        page.get_by_role("button", name="Delete scan.nii.gz").click()
        page.click("#ask-yes")
        page.wait_for_selector("#failed", state="hidden")
        assert "deleted" in page.inner_text("#said")


def test_one_scanner_is_one_job_and_waits_for_a_decision_about_a_bad_scan(browser, live, scan):
    content = scan.read_bytes()
    with visiting(browser, live, expected=("status of 422",)) as page:
        _drop(page, ("a.nii.gz", content), ("broken.nii.gz", b"no scan"), ("b.nii.gz", content))
        page.check("#together")
        page.click("#go")
        _until(page, "document.querySelector('#hint').textContent.startsWith('Remove what')")
        assert page.locator(".job").count() == 0
        page.get_by_role("button", name="Remove broken.nii.gz").click()
        page.click("#go")
        _done(page)
        assert page.locator(".job h4").all_inner_texts() == ["a.nii.gz", "b.nii.gz"]
        _axe(page)


def test_trouble_that_passes_is_tried_again_with_nothing_lost(browser, live, scan):
    content, went = scan.read_bytes(), []

    def once(route):
        went.append(route.request.method)
        if len(went) == 1:
            route.abort()
        elif went.count("POST") == 1 and route.request.method == "POST":
            route.fulfill(status=503, json={"what": "busy", "remedy": "try again"})
        else:
            route.continue_()

    with visiting(browser, live, expected=("ERR_FAILED", "status of 503")) as page:
        page.route("**/api/uploads*", once)
        page.route("**/api/jobs", lambda route: once(route) if route.request.method == "POST" else route.continue_())
        page.check("#together")
        _drop(page, ("one.nii.gz", content), ("two.nii.gz", content))
        for message in ("connection broke off", "Busy. Try again"):
            page.click("#go")
            _until(page, "document.getElementById('go').textContent.startsWith('Harmonize')")
            assert message.lower() in page.locator("#chosen li", has_text="one.nii.gz").inner_text().lower()
            assert page.locator("#go").is_enabled()
        page.click("#go")
        _done(page)
        assert went == ["PUT", "PUT", "PUT", "POST", "POST"], "what was sent is not sent again"
        assert page.locator(".job").count() == 1
        assert all(name in page.locator(".job").inner_text() for name in ("one.nii.gz", "two.nii.gz"))


def test_an_open_page_outlives_the_server(browser, live, scan, tmp_path):
    port = live.site.rpartition(":")[2]
    gone = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_SOCKET")
    with visiting(browser, live, expected=gone) as page:
        page.set_input_files("#files", [str(scan)])
        page.click("#go")
        _done(page)
        live.end(signal.SIGKILL)
        page.wait_for_selector("#away:visible")
        assert "not running" in page.inner_text("#away")
        again = Live(FAKE_SERVER, tmp_path / "jobs", port)
        page.wait_for_selector("#away", state="hidden")
        assert page.locator(".job[data-state=done]").count() == 1
        again.end(signal.SIGKILL)


def test_without_the_link_it_says_how_to_get_in(browser, live):
    page = browser.new_page()
    page.goto(live.site)
    assert "whole link" in page.inner_text("main")
    page.close()


def test_the_demo_scan_from_drop_to_viewer(browser, tmp_path):
    server = Live(REAL_SERVER, tmp_path / "jobs", "--quiet")
    demo = Path(__file__).parents[2] / "src" / "blindharmony" / "assets" / "sub-01_T1w.nii.gz"
    try:
        with visiting(browser, server) as page:
            _drop(page, (demo.name, demo.read_bytes()))
            page.click("#go")
            _done(page, state="running")
            _done(page, seconds=1800)
            with page.context.expect_page() as opened:
                page.get_by_role("link", name="Open report").click()
            report = opened.value
            shown = "document.querySelector('.panel.after img').src"
            result = report.evaluate(shown)
            report.click("button[data-flicker]")
            assert report.evaluate(shown) != result
            with page.context.expect_page() as opened:
                page.get_by_role("link", name="Compare before and after").click()
            viewer = opened.value
            viewer.wait_for_selector("html[data-state]", timeout=60_000)
            assert viewer.locator("#trouble").is_hidden()
            assert float(viewer.inner_text("#value-after")) > 0
            sidecar = json.loads(server.ask(_url(server, ".json"))[1])
            assert sidecar["Sources"] == [demo.name]
        assert server.peak_mb() < 200
    finally:
        server.end(signal.SIGINT)


def _url(server, ending):
    (job,) = server.jobs().values()
    return next(f["url"] for f in job["scans"][0]["files"] if f["name"].endswith(ending))
