"""The pictures of docs/how-to/reading-a-report.md, taken of a report and a viewer by a Chromium that is already there.

make browser-test                                    # installs what drives it
blindharmony demo demo-out --viewer --overwrite
python benchmarks/report_pictures.py demo-out/sub-01_acq-simulated_desc-harmonized_T1w.html docs/pictures
"""

import argparse
import io
import os
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

WIDTH, MARGIN = 1180, 8
SETTLED = 20_000  # milliseconds until both volumes are drawn, without a graphics card
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
PICTURES = {"report-intensities": ("histograms", "fit"), "report-preparation": ("confidence", "preparation")}


def save(png: bytes, path: Path) -> None:
    Image.open(io.BytesIO(png)).convert("RGB").save(path, quality=85)
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


def between(page: Page, first: str, last: str) -> dict[str, float]:
    """From the top of one section to the bottom of another, a little more on all sides."""
    boxes = [page.locator(f"#{name}").bounding_box() for name in (first, last)]
    top, bottom = boxes[0]["y"], boxes[1]["y"] + boxes[1]["height"]
    left, width = boxes[1]["x"], boxes[1]["width"]
    return {
        "x": left - MARGIN,
        "y": top - MARGIN,
        "width": width + 2 * MARGIN,
        "height": bottom - top + 2 * MARGIN,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    found = os.environ.get("BLINDHARMONY_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as program:
        browser = program.chromium.launch(executable_path=found, args=["--no-sandbox", *WEBGL])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        page.set_default_timeout(600_000)  # a busy machine
        page.goto(arguments.report.resolve().as_uri())
        page.wait_for_load_state("networkidle")
        save(page.screenshot(), arguments.folder / "report-verdict.jpg")
        for name, sections in PICTURES.items():
            clip = between(page, *sections)
            save(page.screenshot(full_page=True, clip=clip), arguments.folder / f"{name}.jpg")
        page.goto(arguments.report.with_suffix(".viewer.html").resolve().as_uri())
        page.wait_for_timeout(SETTLED)
        save(page.screenshot(), arguments.folder / "viewer.jpg")
        browser.close()


if __name__ == "__main__":
    main()
