"""Every scan ends as done, failed or not started; what is done is not done again, and what has changed is."""

import csv
import json
import multiprocessing
import os
import shutil

import pytest
from fake_study import fake_run, make_study
from fake_work import whole

from blindharmony.errors import OutputError, UsageError
from blindharmony.files import write_sidecar
from blindharmony.jobs.processes import ProcessEngine
from blindharmony.locks import locked
from blindharmony.study.cohort import cohort_rows, write_table
from blindharmony.study.ledger import Ledger, publish, remove
from blindharmony.study.run import held


def results(out):
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.glob("sub-*/**/*")) if p.is_file()}


def failures(out):
    with (out / "logs/failures.tsv").open() as file:
        return {row["scan"].split("/")[0]: row for row in csv.DictReader(file, delimiter="\t")}


def test_stages_of_groups_and_single_scans(study, tmp_path, diary):
    out = tmp_path / "out"
    tally = fake_run(study, out)
    assert (tally.done, tally.kept, tally.failed) == (6, 0, {})
    begun = [line.split()[0] for line in diary()]
    # Two rounds of looks for five scans in two groups; the sixth goes alone.
    assert (begun.count("look"), begun.count("harmonize")) == (10, 6)
    assert len(results(out)) == 12
    assert all(whole(out / name) for name in results(out))
    assert b"alone" in results(out)["sub-05/anat/sub-05_desc-harmonized_T1w.json"]
    assert failures(out) == {}
    assert not list(out.glob(".blindharmony/staging/*/*"))
    again = fake_run(study, out)
    assert (again.done, again.kept) == (0, 6)
    assert len(diary()) == 16


def test_bytes_do_not_depend_on_the_engine(study, tmp_path):
    fake_run(study, tmp_path / "a")
    fake_run(study, tmp_path / "b", ProcessEngine([{}, {}]))
    assert results(tmp_path / "a") == results(tmp_path / "b")


def test_what_has_changed_is_noticed_and_done_again(study, tmp_path, diary):
    out, scan = tmp_path / "out", study / "sub-05/anat/sub-05_T1w.nii.gz"
    fake_run(study, out)
    before = scan.stat()
    scan.write_text("ok: x")  # as long as before, and with the old date
    os.utime(scan, ns=(before.st_atime_ns, before.st_mtime_ns))
    said = []
    assert fake_run(study, out, say=said).done == 1
    assert any("sub-05_T1w: computed again: the scan is another file" in line for line in said)
    # One scan of a group: the group is fitted again, for all of its scans.
    (study / "sub-00/anat/sub-00_T1w.nii.gz").write_text("ok: y")
    said = []
    assert fake_run(study, out, say=said).done == 3
    assert sum("its scanner is fitted to other scans" in line for line in said) == 3
    said, begun = [], len(diary())
    assert fake_run(study, out, seed=1, say=said).done == 6
    assert sum("seed is 1, was 0" in line for line in said) == 6
    assert [line.split()[0] for line in diary()[begun:]] == ["harmonize"] * 6  # looks do not depend on it
    (out / "sub-03/anat/sub-03_desc-harmonized_T1w.nii.gz").write_bytes(b"half")
    (out / "sub-04/anat/sub-04_desc-harmonized_T1w.json").unlink()
    said = []
    assert fake_run(study, out, seed=1, say=said).done == 2
    assert any("sub-03_desc-harmonized_T1w.nii.gz is not as it was written" in line for line in said)
    assert any("sub-04_desc-harmonized_T1w.json is missing" in line for line in said)
    (out / ".blindharmony/scans/sub-01_T1w/record.json").write_text("{")
    assert fake_run(study, out, seed=1).done == 1


