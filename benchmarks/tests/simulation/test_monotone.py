"""Laws of the paper's eight curves: order kept, both ends kept, zero kept, one top is one curve."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blindharmony_benchmark.simulation.domains import DOMAINS
from blindharmony_benchmark.simulation.simulate import simulate

MONOTONE = [name for name, domain in DOMAINS.items() if domain.monotone]
# What scanners store: whole numbers of up to 16 bits.
stored = hnp.arrays(np.uint16, (3, 4, 5), elements=st.integers(0, 65535)).filter(lambda a: a.any())


def test_the_eight_of_the_paper():
    assert [f"gamma{g}" for g in (0.7, 0.8, 0.9, 1.2, 1.3, 1.5)] == MONOTONE[2:]
    assert MONOTONE[:2] == ["exp", "log"]


@pytest.mark.parametrize("domain", MONOTONE)
@given(image=stored)
def test_ranks_ends_and_zero_are_kept(domain, image):
    made = simulate(image, image > 0, (1, 1, 1), domain).image
    before, after = (np.unique(x.ravel(), return_inverse=True)[1] for x in (image, made))
    np.testing.assert_array_equal(before, after)  # equal stays equal, different stays different and in order
    assert made.dtype == np.float32
    assert made.max() == image.max()
    np.testing.assert_array_equal(made == 0, image == 0)


@pytest.mark.parametrize("domain", MONOTONE)
@given(image=stored, top=st.floats(100, 1e5))
def test_one_top_is_one_curve(domain, image, top):
    flat = image.ravel()
    whole = simulate(image, image > 0, (1, 1, 1), domain, top=top).image.ravel()
    brightest = flat.argmax()
    alone = np.full((1, 1, 2), flat[brightest])
    one = simulate(alone, alone > 0, (1, 1, 1), domain, top=top, scan_seed=9).image
    assert one.ravel()[0] == whole[brightest]


@pytest.mark.parametrize(
    ("domain", "formula"),
    [
        ("exp", np.exp),
        ("log", lambda x: np.log(1 + 3 * x)),
        ("gamma0.7", lambda x: x**0.7),
        ("gamma1.5", lambda x: x**1.5),
    ],
)
def test_the_papers_definition(domain, formula):
    """Min-max to [0, 1], formula, min-max to [0, 1]."""
    image = np.random.default_rng(0).uniform(0, 900, (5, 6, 7))
    image[0, 0, 0] = 0
    y = formula(image / image.max())
    expected = (y - y.min()) / (y.max() - y.min())
    made = simulate(image, image > 0, (1, 1, 1), domain).image
    np.testing.assert_allclose(made / image.max(), expected, atol=1e-6)


def test_negative_voxels_keep_their_place():
    image = np.array([-4.0, -1.0, 0.0, 2.0, 50.0]).reshape(1, 1, 5)
    for domain in MONOTONE:
        made = simulate(image, image > 0, (1, 1, 1), domain).image.ravel()
        assert (np.diff(made) > 0).all()
        assert made[2] == 0
