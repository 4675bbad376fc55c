"""Scans that come after their scanner was fitted take its curve; what is done stays as it is."""

import json

import pytest
from fake_study import fake_run, make_study

from blindharmony.study import groups as room
from blindharmony.study.cohort import cohort_rows
from blindharmony.study.ledger import Ledger

SAME = {"DeviceSerialNumber": "1"}


@pytest.fixture
def grown(tmp_path):
    """Adds scans of one scanner to a data set, and says where it is."""

    def add(*people, text="ok"):
        scans = {f"sub-{who}": f"{text}: {who}" for who in people}
        return make_study(tmp_path / "study", scans, dict.fromkeys(scans, SAME))

    return add


def states(out):
    return {row["participant_id"]: (row["scanner_scans"], row["late"]) for row in cohort_rows(Ledger(out))}


def results(out):
    return {p.name: p.read_bytes() for p in sorted(out.glob("sub-*/**/*")) if p.is_file()}


def test_new_scans_take_the_curve_and_nothing_else_is_touched(grown, tmp_path, diary):
    out, said = tmp_path / "out", []
    root = grown("01", "02", "03")
    fake_run(root, out)
    before, seen = results(out), len(diary())
    grown("04")
    tally = fake_run(root, out, say=said)
    assert (tally.done, tally.kept) == (1, 3)
    assert [line.split()[:2] for line in diary()[seen:]] == [["harmonize", "sub-04_T1w.nii.gz"]], "no scan is looked at"
    assert {name: content for name, content in results(out).items() if name in before} == before
    assert any("1 new scan takes the curve that was fitted to 3 scans before" in line for line in said)
    assert states(out) == {**{f"sub-0{i}": (4, "no") for i in (1, 2, 3)}, "sub-04": (4, "yes")}
    seen = len(diary())
    assert fake_run(root, out).kept == 4
    assert len(diary()) == seen
    # One that was late stays so when it is made again.
    (out / "sub-04/anat/sub-04_desc-harmonized_T1w.json").unlink()
    assert fake_run(root, out).done == 1
    assert states(out)["sub-04"] == (4, "yes")


def test_asked_for_a_fit_to_all_everything_is_made_again(grown, tmp_path):
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    fake_run(grown("01", "02"), out)
    root = grown("03")
    fake_run(root, out)
    assert fake_run(root, out, refit=True).done == 3
    fake_run(root, fresh)
    assert results(out) == results(fresh)
    assert fake_run(root, out, refit=True).kept == 3, "nothing is new since"
    assert {late for _, late in states(out).values()} == {"no"}


def test_many_that_follow_few_are_warned_of(grown, tmp_path):
    out, said = tmp_path / "out", []
    fake_run(grown("01", "02"), out)
    fake_run(grown("03", "04", "05"), out, say=said)
    assert any(line.startswith("warning: scanner ") and "3 new scans take" in line for line in said)


def test_one_new_person_asked_for_by_name_takes_the_curve(grown, tmp_path, diary):
    out = tmp_path / "out"
    root = grown("01", "02")
    fake_run(root, out)
    grown("03")
    seen = len(diary())
    assert fake_run(root, out, participants=["03"]).done == 1
    assert [line.split()[0] for line in diary()[seen:]] == ["harmonize"]
    assert b"alone" not in results(out)["sub-03_desc-harmonized_T1w.json"]
    (row,) = (row for row in cohort_rows(Ledger(out)) if row["late"] == "yes")
    assert row["scanner_scans"] == 3
    assert "alone" not in row["why"]
    # And one of the first, asked for by name, is what it was.
    assert fake_run(root, out, participants=["01"]).kept == 1


@pytest.mark.parametrize("change", ["another file", "gone", "another scanner's"])
def test_a_scanner_whose_scans_are_others_is_fitted_again(change, grown, tmp_path):
    out = tmp_path / "out"
    root = grown("01", "02", "03")
    fake_run(root, out)
    grown("04")
    anat = root / "sub-01/anat"
    if change == "another file":
        (anat / "sub-01_T1w.nii.gz").write_text("ok: changed")
    elif change == "gone":
        (anat / "sub-01_T1w.nii.gz").unlink()
    else:
        (anat / "sub-01_T1w.json").write_text(json.dumps({"DeviceSerialNumber": "2"}))
        room._content.cache_clear()  # another process reads it anew
    fake_run(root, out)
    assert states(out)["sub-04"][1] == "no"


def test_a_scan_that_failed_comes_late_and_one_that_is_away_is_waited_for(grown, tmp_path):
    out = tmp_path / "out"
    grown("01", "02")
    root = grown("03", text="fail")
    assert set(fake_run(root, out).failed) == {"sub-03_T1w"}
    grown("03")
    away = root / "sub-01/anat/sub-01_T1w.nii.gz"
    away.unlink()
    away.symlink_to(tmp_path / "dropped")
    tally = fake_run(root, out)
    assert (tally.done, tally.kept, set(tally.failed)) == (1, 1, {"sub-01_T1w"})
    assert states(out) == {"sub-01": (3, "no"), "sub-02": (3, "no"), "sub-03": (3, "yes")}