@pytest.mark.long
def test_scans_that_fail_have_a_reason_and_stop_nobody(tmp_path, diary):
    same = {"DeviceSerialNumber": "1"}
    texts = {"sub-01": "ok: 1", "sub-02": "fail: 2", "sub-03": "ok: 3", "sub-04": "fail: 4", "sub-05": "die: 5"}
    root = make_study(tmp_path / "s", {**texts, "sub-06": "ok: 6"}, dict.fromkeys(("sub-01", "sub-02", "sub-03"), same))
    (root / "sub-06/anat/sub-06_run-2_T1w.nii.gz").symlink_to(tmp_path / "gone")
    out = tmp_path / "out"
    said = []
    tally = fake_run(root, out, ProcessEngine([{}, {}]), say=said)
    assert (tally.done, len(tally.failed), tally.finished, tally.total) == (3, 4, 7, 7)
    found = failures(out)
    assert {k: v["status"] for k, v in found.items()} == dict.fromkeys(
        ("sub-02", "sub-04", "sub-05", "sub-06"), "failed"
    )
    assert "the scan is a fake; take another" in found["sub-02"]["reason"]
    assert "signal 9" in found["sub-05"]["reason"]
    assert "link to nothing" in found["sub-06"]["reason"]
    assert sum("trying once more" in line for line in said) == 1
    assert sum("sub-05" in line for line in diary()) == 2
    record = json.loads((out / ".blindharmony/scans/sub-01_T1w/record.json").read_text())
    assert record["fingerprint"]["scanner"]  # fitted to the two that could be read
    # A second run tries them again; what is repaired is done.
    (root / "sub-04/anat/sub-04_T1w.nii.gz").write_text("ok: 4")
    again = fake_run(root, out, ProcessEngine([{}]))
    assert (again.done, again.kept, len(again.failed)) == (1, 3, 3)
    # One that was done and now fails does not keep a result of its former self.
    (root / "sub-04/anat/sub-04_T1w.nii.gz").write_text("fail: 5")
    fake_run(root, out, ProcessEngine([{}]), participants=["04"])
    assert not list((out / "sub-04/anat").iterdir())
    assert "sub-01" not in failures(out)


def test_a_worker_lost_once_is_made_up_for(tmp_path):
    root = make_study(tmp_path / "s", {"sub-01": "die once: 1", "sub-02": "ok: 2"})
    assert fake_run(root, tmp_path / "out", ProcessEngine([{}, {}])).done == 2


def test_with_one_readable_scan_a_group_is_that_scan_alone(tmp_path):
    same = {"DeviceSerialNumber": "1"}
    root = make_study(tmp_path / "s", {"sub-01": "ok: 1", "sub-02": "fail: 2"}, {"sub-01": same, "sub-02": same})
    fake_run(root, tmp_path / "out")
    assert b"alone" in results(tmp_path / "out")["sub-01/anat/sub-01_desc-harmonized_T1w.json"]


def test_the_last_scan_of_a_group_keeps_the_curve_that_all_have_taught(tmp_path):
    same = {"DeviceSerialNumber": "1"}
    texts = {"sub-01": "ok: 1", "sub-02": "ok: fails at the second look"}
    root = make_study(tmp_path / "s", texts, dict.fromkeys(texts, same))
    assert fake_run(root, tmp_path / "out").done == 1
    assert b"alone" not in results(tmp_path / "out")["sub-01/anat/sub-01_desc-harmonized_T1w.json"]


def test_a_full_disk_stops_the_run_and_the_rest_is_not_started(tmp_path):
    texts = {f"sub-0{i}": "full: 3" if i == 3 else f"ok: {i}" for i in range(6)}
    root, out = make_study(tmp_path / "s", texts), tmp_path / "out"
    with pytest.raises(OutputError, match="run the same command again"):
        fake_run(root, out)
    assert {v["status"] for v in failures(out).values()} == {"not started"}
    assert len(results(out)) == 6
    (root / "sub-03/anat/sub-03_T1w.nii.gz").write_text("ok: 3")
    tally = fake_run(root, out)
    assert (tally.done, tally.kept) == (3, 3)


def test_what_every_scan_would_meet_ends_the_run_and_takes_no_earlier_result(tmp_path):
    root, out = make_study(tmp_path / "s", {f"sub-0{i}": f"ok: {i}" for i in range(4)}), tmp_path / "out"
    fake_run(root, out)
    before = results(out)
    for i in range(4):
        (root / f"sub-0{i}/anat/sub-0{i}_T1w.nii.gz").write_text("usage: the same for all")
    with pytest.raises(UsageError, match="no method 'curv'"):
        fake_run(root, out)
    assert results(out) == before


