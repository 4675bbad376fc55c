"""The picture of docs/serve.md: a real server, one scan done, one being harmonized, one that is cut off.

make browser-test                                    # installs what drives Chromium
python benchmarks/serve_picture.py FIRST.nii.gz SECOND.nii.gz docs/pictures/serve.jpg
"""

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

WIDTH = 1200
MINUTES = 30  # a busy machine


def until(page: Page, condition: str) -> None:
    """Wait; the page's policy forbids the browser's own way, which evaluates text."""
    for _ in range(MINUTES * 60 * 4):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(250)
    raise SystemExit(f"never: {condition}")


def harmonize(page: Page, *files: Path) -> None:
    page.set_input_files("#files", [str(file) for file in files])
    page.click("#go")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    browser_program = os.environ.get("BLINDHARMONY_CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as program:
        words = [sys.executable, "-m", "blindharmony", "serve", "--folder", f"{folder}/jobs", "--port", "8731"]
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
        try:
            link = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
            browser = program.chromium.launch(executable_path=browser_program, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": 900})
            page.set_default_timeout(MINUTES * 60_000)
            page.goto(link)
            harmonize(page, arguments.first)
            until(page, "document.querySelectorAll('.job[data-state=done]').length === 1")
            harmonize(page, arguments.second)
            until(page, "(document.querySelector('.job[data-state=running] progress') || {}).value > 0.3")
            cut = Path(folder, "sub-03_T1w.nii.gz")
            cut.write_bytes(arguments.second.read_bytes()[:2_000_000])
            harmonize(page, cut)
            until(page, "document.querySelector('#chosen p.wrong') !== null")
            png = page.screenshot(full_page=True)
            Image.open(io.BytesIO(png)).convert("RGB").save(arguments.picture, quality=85)
            print(arguments.picture, f"{arguments.picture.stat().st_size / 1000:.0f} kB")
            browser.close()
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
