"""What holds for every simulated scanner: same bytes, zero stays, a group shares its scanner."""

import numpy as np
import pytest

from blindharmony.errors import PreprocessingError, UsageError
from blindharmony_benchmark.simulation.domains import DOMAINS
from blindharmony_benchmark.simulation.simulate import draw_scanner, simulate


@pytest.fixture(params=list(DOMAINS))
def domain(request):
    return request.param


def test_a_scan_through_every_scanner(view, domain):
    before = view.image.copy()
    words = {"labels": view.labels, "seed": 3, "scan_seed": 4}
    one, two = (simulate(view.image, view.mask, view.spacing, domain, **words) for _ in range(2))
    assert one.image.tobytes() == two.image.tobytes()
    assert (one.settings, one.found) == (two.settings, two.found)
    assert one.image.dtype == np.float32
    assert np.isfinite(one.image).all()
    assert (one.image[view.image == 0] == 0).all()
    assert not np.array_equal(one.image, view.image.astype(np.float32))
    np.testing.assert_array_equal(view.image, before)


def test_units_do_not_matter(view, domain):
    """A scan in other units comes out the same, in these units."""
    words = {"labels": view.labels, "seed": 1}
    one = simulate(view.image, view.mask, view.spacing, domain, **words).image
    other = simulate(view.image / 500, view.mask, view.spacing, domain, **words).image
    np.testing.assert_allclose(500 * other, one, rtol=1e-4, atol=1e-3)


def test_a_group_shares_its_scanner_but_not_its_noise(view):
    made = [simulate(view.image, view.mask, view.spacing, "all", seed=5, scan_seed=s) for s in (0, 1)]
    assert made[0].settings == made[1].settings
    assert not np.array_equal(made[0].image, made[1].image)
    assert draw_scanner("all", 5) == dict(made[0].settings) != draw_scanner("all", 6)
    for name in ("bias", "noise"):
        fields = [simulate(view.image, view.mask, view.spacing, name, scan_seed=s).image for s in (0, 1)]
        assert not np.array_equal(*fields)
    for name in ("gamma1.5", "thick", "blur", "tissue"):
        words = {"labels": view.labels}
        same = [simulate(view.image, view.mask, view.spacing, name, scan_seed=s, **words).image for s in (0, 1)]
        np.testing.assert_array_equal(*same)


def test_scanners_drawn_at_random_stay_in_range():
    drawn = [draw_scanner("all", s) for s in range(200)]
    for name, low, high in (
        ("Gamma", 0.7, 1.5),
        ("GreyToWhite", 0.6, 0.85),
        ("FWHM", 1, 2),
        ("Peak", 0.1, 0.3),
        ("Sigma", 0.01, 0.05),
    ):
        values = np.array([d[name] for d in drawn])
        assert low <= values.min() < values.max() <= high


def test_all_says_whether_tissues_took_part(view):
    words = (view.image, view.mask, view.spacing, "all")
    assert simulate(*words).found["Tissue"] is False
    assert simulate(*words, labels=view.labels).found["Tissue"] is True


def test_a_prepared_image_on_the_template_grid():
    image = np.zeros((160, 192, 160), np.float32)
    image[40:120, 40:150, 40:120] = np.random.default_rng(0).uniform(0.2, 1.2, (80, 110, 80))
    for name in ("gamma0.7", "bias", "thick"):
        assert simulate(image, image > 0, (1, 1, 1), name).image.shape == image.shape


def test_wrong_use(view):
    words = (view.image, view.mask, view.spacing)
    with pytest.raises(UsageError, match="choose one of"):
        simulate(*words, "gamma9")
    with pytest.raises(UsageError, match="top is 0"):
        simulate(*words, "gamma1.5", top=0)
    with pytest.raises(UsageError, match="level"):
        simulate(*words, "noise", level=float("nan"))
    with pytest.raises(UsageError, match="seed"):
        simulate(*words, "noise", scan_seed=-1)
    with pytest.raises(PreprocessingError, match="mask"):
        simulate(view.image, ~view.mask, view.spacing, "exp")
