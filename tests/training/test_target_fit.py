"""Training: repeatable, resumable with the same bytes, and honest about what it held out."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from blindharmony.cli.main import main
from blindharmony.errors import InputError, OutputError, UsageError
from blindharmony.flows.glow import MultiScaleSpec
from blindharmony.models.file import load_target
from blindharmony.models.restorer import RestorerSpec
from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony.quality.places import most_unlike, place_costs, unlike
from blindharmony.settings import TrainSettings
from blindharmony.training.data import hold_out, make_pool, prepare_head
from blindharmony.training.page import read_log
from blindharmony.training.target import log_name, train, with_places
from blindharmony.version import VERSION
from heads import head_grid, synthetic_brain
from targets import TINY

pytestmark = pytest.mark.usefixtures("people_once")

SMALL = RestorerSpec(width=4, deep_width=4, blocks=1)

PLAIN = PrepRecipe(n4=False)
QUICK_SETTINGS = {"copies": 1, "restorer": False, "flow_fit": {"honesty_changes": 3}}
QUICK = {"spec": TINY, "recipe": PLAIN, **QUICK_SETTINGS}


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    paths = []
    for seed in range(5):
        head = synthetic_brain(*head_grid(seed, mm=3.0), seed=seed)
        paths.append(folder / f"sub-{seed:02d}_T1w.nii.gz")
        nib.save(nib.Nifti1Image(head.data, head.affine), paths[-1])
    return paths


@pytest.fixture(scope="module")
def place(scans, tmp_path_factory):
    """Makes the name of a new model whose scans are prepared and deformed already."""
    heads = tmp_path_factory.mktemp("heads")
    *training, unseen = (prepare_head(scan, PLAIN, heads) for scan in scans)
    make_pool(training, heads, seed=0, copies=QUICK["copies"])
    make_pool([unseen], heads, seed=0, copies=0)

    def new():
        out = tmp_path_factory.mktemp("model") / "site.safetensors"
        shutil.copytree(heads, out.with_name(out.name + ".work"))
        return out

    return new


@pytest.fixture(scope="module")
def trained(scans, place):
    out = place()
    return out, train(scans, out, steps=4, **QUICK)


@pytest.mark.long
def test_the_model_knows_what_it_was_made_of(trained):
    out, target = trained
    again = load_target(out)
    assert again.digest == target.digest
    assert again.info.scans == 4
    assert again.info.made_with == VERSION
    assert again.info.held_out.scans == 1
    # Its people were taught by what the tissue network finds in each head.
    assert again.person.contrasts.shape == (5, 2)
    assert (again.person.contrasts > 0).all()
    assert len(again.info.held_out.level_bits[0]) == len(TINY.widths) + 1
    assert np.isfinite(again.info.held_out.bits_per_dim).all()
    assert again.info.recipe == PLAIN
    assert again.info.training == TrainSettings(steps=4).updated(**QUICK_SETTINGS)
    assert (np.diff(again.quantiles, axis=1) >= 0).all()
    assert not out.with_name(out.name + ".work").exists()


def test_an_interrupted_training_ends_with_the_same_bytes(scans, trained, place):
    out = place()
    seen = []

    def interrupt(stage, done, numbers):
        seen.append(stage)
        if stage.startswith("8 mm") and numbers.get("step") == 2:
            raise KeyboardInterrupt

    options = {"steps": 4, **QUICK}
    with pytest.raises(KeyboardInterrupt):
        train(scans, out, report=interrupt, **options)
    assert not out.exists()
    stages = []
    train(scans, out, resume=True, report=lambda s, d, n: stages.append(s), **options)
    # Levels that were finished are not trained again, and one that was begun goes on where it stood.
    assert not any(s.startswith("32 mm") for s in stages)
    assert sum(s.startswith("8 mm") for s in stages) == 2
    assert out.read_bytes() == trained[0].read_bytes()


def test_resuming_something_else_is_refused(scans, place):
    out = place()

    def interrupt(stage, done, numbers):
        if stage.startswith("16 mm"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(scans, out, steps=2, report=interrupt, **QUICK)
    with pytest.raises(UsageError, match="another seed"):
        train(scans, out, steps=2, seed=1, resume=True, **QUICK)
    with pytest.raises(UsageError, match="another flow_fit"):
        train(scans, out, steps=2, resume=True, **{**QUICK, "flow_fit": {"rate": 1e-3}})
    with pytest.raises(UsageError, match="had 2 steps, not 3"):
        train(scans, out, steps=3, resume=True, **QUICK)


def test_the_command_keeps_a_log_while_it_runs_and_shows_it_in_the_end(scans, place, monkeypatch, capsys):
    out = place()
    logs = []

    def quick(*what, report, **how):
        def look(stage, done, numbers):
            log = out.with_name(out.name + ".work") / "log.jsonl"
            if stage == "calibrating":
                logs.extend(json.loads(line) for line in log.read_text().splitlines())
            report(stage, done, numbers)

        return train(*what, report=look, **{**how, **QUICK})

    monkeypatch.setattr("blindharmony.training.target.train", quick)
    assert main(["train", str(scans[0].parent), "--out", str(out), "--steps", "2", "--json", "-q"]) == 0
    assert {entry["level"] for entry in logs} == set(range(len(TINY.widths) + 1))
    levels = [entry for entry in logs if "calibration" in entry]
    assert len(levels) == len(TINY.widths) + 1
    assert all(np.isfinite(entry["held_out"]) for entry in logs if entry not in levels)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last == {"stage": "end", "target": str(out), "digest": load_target(out).digest}
    page = out.with_name("site.training.html").read_text()
    for part in ("Training and held-out curves", "Calibration of the latents", "drawn at temperature 1"):
        assert part in page


def test_too_few_scans_existing_models_and_bad_scans(scans, trained, tmp_path):
    with pytest.raises(UsageError, match="at least 5"):
        train(scans[:3], tmp_path / "x.safetensors")
    with pytest.raises(OutputError, match="overwrite"):
        train(scans, trained[0])
    bad = tmp_path / "bad.nii"
    bad.write_text("no image")
    with pytest.raises(InputError, match=r"bad\.nii"):
        train([*scans, bad], tmp_path / "x.safetensors", recipe=PLAIN)


def test_the_slice_flow_of_the_published_method_can_be_added(scans, place, monkeypatch):
    tiny = MultiScaleSpec(levels=2, steps=1, width=4, coupling="affine", blocks=1, centre=0.5)
    monkeypatch.setattr("blindharmony.training.slices.small_2d", lambda: tiny)
    out = place()
    target = train(scans, out, steps=1, slice_steps=1, **QUICK)
    assert target.slices is not None
    assert load_target(out).info.slices == target.slices.spec
    assert target.slices.spec.width == tiny.width
    assert target.info.held_out.slice_bits is not None


@pytest.mark.long
def test_a_restorer_comes_with_what_it_does_to_the_targets_own_scans(scans, place, tmp_path, monkeypatch):
    monkeypatch.setattr("blindharmony.training.restorer.RestorerSpec", lambda: SMALL)
    out = place()
    target = train(
        scans, out, steps=1, **{**QUICK, "restorer": True, "restorer_steps": 2, "restorer_fit": {"error_heads": 2}}
    )
    again = load_target(out)
    assert again.info.restorer == SMALL
    assert len(again.info.held_out.restorer_change) == 1
    error = again.info.held_out.refined_error
    assert error == target.info.held_out.refined_error
    assert 0 < error.changes[0] <= error.changes[1] < 1
    sizes = error(error.changes[1], target.levels)
    assert ((sizes > 1e-4) & (sizes < 0.5)).all()
    for a, b in zip(again.restorer.state_dict().values(), target.restorer.state_dict().values(), strict=True):
        assert (a == b).all()
    curve = read_log(log_name(out)).restorer
    assert [step for step, *_ in curve] == [1, 2]
    # Another one begins with its weights: after a step of no length it has them still.
    still = {"rate": 1e-12, "lowest_rate": 0.0, "weight_decay": 0.0, "error_heads": 1}
    options = {**QUICK, "restorer": True, "restorer_steps": 1, "restorer_fit": still}
    begun = train(scans, place(), steps=1, restorer_from=out, **options)
    assert begun.info.notes == {"restorer begun with": f"{target.info.name} ({target.digest})"}
    for a, b in zip(again.restorer.state_dict().values(), begun.restorer.state_dict().values(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_a_restorer_that_is_not_there_is_nothing_to_begin_with(scans, trained, tmp_path):
    path, _ = trained
    with pytest.raises(UsageError, match="no restorer to begin with"):
        train(scans, tmp_path / "m.safetensors", restorer_from=path)
    with pytest.raises(UsageError, match="exclude each other"):
        train(scans, tmp_path / "m.safetensors", restorer_from="ds002748", restorer=False)


def test_a_target_of_many_scans_knows_what_is_usual_at_each_place(scans, trained, tmp_path, monkeypatch):
    _, target = trained
    heads, people = [prepare_head(scan, PLAIN, tmp_path) for scan in scans], [scan.name for scan in scans]
    said = []

    def report(stage, done, numbers):
        said.append((stage, done))

    assert with_places(target, heads, people, report=report) is target  # five are too few
    monkeypatch.setattr("blindharmony.training.target.FEWEST", 5)
    learned = with_places(target, heads, people, report=report)
    places = learned.places
    assert places.largest.shape == learned.dark_places.largest.shape == (5,)
    assert (places.largest > 0).all()
    assert said[-1] == ("looking at every place", 1.0)
    # What is usual is what these heads have.
    image, mask = (x.numpy() for x in heads[0].image())
    assert most_unlike(unlike(place_costs(image, mask, target), places)).z < places.largest[0]


def test_a_person_is_held_out_whole_or_not_at_all():
    scans = [Path(f"sub-{i:02d}_ses-{s}_T1w.nii") for i in range(6) for s in "12"]
    with pytest.raises(UsageError, match=r"sub-03 is among the scans to learn from and among those held out"):
        hold_out(scans, [scans[6]])
