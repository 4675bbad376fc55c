"""The default method, fed with a known image: which curve, which figures, which warnings."""

from dataclasses import replace

import numpy as np
import pytest

from blindharmony.harmonization.curve import harmonize_curve
from blindharmony.harmonization.summary import rank_features, summarize
from blindharmony.models.person import PersonModel
from blindharmony.preprocessing.registration import load_template


@pytest.fixture(scope="module")
def scene(tiny_target):
    """The template through a gamma, its mask, and a target that knows two kinds of person."""
    brain = load_template().data
    inside = brain > 0
    image = np.where(inside, (brain / np.sqrt((brain[inside] ** 2).mean())) ** 1.3, 0).astype(np.float32)
    plain = harmonize_curve(image, inside, tiny_target)
    own = rank_features(plain.image * tiny_target.fit_region, tiny_target.fit_region & inside, tiny_target.atlas)
    rows = own + np.array([0.0, 1.0, -1.0])[:, None] * np.linspace(0.5, 1, own.size)
    curves = tiny_target.mean_curve * np.array([1.2, 0.9, 0.9])[:, None]
    return image, inside, plain, replace(tiny_target, person=PersonModel(rows, curves, np.arange(3)))


def test_without_persons_it_is_matching_to_the_mean(scene, tiny_target):
    _, inside, plain, _ = scene
    region = tiny_target.fit_region & inside
    found = np.quantile(plain.image[region], tiny_target.levels)
    np.testing.assert_allclose(found[4:-4], tiny_target.mean_curve[4:-4], rtol=0.01)
    assert plain.error is None
    assert not plain.image[~inside].any()
    assert (np.diff(plain.intensity_map(np.linspace(0, 3, 300, dtype=np.float32))) >= 0).all()


def test_the_figures_say_how_far_the_curve_may_be_off(scene):
    image, inside, _, target = scene
    found = harmonize_curve(image, inside, target)
    assert found.figures["surprise"] < 0.3
    wanted = np.quantile(found.image[target.fit_region & inside], target.levels)
    expected = 100 * found.error.deviation.mean() / np.quantile(wanted, 0.95)
    assert found.figures["error bar (% of the brightest tissue)"] == pytest.approx(expected, rel=0.02)
    moved = np.sqrt(np.mean((summarize(image, inside, target).person - target.mean_curve) ** 2))
    assert found.figures["person's difference from the mean (rms)"] == pytest.approx(moved, rel=0.05)
    assert not found.warnings


def test_a_head_like_nobodys_is_said_to_be_one(scene):
    image, inside, _, target = scene
    person = target.person
    far = replace(target, person=replace(person, features=person.features + 50))
    found = harmonize_curve(image, inside, far)
    assert found.figures["surprise"] > 0.8
    assert "known less well than usual" in found.warnings[0]
