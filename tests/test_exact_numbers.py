"""Numbers that files, papers and other programs rely on, and that no law of the method would miss."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from blindharmony.api import harmonize
from blindharmony.flows.glow import MultiScaleSpec
from blindharmony.flows.networks import ConvResNet
from blindharmony.flows.pyramid import PyramidSpec
from blindharmony.harmonization.intensity import smooth_curve
from blindharmony.harmonization.summary import rank_features
from blindharmony.io.volume import read_volume
from blindharmony.models.person import PersonModel
from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony.preprocessing.registration import load_template
from blindharmony.sampling import redrawn


def test_what_a_models_file_leaves_out_means_what_it_meant():
    """Another default would make another model of an old file."""
    assert MultiScaleSpec().model_dump() == {
        "ndim": 2,
        "channels": 1,
        "context_channels": 0,
        "levels": 3,
        "steps": 4,
        "coupling": "spline",
        "bins": 8,
        "tail_bound": 3.0,
        "minimum": 1e-3,
        "conditioner": "residual",
        "width": 32,
        "blocks": 2,
        "kernel": 3,
        "norm": "none",
        "dropout": 0.0,
        "mixing": True,
        "closing_mixing": False,
        "split_prior": False,
        "centre": 0.0,
        "grey_levels": 1,
    }
    assert PyramidSpec().model_dump() == {
        "finest_mm": 2.0,
        "shape": (80, 96, 80),
        "widths": (24, 32, 32, 32),
        "checkerboards": 1,
        "affine_rounds": 1,
        "rounds": 0,
        "blocks": 2,
        "bins": 8,
        "dropout": 0.1,
    }
    assert PrepRecipe().model_dump() == {
        "template": "icbm152-brain-1mm",
        "n4": True,
        "n4_shrink_mm": 4.0,
        "gain": "rms",
    }


def test_a_conditioner_is_as_wide_as_its_spec_says():
    shapes = [
        [tuple(weight.shape) for weight in net.parameters()] for net in (ConvResNet(1, 1), ConvResNet(1, 1, width=32))
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["checkerboards", "affine_rounds", "rounds", "blocks"])
def test_a_file_may_ask_for_sixty_four_of_anything_and_no_more(name):
    assert getattr(PyramidSpec(**{name: 64}), name) == 64
    with pytest.raises(ValidationError, match=name):
        PyramidSpec(**{name: 65})


def test_equal_calls_draw_equal_heads(tiny_target):
    brain = load_template().data
    finest = [redrawn(tiny_target, brain, brain > 0, **seed)[1] for seed in ({}, {"seed": 0}, {"seed": 1})]
    np.testing.assert_array_equal(finest[0], finest[1])
    assert np.abs(finest[0] - finest[2]).max() > 0


@pytest.mark.parametrize("which", ["source", "wanted"])
def test_rounding_is_measured_by_the_brightest_of_all(which):
    """All but the last lie below a thousandth of it: nothing is left that a parabola could be fitted to."""
    levels = np.linspace(0.2, 1, 64)
    curves = {"source": levels.copy(), "wanted": levels + 0.02 * np.sin(20 * levels)}
    curves[which][-1] = 2e3
    curve = smooth_curve(curves["source"], np.maximum.accumulate(curves["wanted"]), 1.0)
    np.testing.assert_allclose(curve(curves["source"][:-1]), curves["wanted"][:-1], rtol=1e-5)


class StopError(Exception):
    """The program has said what was asked of it."""


def test_the_curve_of_a_lone_scan_has_the_whole_usual_error(stripped_head, tiny_target, monkeypatch):
    """How far it may be from a parabola; that of two scans has less."""

    def stop(curve, share, values, error, *_):
        raise StopError(error)

    monkeypatch.setattr("blindharmony.harmonization.curve.lifting_curve", stop)
    brain = load_template().data
    features = rank_features(brain, brain > 0, tiny_target.atlas)
    rows = features + np.array([0.0, 1.0, -1.0])[:, None] * np.linspace(0.5, 1, features.size)
    curves = tiny_target.mean_curve * np.array([1.002, 1.0, 0.998])[:, None]
    recipe = PrepRecipe(n4_shrink_mm=12)
    person = PersonModel(rows, curves, np.arange(3))
    target = replace(tiny_target, person=person, info=tiny_target.info.model_copy(update={"recipe": recipe}))
    scan = read_volume((np.maximum(stripped_head.data, 0) ** 2).astype(np.float32), affine=stripped_head.affine)
    with pytest.raises(StopError) as stopped:
        harmonize(scan, target)
    assert stopped.value.args[0] == pytest.approx(float(np.sqrt(person.noise.mean())))
