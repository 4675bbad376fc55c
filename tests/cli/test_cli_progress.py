"""What a person sees of long runs, and what a machine reads: plain lines without a terminal, JSON when asked for."""

import io
import json
import time

import nibabel as nib
import pytest
from rich.console import Console

from blindharmony.cli.bids import StudyScreen
from blindharmony.cli.console import Pace, Screen, Stage, duration
from blindharmony.cli.main import main
from blindharmony.cli.train import TrainingScreen, stages
from blindharmony.settings import TrainSettings
from blindharmony.study.run import Tally
from blindharmony.study.work import Fingerprint, ScanRecord
from blindharmony.study.work import Stage as Step


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Moving(Stage):
    """A moving line that keeps what it showed."""

    def __init__(self):
        super().__init__(None)
        self.shown = []

    def __call__(self, stage, share, *, left=None):
        self.shown.append((stage + (f", about {duration(left)} left" if left else ""), share))


def cohort(screen, clock, *, as_json=False):
    """Four scans of one scanner: looked at, fitted, harmonized; one fails on the way."""
    stage = Moving()
    see, tally = StudyScreen(screen, stage, as_json=as_json, clock=clock), Tally(4, ahead=160.0)
    see("", tally)
    for look in range(4):
        clock.now += 10
        tally.stage, tally.pieces, tally.spent = Step.LOOK, look + 1, 10.0 * (look + 1)
        tally.ahead = 160 - tally.spent
        see("", tally)
    tally.ahead -= 30
    tally.failed["sub-03_T1w"] = "no brain"
    see("sub-03_T1w: failed: no brain", tally, problem=True)
    for done in range(3):
        clock.now += 10
        tally.done, tally.stage, tally.pieces, tally.spent = done + 1, Step.HARMONIZE, 5 + done, 70.0 + 30 * done
        tally.ahead -= 30
        place = f"sub-0{done}/anat/sub-0{done}_T1w.nii.gz"
        tally.last = ScanRecord(
            scan=place,
            group="g",
            fingerprint=Fingerprint(input="i", mask=None, settings={}, scanner=None),
            verdict="good",
            outputs={"b": 1, "a": 2},
            profile_after=[1.0],
        )
        see(f"sub-0{done}: Harmonized (10 s)", tally)
    see.end(tally)
    return stage.shown


def test_without_a_terminal_a_silent_command_says_where_it_is(capsys, monkeypatch):
    monkeypatch.setattr("blindharmony.cli.console.SILENT", 0.1)
    screen, pace = Screen(), Pace(100)
    with screen.progress("scan", left=False) as stage:
        pace.done = 50
        stage("preparing", pace.share(), left=90.0)
        time.sleep(0.5)
        stage._left = (90.0, time.monotonic() - 30)  # half a minute ago
        time.sleep(0.3)
        stage._left = (90.0, time.monotonic() - 300)  # it takes longer than was thought
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    said = list(dict.fromkeys(lines))
    assert said[0] in ("scan: preparing, 1 min 30 s left", "scan: preparing, 1 min 29 s left")
    assert "scan: preparing, 1 min 0 s left" in said
    assert said[-1].startswith("scan: preparing for ")
    assert said[-1].endswith(", slower than expected")
    assert 3 <= len(lines) <= 11
    with Screen(quiet=True).progress("scan") as stage:
        stage("preparing", 0.0)
        time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_the_time_left_goes_down_by_itself():
    screen = Screen()
    screen.err = Console(file=io.StringIO(), force_terminal=True, width=100)
    with screen.progress("scan", left=False) as stage:
        stage("preparing", 0.1, left=50.0)
        stage._left = (50.0, time.monotonic() - 20)
        stage.bars.refresh()
    drawn = screen.err.file.getvalue()
    assert "scan: preparing, 30 s left" in drawn


def test_verbose_says_each_stage_once(capsys):
    with Screen(verbose=True).progress("scan") as stage:
        for name, share in (("preparing", 0.0), ("preparing", 0.5), ("judging", 0.0)):
            stage(name, share)
    assert capsys.readouterr().err == "scan: preparing\nscan: judging\n"


def test_failures_are_counted_if_there_were_several_scans(capsys):
    screen = Screen()
    for failed, scans in ((0, 3), (1, 1), (1, 3)):
        screen.failures(failed, scans)
    assert capsys.readouterr().err == "blindharmony: 1 of 3 scans failed\n"


