"""Tables are made from records, never typed: every measured page is what its script makes of the files beside it."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKERS = {
    "measured_harmonization.md": ("tables.py", "."),
    "measured_evidence.md": ("evidence_tables.py", "."),
    "measured_flow.md": ("flow_tables.py", "."),
    "measured_study.md": ("study_tables.py", "."),
    "measured_tissue.md": ("tissue.py", "--page", "measured_tissue.json"),
    "measured_contrasts.md": ("contrasts.py", "--page", "measured_contrasts.json"),
    "measured_drift.md": ("drift.py", "--page", "measured_drift.json"),
    "measured_bars.md": ("bars.py", "--page", "measured_bars.json"),
    "measured_folds.md": ("folds.py", "--page", "measured_folds.json"),
    "measured_mutants.md": ("mutants.py", "--page", "measured_mutants.json"),
}


@pytest.mark.parametrize("page", MAKERS)
def test_a_page_is_what_its_script_makes(page, tmp_path, monkeypatch):
    for record in (ROOT / "docs").glob("measured_*.json"):
        shutil.copy(record, tmp_path)
    script, *words = MAKERS[page]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", [script, *words])
    runpy.run_path(str(ROOT / "benchmarks" / script), run_name="__main__")
    made = (tmp_path / page).read_text()
    assert made == (ROOT / "docs" / page).read_text(), "run `make bench`"


def test_messages_that_are_explained_are_those_of_the_program():
    page = (ROOT / "docs/how-to/when-a-scan-fails.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    said = [part.strip() for row in rows for text in re.findall("`([^`]+)`", row) for part in text.split("...")]
    program = "".join(p.read_text() for p in (ROOT / "src/blindharmony").rglob("*.py"))
    assert len(said) > 10
    assert [text for text in said if text and text not in program] == []
