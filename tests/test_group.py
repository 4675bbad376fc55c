"""Scans of one scanner harmonized together, and later ones with what was learnt, from Python and from the command."""

import errno
import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from blindharmony.api import harmonize, learn_scanner
from blindharmony.cli import harmonize as harmonize_command
from blindharmony.cli.console import Pace
from blindharmony.cli.groups import prepared_scans, sweep_prepared
from blindharmony.cli.main import main
from blindharmony.errors import DiskFullError, InputError, OutOfMemoryError, OutputError, TooFewScansError, UsageError
from blindharmony.harmonization.curve import ScannerRounds
from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.models.file import load_target
from blindharmony.settings import HarmonizeSettings
from heads import head_grid, synthetic_brain


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Three people on one scanner with a strong gamma, each with a gain of its own."""
    folder = tmp_path_factory.mktemp("site")
    paths = []
    for seed, gain in enumerate((1.0, 2.5, 0.7)):
        head = synthetic_brain(*head_grid(seed, mm=3.0), seed=seed)
        bent = gain * (np.maximum(head.data, 0) / head.data.max()) ** 1.4 * 900
        paths.append(folder / f"sub-{seed}_T1w.nii.gz")
        nib.save(nib.Nifti1Image(bent.astype(np.float32), head.affine), paths[-1])
    return paths


def test_a_group_shares_a_curve_and_later_scans_use_it(scans, tiny_target_file, tmp_path, capsys, monkeypatch):
    paces = []
    monkeypatch.setattr(harmonize_command, "Pace", lambda *work: paces.append(Pace(*work)) or paces[-1])
    out, model = tmp_path / "out", tmp_path / "site.json"
    words = ["--target", str(tiny_target_file), "--no-report"]
    code = main(
        [
            "harmonize",
            *map(str, scans),
            *words,
            "--out",
            str(out),
            "--group",
            "--save-scanner",
            str(model),
            "--uncertainty",
        ]
    )
    assert code == 0
    said = capsys.readouterr()
    assert "one scanner to 3 scans" in said.err
    # The time left counts all work, and each piece of it once.
    assert paces[0].done == pytest.approx(paces[0].units)
    assert not (out / ".prepared").exists()
    assert json.loads(model.read_text())["scans"] == 3
    sidecar = json.loads((out / "sub-1_desc-harmonized_T1w.json").read_text())
    assert sidecar["Parameters"]["Scanner"]["Scans"] == 3
    # One by one with the saved model: the same result.
    again = tmp_path / "again"
    assert main(["harmonize", str(scans[1]), *words, "--out", str(again), "--scanner", str(model)]) == 0
    a, b = (nib.load(f / "sub-1_desc-harmonized_T1w.nii.gz").get_fdata() for f in (out, again))
    np.testing.assert_array_equal(a, b)


@pytest.mark.long
def test_a_table_names_the_scanners(scans, tiny_target_file, tmp_path, capsys):
    table = tmp_path / "scanners.tsv"
    table.write_text(f"scan\tscanner\n{scans[0].name}\tSite A\n{scans[1].name}\tSite A\n{scans[2].name}\t\n")
    words = [
        "harmonize",
        *map(str, scans),
        "--target",
        str(tiny_target_file),
        "--out",
        str(tmp_path / "o"),
        "--no-report",
    ]
    models = tmp_path / "models"
    assert main([*words, "--group-table", str(table), "--save-scanner", str(models)]) == 0
    assert "fitted scanner Site A to 2 scans" in capsys.readouterr().err
    assert [p.name for p in models.iterdir()] == ["Site-A.json"]
    found = [json.loads((tmp_path / "o" / f"sub-{i}_desc-harmonized_T1w.json").read_text()) for i in range(3)]
    assert [f["Parameters"]["Scanner"] and f["Parameters"]["Scanner"]["Scans"] for f in found] == [2, 2, None]
    assert main([*words, "--group-table", str(table), "--save-scanner", str(models), "--out", str(tmp_path / "p")]) == 1
    said = capsys.readouterr().err
    assert "Site-A.json: exists already" in said
    assert "look at" not in said, "before any work"
    for text in ("a\tb\n1\t2\n", "scan\tscanner\nother.nii\tx\n"):
        table.write_text(text)
        assert main([*words, "--group-table", str(table)]) != 0
        assert "scanners.tsv" in capsys.readouterr().err


@pytest.mark.long
def test_every_scan_of_a_group_has_its_own_mask(scans, tiny_target_file, tmp_path, capsys):
    masks, out = tmp_path / "masks", tmp_path / "out"
    words = ["harmonize", *map(str, scans[:2]), "--target", str(tiny_target_file), "--mask-dir", str(masks)]
    words += ["--out", str(out), "--group", "--no-report"]
    for scan, hint in zip(scans[:2], ("no such folder", "no brain mask for this scan"), strict=True):
        assert main(words) != 0
        assert hint in capsys.readouterr().err
        who, image = scan.name.split("_")[0], nib.load(scan)
        given = masks / who / "anat" / f"{who}_desc-brain_mask.nii.gz"
        given.parent.mkdir(parents=True)
        # A pole less than what lies above zero.
        inside = (image.get_fdata() > 0) & (np.indices(image.shape)[2] > image.shape[2] * 0.2)
        nib.save(nib.Nifti1Image(inside.astype(np.uint8), image.affine), given)
    assert main(words) == 0
    for given in masks.glob("*/anat/*"):
        used = nib.load(out / given.name).get_fdata()
        np.testing.assert_array_equal(used > 0, nib.load(given).get_fdata() > 0)
    files = [next(masks.glob(f"*/anat/{scan.name.split('_')[0]}_*")) for scan in scans[:2]]
    model = learn_scanner(scans[:2], load_target(tiny_target_file), masks=files)
    sidecar = json.loads(next(out.glob("sub-0*T1w.json")).read_text())
    assert model.content == sidecar["Parameters"]["Scanner"]["Model"]
    with pytest.raises(UsageError, match="1 masks for 2 scans"):
        learn_scanner(scans[:2], load_target(tiny_target_file), masks=files[:1])


def test_prepared_scans_go_whatever_happens_and_take_no_more_than_their_share(scans, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt), prepared_scans(tmp_path, scans) as cache:
        raise KeyboardInterrupt
    assert cache.parent == tmp_path / ".prepared"
    assert not cache.parent.exists()
    monkeypatch.setattr("blindharmony.cli.groups._MOST_GB", 1e-3)
    with prepared_scans(tmp_path, scans) as none:
        assert none is None


def _hold(out, scans, ready):
    with prepared_scans(out, scans) as cache:
        (cache / "brain.nii").write_text("patient")
        ready.set()
        time.sleep(60)


def test_what_a_killed_run_has_left_is_swept_and_its_place_is_said(scans, tmp_path, capsys):
    fork, out = multiprocessing.get_context("fork"), tmp_path / "out"
    ready = fork.Event()
    run = fork.Process(target=_hold, args=(out, scans, ready))
    run.start()
    assert ready.wait(20)
    assert sweep_prepared(out) is None, "somebody works with it"
    assert len(list(out.rglob("brain.nii"))) == 1
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    (out / ".prepared" / "of-an-older-version").mkdir()
    assert main(["harmonize", str(tmp_path / "no-such-scan.nii"), "--out", str(out)]) != 0
    assert f"a killed run had left in {out / '.prepared'} are removed" in capsys.readouterr().err
    assert list(out.iterdir()) == []


@pytest.mark.long
def test_python_has_the_same(scans, tiny_target_file, tmp_path):
    target = load_target(tiny_target_file)
    model = learn_scanner(scans, target)
    assert model.scans == 3
    found = harmonize(scans[0], target, scanner=model)
    brain = found.prepared.scan.inside()
    values = np.sort(found.estimate.image[brain])
    assert np.sqrt((np.minimum(values, np.quantile(values, 0.999)) ** 2).mean()) == pytest.approx(1, abs=0.01)
    assert found.uncertainty is None  # this target knows no persons
    words = ["harmonize", *map(str, scans), "--target", str(tiny_target_file), "--group", "--no-report", "-q"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    command = nib.load(tmp_path / "sub-0_desc-harmonized_T1w.nii.gz").get_fdata()
    np.testing.assert_array_equal(command, found.image.get_fdata())


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--save-scanner", "x.json"], "--group"),
        (["--group", "--scanner", "x.json"], "exclude"),
        (["--group", "--method", "match"], "--method curve"),
    ],
)
def test_options_that_make_no_sense_are_refused(scans, tiny_target_file, tmp_path, capsys, words, hint):
    code = main(["harmonize", str(scans[0]), "--target", str(tiny_target_file), "--out", str(tmp_path), *words])
    assert code == 2
    assert hint in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.long
def test_a_bad_scan_does_not_stop_its_group(scans, tiny_target_file, tmp_path, capsys):
    bad = tmp_path / "sub-9_T1w.nii.gz"
    bad.write_bytes(scans[0].read_bytes()[:3000])
    words = ["harmonize", *map(str, [*scans[:2], bad]), "--target", str(tiny_target_file), "--out", str(tmp_path / "o")]
    assert main([*words, "--group", "--no-report"]) == 1
    said = capsys.readouterr()
    assert "one scanner to 2 scans" in said.err
    assert len(said.out.split()) == 2
    assert "sub-9" in said.err


def test_a_model_for_another_method_is_refused(scans, tiny_target_file):
    target = load_target(tiny_target_file)
    model = ScannerModel(None, 1, target.digest, 0.0)
    with pytest.raises(UsageError, match="scanner model"):
        harmonize(scans[0], target, method="match", scanner=model)
    assert replace(model, scans=2).scans == 2


def test_scans_whose_common_curve_does_not_help_are_all_returned_as_they_were(scans, tiny_target):
    target = replace(tiny_target, digest="0" * 12)
    model = replace(learn_scanner(scans[:2], target, on_harm="result"), distances=(0.9, 1.2))
    found = harmonize(scans[0], target, scanner=model)
    assert found.returned
    assert np.array_equal(found.estimate.image, found.source_image)
    note = next(check for check in found.verdict.checks if check.name == "benefit")
    assert "The 2 scans of its scanner are 0.90" in note.message
    for asked in (
        harmonize(scans[0], target, scanner=model, on_harm="result"),
        harmonize(scans[0], target, scanner=replace(model, distances=(1.2, 0.9))),
    ):
        assert not asked.returned


def test_a_scanner_says_what_harmonizing_does(scans, tiny_target):
    target = replace(tiny_target, digest="0" * 12)
    model = learn_scanner(scans[:2], target)
    results = [harmonize(scan, target, scanner=model, on_harm="result") for scan in scans[:2]]
    before, after = (np.mean([getattr(r, when).distance for r in results]) for when in ("before", "after"))
    np.testing.assert_allclose(model.distances, (before, after), atol=2e-3)
    assert model.helps == (after < before)


def test_noise_and_blur_taken_out_count_as_help_on_any_number_of_threads(real_scan, real_target, kept_preparation):
    models = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            models.append(learn_scanner([real_scan], real_target, cache=kept_preparation))
        finally:
            torch.set_num_threads(1)
    assert models[0].digest == models[1].digest
    result = harmonize(real_scan, real_target, scanner=models[0], on_harm="result", cache=kept_preparation)
    assert result.estimate.refinement > 0
    np.testing.assert_allclose(models[0].distances, (result.before.distance, result.after.distance), atol=2e-3)


def test_whether_a_second_round_is_needed_is_an_answer_for_json(tiny_target):
    recipe = tiny_target.info.recipe.model_copy(update={"n4": True})
    target = replace(tiny_target, info=tiny_target.info.model_copy(update={"recipe": recipe}))
    curve = CurveMap.through(np.linspace(0, 1, 9), np.linspace(0, 1, 9))
    for lift in (0.0, np.float64(0.4)):
        model = ScannerModel(curve, 2, target.digest, 0.1, lift)
        found = ScannerRounds(target, model, settings=HarmonizeSettings(on_harm="result")).wanted
        assert json.dumps(found) == ("true" if lift else "false")


def test_only_what_one_scan_did_wrong_is_passed_over(scans, tiny_target, tmp_path, monkeypatch):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(scans[0].read_bytes()[:3000])
    target, left_out, looks = replace(tiny_target, digest="0" * 12), [], []
    model = learn_scanner(
        [scans[0], bad, scans[1]],
        target,
        on_error=lambda index, error: left_out.append((index, type(error))),
        progress=lambda look, index: looks.append((look, index)),
    )
    assert (model.scans, left_out, looks) == (
        2,
        [(1, InputError)] * 2,
        [(look, i) for look in (1, 2) for i in range(3)],
    )
    with pytest.raises(InputError):
        learn_scanner([scans[0], bad], target)
    with pytest.raises(TooFewScansError, match="1 of 2 scans can be used"):
        learn_scanner([scans[0], bad], target, fewest=2, on_error=lambda index, error: None)
    with pytest.raises(UsageError, match="no scan was given"):
        learn_scanner([], target)
    full = MemoryError()
    with monkeypatch.context() as patch:
        patch.setattr("blindharmony.api.summarize", lambda *a, **k: (_ for _ in ()).throw(full))
        with pytest.raises(OutOfMemoryError):
            learn_scanner(scans[:2], target, on_error=lambda index, error: None)
    full = OSError(errno.ENOSPC, "No space left on device")
    for error, raised in (
        (OutputError("read-only"), OutputError),
        (full, DiskFullError),
        (UsageError("wrong"), UsageError),
    ):

        def fails(*args, error=error, **options):
            raise error

        monkeypatch.setattr("blindharmony.api.summarize_scan", fails)
        with pytest.raises(raised):
            learn_scanner(scans, target, on_error=lambda index, error: None)