def test_a_cohort_run_says_stage_scans_failures_and_time_left(capsys):
    shown = cohort(Screen(), Clock())
    assert shown[0] == ("starting, 0 of 4 scans, about 2 min 40 s left", 0.0)
    # Two looks of 10 s took 20 s; two looks and four harmonizations of 30 s are left.
    assert shown[2] == ("looking at scans, 0 of 4 scans, about 2 min 20 s left", 0.0)
    assert shown[-2] == ("harmonizing, 3 of 4 scans, 1 failed, about 18 s left", 0.75)
    assert shown[-1] == ("harmonizing, 4 of 4 scans, 1 failed", 1.0)
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert lines[0] == "blindharmony: sub-03_T1w: failed: no brain"
    assert lines[2] == "[3/4] sub-01: Harmonized (10 s), 1 failed, about 18 s left"
    assert lines[3] == "[4/4] sub-02: Harmonized (10 s), 1 failed"
    assert all(line.isprintable() for line in lines)


def test_a_cohort_run_for_machines(capsys):
    cohort(Screen(quiet=True), Clock(), as_json=True)
    said = capsys.readouterr()
    found = [json.loads(line) for line in said.out.splitlines()]
    assert [f["status"] for f in found] == ["failed", "done", "done", "done", "end"]
    assert found[0] == {"scan": "sub-03_T1w", "status": "failed", "reason": "no brain"}
    assert (found[1]["scan"], found[1]["place"]) == ("sub-00_T1w", "sub-00/anat/sub-00_T1w.nii.gz")
    assert found[1]["outputs"] == ["a", "b"]
    assert "profile_after" not in found[1]
    assert found[-1] == {"status": "end", "done": 3, "done_before": 0, "failed": 1, "scans": 4}
    assert said.err.splitlines() == ["blindharmony: sub-03_T1w: failed: no brain"]


@pytest.mark.parametrize("as_json", [False, True])
def test_training_says_scans_prepared_and_time_left(as_json, capsys):
    clock = Clock()
    see = TrainingScreen(Screen(), Moving(), clock, as_json=as_json)
    for index in range(4):
        see(f"preparing sub-0{index} ({index + 1} of 4)", index / 4, {})
        clock.now += 15
    see("learning detail at 2 mm", 0.0, {"step": 0.0})
    clock.now += 60
    see("learning detail at 2 mm", 0.5, {"step": 100.0, "held_out": 1.25, "train": float("nan")})
    said = capsys.readouterr()
    assert "preparing sub-02 (3 of 4), 30 s left" in said.err
    assert "learning detail at 2 mm: step 100, held out 1.2500 nats ▁, 1 min 0 s left" in said.err
    found = [json.loads(line) for line in said.out.splitlines()]
    if as_json:
        assert [f["stage"] for f in found[:4]] == [f"preparing sub-0{i} ({i + 1} of 4)" for i in range(4)]
        assert found[2]["seconds_left"] == 30
        assert found[-1]["held_out"] == 1.25
        assert "train" not in found[-1]
    else:
        assert found == []


def test_training_counts_the_stages_that_come(capsys):
    clock = Clock()
    course = stages(TrainSettings(minutes=30, slice_steps=5), 10)
    see = TrainingScreen(Screen(), Moving(), clock, course=course)
    see("preparing a (1 of 10)", 0.0, {})
    clock.now += 100
    # Half is prepared at the expected pace: 100 s more, then 30 min and what is guessed for the other stages.
    see("preparing b (6 of 10)", 0.5, {})
    clock.now += 100
    see("restorer", 0.0, {"step": 0.0})
    clock.now += 60
    see("restorer", 0.1, {"step": 9.0, "held_out": 0.6})
    said = capsys.readouterr().err
    ahead = 100 + 30 * 60 + sum(course[name] for name in ("deforming", "judging", "learning", "cutting"))
    assert f"(6 of 10), {ahead // 60:.0f} min {ahead % 60:.0f} s left before the slice flow" in said
    assert "restorer: step 9, held out 0.6000 of the error left ▁, 9 min 0 s left before the slice flow" in said


def test_harmonize_for_machines(capsys, stripped_head, tiny_target_file, tmp_path):
    scan, bad = tmp_path / "scan.nii.gz", tmp_path / "bad\nname.nii"
    nib.save(nib.Nifti1Image(stripped_head.data, stripped_head.affine), scan)
    bad.write_text("not an image")
    words = ["--target", str(tiny_target_file), "--out", str(tmp_path / "out"), "--method", "match", "--viewer"]
    assert main(["harmonize", str(bad), str(scan), *words, "--json", "--no-report"]) == 1
    said = capsys.readouterr()
    failed, done = (json.loads(line) for line in said.out.splitlines())
    assert failed["scan"] == str(bad)
    assert failed["status"] == "failed"
    assert failed["remedy"]
    assert (done["scan"], done["status"]) == (str(scan), "done")
    names = [file.rpartition("/")[2] for file in done["files"]]
    stem = "scan_desc-harmonized"
    assert names == [f"{stem}.nii.gz", "scan_desc-brain_mask.nii.gz", f"{stem}.viewer.html", f"{stem}.json"]
    assert done["figures"]["change of the file (% of white matter)"] >= 0
    assert said.err.count("blindharmony: ") == 2