def test_a_scan_for_which_memory_ran_out_keeps_its_earlier_result(tmp_path):
    same = {"DeviceSerialNumber": "1"}
    texts = {f"sub-0{i}": f"ok: {i}" for i in range(3)}
    root, out = make_study(tmp_path / "s", texts, dict.fromkeys(texts, same)), tmp_path / "out"
    fake_run(root, out)
    before = results(out)
    for look in (out / ".blindharmony/scans").rglob("round*.safetensors"):
        look.unlink()
    (root / "sub-01/anat/sub-01_T1w.nii.starved").touch()
    (root / "sub-02/anat/sub-02_T1w.nii.gz").write_text("ok: another")
    tally = fake_run(root, out, refit=True)
    assert list(tally.failed) == ["sub-01_T1w"]
    assert "memory" in tally.failed["sub-01_T1w"]
    assert tally.failed["sub-01_T1w"].endswith("its earlier result is kept")
    kept = [name for name in before if "sub-01" in name]
    assert kept
    assert [results(out)[name] for name in kept] == [before[name] for name in kept]


def _hold(path, ready, release):
    with locked(path):
        ready.set()
        release.wait(20)


def test_a_second_run_says_so(study, tmp_path):
    fork = multiprocessing.get_context("fork")
    ready, release = fork.Event(), fork.Event()
    other = fork.Process(target=_hold, args=(tmp_path / "out/.blindharmony/lock", ready, release))
    other.start()
    assert ready.wait(20)
    with pytest.raises(OutputError, match=f"another run is working here .process {other.pid}"):
        fake_run(study, tmp_path / "out")
    release.set()
    other.join()
    assert fake_run(study, tmp_path / "out").done == 6


def _hold_people(out, ready, release):
    with held(Ledger(out), ["01"]):
        ready.set()
        release.wait(20)


def test_jobs_of_an_array_work_beside_each_other(tmp_path):
    """Each on participants of its own; a run of everybody has to wait."""
    fork = multiprocessing.get_context("fork")
    ready, release, out = fork.Event(), fork.Event(), tmp_path / "out"
    other = fork.Process(target=_hold_people, args=(out, ready, release))
    other.start()
    assert ready.wait(20)
    left = out / ".blindharmony/staging/of-the-other"
    left.mkdir(parents=True)
    with held(Ledger(out), ["sub-02", "03"]):
        assert left.exists()
    with pytest.raises(OutputError, match="another run"), held(Ledger(out), ["sub-01"]):
        pass
    with pytest.raises(OutputError, match="another run"), held(Ledger(out)):
        pass
    release.set()
    other.join()
    with held(Ledger(out)):
        assert not left.exists()


def test_what_a_killed_harmonize_left_in_the_folder_is_swept(tmp_path):
    out = tmp_path / "out"
    left = out / ".sub-01_desc-harmonized_T1w.json.1-abcd.tmp"
    left.mkdir(parents=True)
    (left / "sub-01_desc-harmonized_T1w.nii.gz").write_bytes(b"a brain")
    with held(Ledger(out)):
        assert not left.exists()


def test_a_subject_that_left_the_data_set_leaves_the_plan_but_not_its_results(tmp_path):
    root, out = make_study(tmp_path / "s", {"sub-1": "ok", "sub-2": "fail", "sub-3": "ok"}), tmp_path / "out"
    fake_run(root, out)
    assert set(failures(out)) == {"sub-2"}
    for gone in ("sub-1", "sub-2"):
        shutil.rmtree(root / gone)
    fake_run(root, out)
    assert {r["participant_id"]: r["status"] for r in cohort_rows(Ledger(out))} == {"sub-1": "done", "sub-3": "done"}
    assert failures(out) == {}


def test_a_plan_may_be_larger_than_any_text_of_a_stranger(tmp_path):
    ledger = Ledger(tmp_path)
    scans = {f"sub-{i}": {"scan": f"sub-{i}/anat/x", "why": "x" * 1000} for i in range(10_000)}
    write_sidecar(ledger.home / "plan.json", {"scans": scans}, overwrite=True)
    assert len(list(ledger.entries())) == 10_000


