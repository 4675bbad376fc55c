"""What is special of Harmonizing Flows: random scanners of patches, and the adaptation to a scanner."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("monai")

from blindharmony_benchmark.networks import harmonizing_flows
from blindharmony_benchmark.networks.harmonizing_flows import HarmonizingFlows, adapted, augmented
from blindharmony_benchmark.networks.unpaired import Domain


def silent(stage, share):
    pass


@pytest.fixture
def learnt(material):
    made = HarmonizingFlows(steps=20, device="cpu")
    made.fit(material, silent)
    return made


def test_random_scanners_keep_mask_and_unit(material):
    domain = Domain(material.training, "cpu")
    x = domain.patches(np.random.default_rng(0), 64, 16)
    levels = np.asarray(material.target.mean_curve, np.float32)
    seen = augmented(x, levels, np.random.default_rng(1))
    assert seen.shape == x.image.shape
    assert seen.dtype == torch.float32
    assert (seen >= 0).all()
    assert seen.isfinite().all()
    assert not seen[x.mask == 0].any()
    rms = [float(part[x.mask > 0].square().mean().sqrt()) for part in (seen, x.image)]
    assert rms[0] == pytest.approx(rms[1], rel=0.1)
    assert len(torch.unique(seen.flatten(1).max(1).values)) == 64, "each patch has a scanner of its own"
    assert torch.equal(seen, augmented(x, levels, np.random.default_rng(1)))


def test_a_few_steps_are_better_than_nothing(material, scans, truths):
    # Scans come in one unit: the network never sees the gain of the other trained systems' tests.
    scans = [replace(s, image=s.image / np.float32(np.sqrt(np.mean(s.image[s.mask] ** 2)))) for s in scans]
    made = HarmonizingFlows(steps=40, device="cpu")
    made.fit(material, silent)
    found = made.harmonize(scans, material)

    def error(images):
        return np.mean([np.mean((x - t.image)[t.mask] ** 2) for x, t in zip(images, truths, strict=True)])

    assert error(found) < 0.97 * error([s.image for s in scans])
    for x, scan in zip(found, scans, strict=True):
        assert x.dtype == np.float32
        assert (x >= 0).all()
        assert not x[~scan.mask].any()


def test_adapting_lowers_bits_and_leaves_what_was_learnt(learnt, material, scans, monkeypatch):
    monkeypatch.setattr(harmonizing_flows, "_RATE", 1e-3)
    task, source = learnt._task, Domain(scans, "cpu")
    monkeypatch.setattr(task, "typical_bits", lambda: -np.inf)
    before = {k: v.clone() for k, v in task.networks.state_dict().items()}
    x = source.patches(np.random.default_rng(5), 8, task.side)

    def bits(net):
        with torch.no_grad():
            return float(task.bits(net(*x), x.mask, np.random.default_rng(0)).mean())

    one, two = (adapted(task, source, 12, seed=0) for _ in range(2))
    assert bits(one) < bits(task.harmonizer)
    assert all(torch.equal(v, before[k]) for k, v in task.networks.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_scans_as_typical_as_the_targets_are_not_adapted_to(learnt, material, truths, monkeypatch):
    task = learnt._task
    monkeypatch.setattr(task, "typical_bits", lambda: np.inf)
    net = adapted(task, Domain(truths, "cpu"), 12, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), task.harmonizer.parameters(), strict=True))


def test_every_scanner_begins_anew(learnt, material, scans, truths, monkeypatch):
    monkeypatch.setattr(learnt._task, "typical_bits", lambda: -np.inf)
    first = learnt.harmonize(scans, material)
    learnt.harmonize(truths, material)
    for x, y in zip(first, learnt.harmonize(scans, material), strict=True):
        np.testing.assert_array_equal(x, y)
    quick = learnt.harmonize(scans, replace(material, turns=0))
    assert np.abs(quick[0] - first[0]).max() > 0
