"""Every kind of page, made once, and a Chromium to open it in: nothing outside the file may be asked for."""

import os
import shutil
from contextlib import contextmanager

import nibabel as nib
import pytest

from blindharmony.cli.main import main
from blindharmony.report.page import Section, render_page
from blindharmony.report.scan import write_report
from blindharmony.report.viewer import pack, write_viewer
from blindharmony.study.cohort import render_cohort
from fake_cohort import fake_rows, fake_target
from report_evidence import made_evidence

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Volumes need WebGL 2, which a machine without a graphics card computes.
_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
_INSIDE = ("file:", "data:", "blob:")


def _chromium():
    given = os.environ.get("BLINDHARMONY_CHROMIUM")
    return given or next((path for name in _NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def launch():
    """Starts the browser with given switches."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make browser-test")
    path = _chromium()
    if path is None:
        pytest.skip("no Chromium: install one, or set BLINDHARMONY_CHROMIUM")
    with playwright.sync_playwright() as driver:
        yield lambda *words: driver.chromium.launch(executable_path=path, args=["--no-sandbox", *words])


@pytest.fixture(scope="session")
def browser(launch):
    found = launch(*_WEBGL)
    yield found
    found.close()


class Seen:
    """What a page said and asked for while it was open."""

    def __init__(self):
        self.troubles, self.outside = [], []

    def watch(self, page):
        page.on("console", lambda m: self.troubles.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(_INSIDE) else self.outside.append(r.url))


@pytest.fixture(scope="session")
def opened(browser):
    """``with opened(file) as page``: fails if anything was reported or asked for outside."""

    @contextmanager
    def _open(file, *, width=1280, scheme="light", browser=browser):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
        page, seen = context.new_page(), Seen()
        seen.watch(page)
        page.goto(file.resolve().as_uri())
        if file.name.startswith("viewer"):
            page.wait_for_selector("html[data-state]", timeout=60_000)
        yield page
        context.close()
        assert seen.troubles == []
        assert seen.outside == []

    return _open


@pytest.fixture(scope="session")
def pages(tmp_path_factory, stripped_head):
    """Kind → file."""
    folder = tmp_path_factory.mktemp("pages")
    target = fake_target()
    write_report(made_evidence(), folder / "report.html")
    for count in (3, 24, 1000, 30_000):
        text = render_cohort(fake_rows(count, target), "A study", target)
        (folder / f"cohort-{count}.html").write_text(text, encoding="utf-8")
    head = stripped_head
    pair = pack(head.data, 3 * head.data, head.brain, head.affine)
    write_viewer(*pair, folder / "viewer.html", name="sub-01_T1w.nii.gz", unit="target units")
    plain = render_page(
        "a model", "Training report", [Section("Part", ("Words.",), rows=[("a", "1")], head=("x", "y"))]
    )
    (folder / "plain.html").write_text(plain, encoding="utf-8")
    return {file.stem: file for file in folder.iterdir()}


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The folder of a real result, report and viewer."""
    out = tmp_path_factory.mktemp("demo")
    assert main(["demo", str(out), "--viewer", "--quiet"]) == 0
    assert nib.load(out / "sub-01_acq-simulated_desc-harmonized_T1w.nii.gz").shape == (160, 192, 192)
    return out