def test_no_result_leaves_the_output_folder(study, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    out.mkdir()
    (out / "sub-05").symlink_to(elsewhere)
    tally = fake_run(study, out)
    assert "leads out of the output folder" in tally.failed["sub-05_T1w"]
    assert not list(elsewhere.rglob("*.*"))
    for folder in ("../x", ".", "/tmp", "a/../../x"):
        with pytest.raises(OutputError, match="leads out"):
            publish(tmp_path, out, folder, tmp_path, {})
    kept = elsewhere / "kept.txt"
    kept.touch()
    remove(out, ["../elsewhere/kept.txt", "sub-05/kept.txt"])
    assert kept.exists()


def test_results_that_a_run_no_longer_makes_are_removed(tmp_path):
    out, home = tmp_path / "out", tmp_path / "home"
    for names in (("a.nii.gz", "a.html"), ("a.nii.gz",)):
        staged = out / ".blindharmony/staging/r/s"
        staged.mkdir(parents=True)
        for name in names:
            (staged / name).touch()
        (staged / ".a.json.1-abc.tmp").mkdir()  # a folder lent to a writer that the disk did not let go
        publish(staged, out, "sub-1/anat", home, {})
        assert not staged.exists()
        assert sorted(p.name for p in (out / "sub-1/anat").iterdir()) == sorted(names)


def test_the_table_knows_all_runs(study, tmp_path):
    out = tmp_path / "out"
    fake_run(study, out, participants=["00", "01"])
    fake_run(study, out, participants=["05"])
    (out / "sub-05/anat/sub-05_desc-harmonized_T1w.json").unlink()
    rows = cohort_rows(Ledger(out))
    assert [(r["participant_id"], r["status"], r["scanner_scans"]) for r in rows] == [
        ("sub-00", "done", 2),
        ("sub-01", "done", 2),
        ("sub-05", "results missing", 1),
    ]
    lines = write_table(Ledger(out), rows).read_text().splitlines()
    assert len({line.count("\t") for line in lines}) == 1
    assert "n/a" in lines[1]


def test_a_lesion_mask_that_comes_or_changes_is_noticed(study, tmp_path):
    out, lesions = tmp_path / "out", tmp_path / "lesions"
    drawn = lesions / "sub-05/anat/sub-05_label-lesion_mask.nii.gz"
    drawn.parent.mkdir(parents=True)
    fake_run(study, out)
    for text in ("a", "bc"):
        drawn.write_text(text)
        said = []
        assert fake_run(study, out, say=said, lesions=lesions).done == 1
        assert any("sub-05_T1w: computed again: the lesion mask is another" in line for line in said)
        assert fake_run(study, out, lesions=lesions).kept == 6
    drawn.unlink()
    drawn.symlink_to(tmp_path / "dropped")
    assert "its lesion mask cannot be read" in fake_run(study, out, lesions=lesions).failed["sub-05_T1w"]
    assert fake_run(study, out).done == 1


def test_a_source_that_is_away_takes_no_result_with_it(study, tmp_path, diary):
    out = tmp_path / "out"
    fake_run(study, out)
    before, scan = results(out), study / "sub-02/anat/sub-02_T1w.nii.gz"
    content = scan.read_text()
    scan.unlink()
    scan.symlink_to(tmp_path / "dropped")
    tally = fake_run(study, out, participants=["02"])
    assert "its earlier result is kept" in tally.failed["sub-02_T1w"]
    assert failures(out)["sub-02"]["status"] == "kept"
    assert results(out) == before
    scan.unlink()
    scan.write_text(content)
    seen = len(diary())
    assert fake_run(study, out).kept == 6
    assert len(diary()) == seen
    assert not failures(out)


def test_scanners_that_no_result_names_any_more_go(study, tmp_path):
    out, lines = tmp_path / "out", []
    fake_run(study, out)
    before = {f.name for f in (out / "scanners").iterdir()}
    mine = out / "scanners" / "notes.json"
    mine.write_text("{}")
    scan = study / "sub-00/anat/sub-00_T1w.nii.gz"
    scan.write_text("ok: another")
    fake_run(study, out, say=lines)
    after = {f.name for f in (out / "scanners").iterdir()} - {mine.name}
    assert len(before) == len(after) == 2
    assert len(before & after) == 1
    assert "fitted scanners that no result names any more were removed: 1" in lines
    assert mine.exists()
    # Scans that cannot be read keep their results, and what these name.
    for left in study.rglob("*.nii.gz"):
        left.unlink()
        left.symlink_to(study / "gone")
    fake_run(study, out)
    assert {f.name for f in (out / "scanners").iterdir()} - {mine.name} == after
