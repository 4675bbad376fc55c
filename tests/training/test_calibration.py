"""After calibration no other gain, mean or spread would make held-out data more probable."""

import math

import pytest
import torch

from blindharmony.flows.pyramid import LevelFlow
from blindharmony.training.pyramid import LevelData, calibrate, common_gain, latent_moments


@pytest.fixture
def level():
    """A fresh flow: a standard normal, whatever the context."""
    return LevelFlow(1, context=2, width=8, blocks=1, rounds=0).eval()


def scans(*gains):
    """Scans that are normal noise with these standard deviations."""
    shape = (1, 1, 16, 16, 16)
    return [LevelData(g * torch.randn(shape), torch.ones(1, 2, *shape[2:]), torch.ones(shape) > 0) for g in gains]


def test_scans_that_agree_get_their_gain(level):
    torch.manual_seed(1)
    held_out = scans(1.08, 1.08, 1.08, 1.08)
    before = common_gain(level, held_out)
    assert before == pytest.approx(-math.log(1.08), abs=0.01)
    found = calibrate(level, held_out)
    assert abs(common_gain(level, held_out)) < 0.005
    assert found.spread > 0.9
    after = latent_moments(level, held_out)
    assert after.spread == pytest.approx(1, abs=1e-4)
    assert after.means[0] == pytest.approx(0, abs=1e-4)


def test_scans_that_differ_and_a_single_scan_say_little(level):
    torch.manual_seed(2)
    assert common_gain(level, scans(1.08)) == 0
    agreeing, differing = common_gain(level, scans(1.05, 1.05)), common_gain(level, scans(1.0, 1.1025))
    assert agreeing == pytest.approx(-math.log(1.05), abs=0.01)
    assert abs(differing) < 0.5 * abs(agreeing)
