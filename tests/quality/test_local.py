"""Places that are unlike the target's: found where they are, and not in a head that is like the others."""

from dataclasses import replace

import numpy as np
import pytest

from blindharmony.quality.local import LocalReference, largest_cluster, place_costs, unlike

SHAPE = (3, 40, 48, 40)


@pytest.fixture(scope="module")
def brain():
    away = np.stack(np.meshgrid(*[np.linspace(-1.2, 1.2, n) for n in SHAPE[1:]], indexing="ij"))
    return np.sum(away**2, axis=0) < 1


def made_costs(brain, seed, *, level=0.0):
    """What places cost in a made-up head: everybody's own map, this head's level, and chance."""
    rng = np.random.default_rng(seed)
    usual = np.linspace(-2, -1, SHAPE[3])
    return np.where(brain, usual + level + 0.1 * rng.normal(size=SHAPE), np.nan).astype(np.float32)


@pytest.fixture(scope="module")
def reference(brain):
    return LocalReference.of([made_costs(brain, seed) for seed in range(8)])


def test_a_head_like_the_others_has_no_heavy_cluster(brain, reference):
    others = [largest_cluster(unlike(made_costs(brain, seed), reference)).mass for seed in range(20, 24)]
    assert len(reference.masses) == 8
    assert max(others) < 2 * max(reference.masses) + 1


def test_a_place_that_costs_more_is_found_where_it_is(brain, reference):
    costs = made_costs(brain, 30)
    costs[:, 10:14, 20:24, 18:22] += 0.5
    cluster = largest_cluster(unlike(costs, reference))
    assert cluster.mass > 5 * max(reference.masses)
    np.testing.assert_allclose(cluster.centre, (48, 88, 80), atol=4)
    assert cluster.ml == pytest.approx(4.1, rel=0.3)


def test_a_head_that_costs_more_everywhere_is_not_local(brain, reference):
    noisier = largest_cluster(unlike(made_costs(brain, 31, level=3.0), reference))
    assert noisier.mass < 2 * max(reference.masses) + 1


def test_nothing_is_known_where_there_is_no_brain(brain, reference):
    z = unlike(made_costs(brain, 32), reference)
    assert np.isnan(z[~brain]).all()
    assert np.isfinite(z[brain]).all()


def test_the_flow_is_asked_at_every_level(tiny_target):
    inside = tiny_target.fit_region
    image = np.where(inside, 1.0, 0.0).astype(np.float32)
    costs = place_costs(image, inside, tiny_target)
    assert costs.shape == SHAPE
    spoiled = image.copy()
    spoiled[70:78, 90:98, 80:88] += np.random.default_rng(0).normal(0, 1, (8, 8, 8)).astype(np.float32)
    change = np.nan_to_num(place_costs(spoiled, inside, tiny_target) - costs)
    at = np.unravel_index(np.argmax(np.abs(change[0])), SHAPE[1:])
    np.testing.assert_allclose(4 * np.array(at) + 2, (74, 94, 84), atol=6)
    assert place_costs(image, inside, replace(tiny_target, pyramid=None)) is None
