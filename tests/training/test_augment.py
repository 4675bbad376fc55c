"""Deformed heads: the same texture as real ones, the same bytes for the same seed."""

import numpy as np
import pytest
import torch

from blindharmony.preprocessing.grid import sample_inside
from blindharmony.settings import DeformationSettings
from blindharmony.training.augmentation import deformed_points, sample_at, template_points


def volume(seed=0, shape=(20, 22, 24)):
    rng = np.random.default_rng(seed)
    data = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    mask = np.zeros(shape, bool)
    mask[3:-3, 4:-2, 2:-5] = True
    return np.where(mask, data, 0), mask


def test_sampling_agrees_with_preparation():
    data, mask = volume()
    rng = np.random.default_rng(1)
    matrix = np.eye(4)
    matrix[:3, :3] += rng.normal(0, 0.05, (3, 3))
    matrix[:3, 3] = rng.normal(0, 1, 3)
    shape = (18, 19, 21)
    expected, inside = sample_inside(data, mask, matrix, shape)
    got, got_inside = sample_at(torch.from_numpy(data), torch.from_numpy(mask).float(), template_points(shape), matrix)
    both = inside & got_inside.numpy()
    assert (inside == got_inside.numpy()).mean() > 0.999
    np.testing.assert_allclose(got.numpy()[both], expected[both], atol=2e-4)


def test_a_still_deformation_changes_nothing():
    points = template_points((8, 9, 10))
    still = DeformationSettings(linear_sd=0, shift_mm=0, bend_mm=0, flip=False)
    torch.testing.assert_close(deformed_points(points, still, np.random.default_rng(0)), points)


def test_deformations_repeat_and_differ():
    points = template_points((12, 12, 12))
    a, b, c = (deformed_points(points, DeformationSettings(), np.random.default_rng(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)


def test_the_displacement_has_the_size_asked_for():
    points = template_points((96, 96, 96))
    spec = DeformationSettings(linear_sd=0, shift_mm=0, bend_mm=3.0, flip=False)
    moves = [deformed_points(points, spec, np.random.default_rng(s)) - points for s in range(12)]
    middle = torch.stack(moves)[:, :, 24:-24, 24:-24, 24:-24]
    assert float(middle.std()) == pytest.approx(3.0, rel=0.15)
