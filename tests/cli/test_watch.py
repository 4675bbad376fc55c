"""``blindharmony watch`` on folders of results."""

import json
import re

import numpy as np
import pytest

from blindharmony.cli.main import main
from blindharmony.quality.metrics import WATCHED


def results(folder, values, person="sub-{:02d}"):
    """Sidecars as harmonize writes them, of one scan a day."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, value in enumerate(values, 1):
        name = person.format(number)
        figures = {measure: float(value) * (1 + index) for index, measure in enumerate(WATCHED)}
        content = {"Figures": figures, "Sources": [f"bids:raw:{name}/anat/{name}_T1w.nii.gz"]}
        (folder / f"{name}_desc-harmonized_T1w.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(0)
    return np.r_[rng.normal(0.7, 0.01, 15), rng.normal(0.8, 0.01, 15)]


@pytest.fixture
def out(tmp_path, values):
    return results(tmp_path / "out", values)


def said(capsys, *words):
    assert main(["watch", *map(str, words)]) == 0
    return capsys.readouterr()


def test_a_change_is_said_with_its_day(out, tmp_path, capsys):
    study = tmp_path / "study"
    for number in range(1, 31):
        folder = study / f"sub-{number:02d}"
        folder.mkdir(parents=True)
        # The scans were made in another order than their names have.
        date = f"2026-{1 + (number - 1) // 15:02d}-{1 + (number - 1) % 15:02d}T10:00:00"
        (folder / f"sub-{number:02d}_scans.tsv").write_text(
            f"filename\tacq_time\nanat/sub-{number:02d}_T1w.nii.gz\t{date}\n"
        )
    text = said(capsys, out, "--dates", study).out
    assert text.startswith("all scans: 30 scans, 2026-01-01 to 2026-02-15\n")
    assert text.count("since 2026-02-01: ") == len(WATCHED)
    assert re.search(r"gray / white rose from (0.69|0.7)\d* to (0.79|0.8)", text)


def test_the_dates_decide_not_the_names(tmp_path, values, capsys):
    mixed = np.random.default_rng(1).permutation(30)
    out = results(tmp_path / "out", values[mixed])
    table = tmp_path / "dates.tsv"
    lines = [f"sub-{i:02d}\t2026-03-{1 + day:02d}" for i, day in enumerate(mixed, 1)]
    table.write_text("\n".join(["participant_id\tacq_time", *lines]) + "\n")
    document = json.loads(said(capsys, out, "--dates", table, "--json").out)
    (scanner,) = document["scanners"]
    assert {change["day"] for change in scanner["changes"]} == {"2026-03-16"}
    assert {change["measure"] for change in scanner["changes"]} == set(WATCHED)
    assert all(change["size_sd"] > 3 for change in scanner["changes"])


def test_scanners_are_told_apart(tmp_path, values, capsys):
    out = results(tmp_path / "out", np.r_[values[:15], values[:15] * 1.2])
    table = tmp_path / "dates.tsv"
    lines = [f"sub-{i:02d}\t2026-03-{1 + i % 15:02d}\t{'A' if i <= 15 else 'B'}" for i in range(1, 31)]
    table.write_text("\n".join(["participant_id\tacq_time\tscanner", *lines]) + "\n")
    text = said(capsys, out, "--dates", table).out
    assert text.count("no change") == 2
    assert text.startswith("A: 15 scans")


@pytest.mark.parametrize("table", ["logs/cohort.tsv", "cohort.tsv"])
def test_scanners_are_told_apart_by_the_table_of_a_study_also_of_an_old_one(tmp_path, values, capsys, table):
    out = results(tmp_path / "out", np.r_[values[:15], values[:15] * 1.2])
    (out / table).parent.mkdir(exist_ok=True)
    rows = [f"sub-{i:02d}/anat/sub-{i:02d}_T1w.nii.gz\t{'A' if i <= 15 else 'B'}" for i in range(1, 31)]
    (out / table).write_text("\n".join(["scan\tscanner", *rows]) + "\n")
    assert said(capsys, out).out.startswith("A: 15 scans")


def test_without_dates_the_names_are_the_order_and_that_is_said(out, capsys):
    heard = said(capsys, out)
    assert "30 of 30 scans without a date" in heard.err
    assert "since sub-16_T1w.nii.gz" in heard.out


def test_the_page_shows_every_measure_and_asks_for_nothing(out, tmp_path, capsys):
    page = tmp_path / "watch.html"
    said(capsys, out, "--out", page)
    text = page.read_text()
    assert text.count('class="chart"') == len(WATCHED)
    assert "all scans: changed" in text
    # Without dates the page does not speak of days.
    assert text.count("Scan, in order of name: no date is known") == len(WATCHED)
    assert "<script" not in text
    assert text.count("<circle") == 30 * len(WATCHED)
    assert main(["watch", str(out), "--out", str(page)]) != 0
    said(capsys, out, "--out", page, "--overwrite")
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ("participant_id\tage\nsub-01\t3\n", "columns participant_id, age"),
        ("participant_id\tacq_time\nsub-01\tyesterday\n", "'yesterday' is no date"),
        ("", "columns none"),
    ],
)
def test_a_table_that_does_not_serve_is_named(out, tmp_path, capsys, table, what):
    file = tmp_path / "dates.tsv"
    file.write_text(table)
    assert main(["watch", str(out), "--dates", str(file)]) != 0
    message = capsys.readouterr().err
    assert what in message
    assert "dates.tsv" in message


def test_a_row_that_names_no_scan_and_what_a_run_has_left_do_not_count(out, tmp_path, capsys):
    table = tmp_path / "dates.tsv"
    table.write_text("filename\tacq_time\nsub-01_T1w.nii.gz\t2026-01-01\n\t2026-01-02\n")
    results(out / ".blindharmony" / "staging", [0.7] * 3, person="sub-9{:02d}")
    assert said(capsys, out, "--dates", table).out.startswith("all scans: 30 scans")


@pytest.mark.parametrize("text", ['{"Figures": {', '{"Figures": {"a": NaN}}'])
def test_a_damaged_sidecar_is_named(out, capsys, text):
    file = out / "sub-03_desc-harmonized_T1w.json"
    file.write_text(text)
    assert main(["watch", str(out)]) == 1
    assert f"{file}: this sidecar is damaged" in capsys.readouterr().err


def test_a_folder_without_results_is_said(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "none"):
        assert main(["watch", str(folder)]) != 0
    message = capsys.readouterr().err
    assert "no result here" in message
    assert "no such folder" in message
    assert main(["watch", str(tmp_path / "empty"), "--false-alarms", "2"]) != 0
    assert "not between 0 and 1" in capsys.readouterr().err
