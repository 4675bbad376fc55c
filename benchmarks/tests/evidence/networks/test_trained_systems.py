import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("monai")

from blindharmony.errors import BlindHarmonyError
from blindharmony_benchmark.networks import SYSTEMS
from blindharmony_benchmark.networks.cyclegan import CycleGAN
from blindharmony_benchmark.networks.regression import DeepHarmony, TargetUNet
from blindharmony_benchmark.networks.style import StyleTransfer

ALL = pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: s.name)
LEARN = [(DeepHarmony, 15), (CycleGAN, 25), (StyleTransfer, 25), (TargetUNet, 5)]


def silent(stage, share):
    pass


def error(images, truths):
    return np.mean([np.mean((x - t.image)[t.mask] ** 2) for x, t in zip(images, truths, strict=True)])


def test_names_are_unique():
    assert len({s.name for s in SYSTEMS}) == len(SYSTEMS) == 5


@pytest.mark.parametrize(("system", "steps"), LEARN, ids=lambda v: getattr(v, "name", v))
def test_a_few_steps_are_better_than_nothing(system, steps, material, scans, truths):
    told = []
    learner = system(steps=steps, device="cpu")
    learner.fit(material, lambda stage, share: told.append(share))
    found = learner.harmonize(scans, material)
    assert error(found, truths) < 0.95 * error([s.image for s in scans], truths)
    assert told == sorted(told)
    assert told[-1] == 1
    for x, scan in zip(found, scans, strict=True):
        assert x.dtype == np.float32
        assert x.shape == scan.image.shape
        assert np.isfinite(x).all()
        assert not x[~scan.mask].any()
        assert (x >= 0).all()
        assert x.max() <= max(s.image.max() for s in material.training)


class StoppedError(Exception):
    pass


@ALL
def test_resuming_gives_the_same_bytes(system, material, tmp_path):
    whole = replace(material, folder=tmp_path / "whole")
    system(steps=6, device="cpu").fit(whole, silent)

    def stop(stage, share):
        if share > 0.6:
            raise StoppedError

    with pytest.raises(StoppedError):
        system(steps=6, device="cpu").fit(material, stop)
    assert (material.folder / "checkpoint.safetensors").exists()
    system(steps=6, device="cpu").fit(material, silent)
    names = [{p.name for p in m.folder.iterdir()} for m in (whole, material)]
    assert names[0] == names[1] == {"network.safetensors", "curve.jsonl", "training.json"}
    one, two = ((m.folder / "network.safetensors").read_bytes() for m in (whole, material))
    assert one == two


@ALL
def test_what_was_learnt_is_not_learnt_again(system, material, scans, monkeypatch):
    first = system(steps=2, device="cpu")
    first.fit(material, silent)
    before = first.harmonize(scans, material)
    told = []
    again = system(steps=2, device="cpu")
    again.fit(material, lambda stage, share: told.append(share))
    assert told == []
    for x, y in zip(before, again.harmonize(scans, material), strict=True):
        np.testing.assert_array_equal(x, y)


def test_other_scans_are_learnt_anew(material):
    DeepHarmony(steps=2, device="cpu").fit(material, silent)
    told = []
    other = replace(material, pairs=material.pairs[:2])
    DeepHarmony(steps=2, device="cpu").fit(other, lambda stage, share: told.append(share))
    assert told


@ALL
def test_one_scan_is_enough(system, material, scans):
    one = replace(
        material, training=material.training[:1], held_out=(), source=material.source[:1], pairs=material.pairs[:1]
    )
    made = system(steps=1, device="cpu")
    made.fit(one, silent)
    assert np.isfinite(made.harmonize(scans[:1], one)[0]).all()


@ALL
def test_without_scans_it_says_so(system, material):
    none = replace(material, training=(), source=(), pairs=())
    with pytest.raises(BlindHarmonyError, match="leave"):
        system(steps=1).fit(none, silent)


@ALL
def test_without_monai_it_says_so(system, material, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(BlindHarmonyError, match=r"MONAI is not installed; pip install monai$"):
        system(steps=1).fit(material, silent)
