import numpy as np
import pytest
from scipy import ndimage, stats
from skimage import filters
from skimage import metrics as theirs

from blindharmony.quality.metrics import (
    local_spearman,
    ncc,
    new_edges,
    psnr,
    ssim,
    tissue_contrast,
    tissue_medians,
    wasserstein,
)


@pytest.fixture
def images(rng):
    a = ndimage.gaussian_filter(rng.normal(size=(33, 30, 36)), 1.2)
    return a, a + 0.1 * rng.normal(size=a.shape)


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture
def mask():
    mask = np.zeros((33, 30, 36), bool)
    mask[4:29, 0:28, 7:35] = True
    mask[4:9, :9, :] = False
    return mask


def test_equal_images_are_as_alike_as_can_be(images, mask):
    a, _ = images
    assert psnr(a, a, mask) == np.inf
    assert ssim(a, a, mask) == pytest.approx(1)
    assert ncc(a, a, mask) == pytest.approx(1)
    assert local_spearman(a, a, mask) == pytest.approx(1)
    assert new_edges(a, a, mask) == 0


def test_ssim_is_scikit_images_map_averaged_in_the_mask(images, mask):
    a, b = images
    _, full = theirs.structural_similarity(a, b, data_range=np.ptp(a[mask]), full=True)
    assert ssim(a, b, mask) == pytest.approx(full[mask].mean(), abs=1e-10)


def test_psnr_is_scikit_images_inside_the_mask(images, mask):
    a, b = images
    expected = theirs.peak_signal_noise_ratio(a[mask], b[mask], data_range=2.0)
    assert psnr(a, b, mask, data_range=2.0) == pytest.approx(expected)


def test_ncc_is_pearsons_and_ignores_gain_and_offset(images, mask):
    a, b = images
    assert ncc(a, b, mask) == pytest.approx(stats.pearsonr(a[mask], b[mask]).statistic)
    assert ncc(3 * a + 1, b, mask) == pytest.approx(ncc(a, b, mask))
    assert ncc(-a, b, mask) == pytest.approx(-ncc(a, b, mask))
    assert np.isnan(ncc(np.ones_like(a), b, mask))


def test_what_lies_outside_the_mask_does_not_count(images, mask):
    a, b = images
    other = np.where(mask, b, 99.0)
    assert psnr(a, other, mask) == psnr(a, b, mask)
    assert ncc(a, other, mask) == ncc(a, b, mask)
    assert local_spearman(a, other, mask) == local_spearman(a, b, mask)


@pytest.mark.parametrize("measure", [psnr, ssim, ncc])
def test_misfits_are_refused(measure, images, mask):
    a, b = images
    with pytest.raises(ValueError, match="shapes differ"):
        measure(a, b[1:], mask)
    with pytest.raises(ValueError, match="empty"):
        measure(a, b, np.zeros_like(mask))


def test_wasserstein_of_a_shift_is_the_shift(rng):
    q = np.sort(rng.normal(size=50))
    assert wasserstein(q, q) == 0
    assert wasserstein(q, q + 2.5) == pytest.approx(2.5)
    assert wasserstein(q, 2 * q) == wasserstein(2 * q, q)


def test_wasserstein_of_quantiles_is_that_of_the_samples(rng):
    a, b = rng.normal(size=4000), rng.gamma(2.0, size=4000)
    levels = np.linspace(0, 1, 2001)
    expected = stats.wasserstein_distance(a, b)
    found = wasserstein(np.quantile(a, levels), np.quantile(b, levels), levels)
    assert found == pytest.approx(expected, rel=0.01)


def test_local_spearman_is_scipys_and_ignores_increasing_curves(images):
    a, b = (image[:9, :9, :9] for image in images)
    whole = np.ones(a.shape, bool)
    assert local_spearman(a, b, whole) == pytest.approx(stats.spearmanr(a.ravel(), b.ravel()).statistic)
    assert local_spearman(np.exp(a), b**3, whole) == pytest.approx(local_spearman(a, b, whole))
    assert np.isnan(local_spearman(a[:5], b[:5], whole[:5]))


def test_a_lesion_that_was_made_up_is_a_new_edge(images, mask):
    a, _ = images
    made_up = a.copy()
    made_up[14:18, 12:16, 18:22] += 5
    assert new_edges(-3 * a + 2, a, mask) == 0
    assert new_edges(made_up, a, mask) > 0.001
    assert np.isnan(new_edges(a, a, np.zeros_like(mask)))


def test_tissues_of_a_known_mixture_are_found(rng):
    tissue = np.repeat([300.0, 900.0, 1300.0], [1000, 4000, 4000])
    values = tissue + 40 * rng.normal(size=tissue.size)
    assert tissue_medians(values) == pytest.approx((300, 900, 1300), rel=0.02)
    x = values.reshape(10, 30, 30)
    whole = np.ones(x.shape, bool)
    assert tissue_contrast(x, whole) == pytest.approx(9 / 13, rel=0.02)
    assert tissue_contrast(5 * x, whole) == pytest.approx(tissue_contrast(x, whole))


def test_tissue_classes_are_otsus(rng):
    values = np.concatenate([rng.normal(c, 60, n) for c, n in ((300, 500), (800, 3000), (1250, 2500))])
    low, high = filters.threshold_multiotsu(values, classes=3, nbins=200)
    expected = [np.median(values[values < low]), np.median(values[(values >= low) & (values < high)])]
    assert tissue_medians(values)[:2] == pytest.approx(expected, rel=0.02)


def test_two_intensities_are_not_three_tissues():
    with pytest.raises(ValueError, match="three"):
        tissue_medians(np.array([1.0, 1.0, 2.0, 2.0]))
