"""Laws of the bias field: known fields come back, whatever the contrast, and N4 is ITK's."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from scipy.ndimage import gaussian_filter

from blindharmony.errors import PreprocessingError
from blindharmony.preprocessing.bias import Cells, Splines, least_entropy, log_bias, n4, refined
from blindharmony.preprocessing.grid import from_itk, mask_box, to_itk
from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony.preprocessing.steps import CorrectBias, Scan


def head(gray=0.7, gamma=1.0, noise=0.02, size=64, seed=0):
    """A ball of fluid, grey and white matter in folds, (image, mask); voxels of 2 mm."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij")
    mask = sum(a**2 for a in axes) < 0.85
    folds = gaussian_filter(rng.normal(size=mask.shape), 3)
    low, high = np.quantile(folds[mask], [0.15, 0.55])
    image = np.where(folds < low, 0.3, np.where(folds < high, gray, 1.0)) + noise * rng.normal(size=mask.shape)
    return np.where(mask, np.maximum(image, 0.01) ** gamma, 0).astype(np.float32), mask


def known_field(mask, sd=0.25, seed=1):
    """A smooth log field of a given spread, mean zero in the mask."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in mask.shape], indexing="ij")
    powers = [(i, j, k) for i in range(4) for j in range(4) for k in range(4) if 0 < i + j + k <= 3]
    field = sum(rng.normal() * x**i * y**j * z**k for i, j, k in powers)
    field = field - field[mask].mean()
    return field * sd / field[mask].std()


def error(field, truth, mask):
    return float((field - truth)[mask].std())


MM = (2.0, 2.0, 2.0)


@pytest.mark.parametrize(("gray", "gamma"), [(0.7, 1.0), (0.55, 1.0), (0.85, 1.0), (0.7, 0.7), (0.7, 1.5)])
def test_a_known_field_comes_back_in_any_contrast(gray, gamma):
    image, mask = head(gray, gamma)
    truth = known_field(mask)
    without = log_bias(image, MM, mask)
    field = log_bias((image * np.exp(truth)).astype(np.float32), MM, mask)
    assert error(field, truth, mask) < 0.03
    assert error(field - without, truth, mask) < 0.012


@pytest.mark.parametrize("gamma", [0.7, 1.5])
def test_a_gamma_scales_the_field_and_nothing_else(gamma):
    image, mask = head()
    scan = (image * np.exp(known_field(mask))).astype(np.float32)
    assert error(log_bias(scan**gamma, MM, mask) / gamma, log_bias(scan, MM, mask), mask) < 0.004


def test_n4_is_that_of_itk():
    image, mask = head(size=40)
    cells = Cells.of((image * np.exp(known_field(mask))).astype(np.float32), MM, mask, 4.0)
    filter_ = SimpleITK.N4BiasFieldCorrectionImageFilter()
    filter_.SetMaximumNumberOfIterations([8, 6, 4])
    filter_.SetConvergenceThreshold(1e-4)
    filter_.SetNumberOfControlPoints([4, 4, 4])
    pixels = SimpleITK.GetImageFromArray(np.exp(cells.log).astype(np.float32))
    filter_.Execute(pixels, SimpleITK.GetImageFromArray(cells.mask.astype(np.uint8)))
    expected = SimpleITK.GetArrayFromImage(filter_.GetLogBiasFieldAsImage(pixels))
    spans, control = n4(cells.log, cells.mask, (1, 1, 1), iterations=(8, 6, 4))
    field = Splines.on(cells.mask.shape, spans).field(control)
    assert field[cells.mask].std() > 0.02
    assert error(field, expected, cells.mask) < 5e-4


def itk_field(data, affine, mask):
    """The log bias field as ITK's users find it: shrink, fit, evaluate at every voxel of the brain's box."""
    box, around = mask_box(mask, margin=4)
    image, inside = to_itk(data[box], affine), to_itk(mask[box].astype(np.float32), affine)
    factors = [max(1, round(4 / s)) for s in image.GetSpacing()]
    small = SimpleITK.BinShrink(image, factors)
    filter_ = SimpleITK.N4BiasFieldCorrectionImageFilter()
    filter_.SetMaximumNumberOfIterations([50, 50, 50, 50])
    filter_.SetConvergenceThreshold(1e-4)
    extent = np.array(small.GetSize()) * np.array(small.GetSpacing())
    filter_.SetNumberOfControlPoints([max(1, round(e / 200)) + 3 for e in extent])
    filter_.Execute(small, SimpleITK.BinShrink(inside, factors) > 0.5)
    field = np.pad(from_itk(filter_.GetLogBiasFieldAsImage(image)), np.array(around), mode="edge")
    return field - field[mask].mean()


def test_old_recipes_get_the_field_of_itk():
    """On a grid that no cell fits, with a bright scalp around the brain: 17 CPU-seconds there are one here."""
    brain, mask = head(size=45)
    spacing, shape = (2.0, 2.0, 1.5), (50, 52, 49)
    image, inside = np.full(shape, 0.05, np.float32), np.zeros(shape, bool)
    image[2:47, 4:49, 1:46] = np.where(mask, brain, 1.5)
    inside[2:47, 4:49, 1:46] = mask
    image = (image * np.exp(known_field(inside))).astype(np.float32)
    field = log_bias(image, spacing, inside, method="n4-itk")
    expected = itk_field(image, np.diag([*spacing, 1.0]), inside)
    assert field[inside].std() > 0.1
    assert error(field, expected, inside) < 5e-4
    np.testing.assert_allclose(field, expected, atol=5e-3)


def test_least_entropy_beats_the_old_n4():
    image, mask = head()
    truth = known_field(mask)
    cells = Cells.of((image * np.exp(truth)).astype(np.float32), MM, mask, 4.0)
    small = Splines.at(cells.positions(mask.shape), (1, 1, 1))
    sharp = small.field(least_entropy(cells.log, cells.mask, cells.spread, (1, 1, 1)))
    spans, control = n4(cells.log, cells.mask, (1, 1, 1), iterations=(20,) * 4)
    old = Splines.at(cells.positions(mask.shape), spans).field(control)
    assert error(sharp, truth, mask) < error(old, truth, mask)


def corrected(image, mask, method="entropy"):
    """A scan after bias correction, and the standard deviation of what was taken out."""
    step, scan = CorrectBias(method=method), Scan(image, np.diag([2.0, 2, 2, 1]), mask)
    result = step.estimate(scan)
    assert result.log_bias_sd == pytest.approx(float(result.log_bias[mask].std()))
    return step.apply(scan, result).data, result.log_bias_sd


def test_a_scan_that_was_corrected_before_is_left_as_it_is():
    image, mask = head()
    left, none = corrected(image, mask)
    assert none == 0
    np.testing.assert_array_equal(left, image)
    shaded = (image * np.exp(known_field(mask))).astype(np.float32)
    once, spread = corrected(shaded, mask)
    assert spread > 0.2, "all of a field that a coil has made"
    np.testing.assert_array_equal(once, (shaded * np.exp(-log_bias(shaded, MM, mask))).astype(np.float32))
    twice, none = corrected(once, mask)
    assert none == 0
    np.testing.assert_array_equal(twice, once)
    assert corrected(image, mask, "n4")[1] > 0, "recipes of N4 prepare as they always did"


def test_the_evidence_for_a_field_grows_with_it():
    image, mask = head()
    spreads = [corrected(shaded_by(image, mask, sd), mask)[1] for sd in (0.05, 0.11, 0.13, 0.2)]
    assert spreads == sorted(spreads)
    assert spreads[0] == 0 < spreads[1] < spreads[2]
    assert spreads[3] > 0.18


@pytest.mark.parametrize("contrast", [lambda x: x**0.4, lambda x: x**2.5, lambda x: np.log1p(3 * x)])
@pytest.mark.parametrize(("sd", "share"), [(0.0, 0), (0.2, 1)])
def test_whether_there_is_a_field_does_not_depend_on_how_intensities_are_displayed(contrast, sd, share):
    """A field is judged beside the contrast of the tissues: what bends one bends the other."""
    image, mask = head()
    seen = contrast(shaded_by(image, mask, sd)).astype(np.float32)
    whole = log_bias(seen, (2.0, 2.0, 2.0), mask)
    taken = CorrectBias(method="entropy").estimate(Scan(seen, np.diag([2.0, 2, 2, 1]), mask))
    np.testing.assert_array_equal(taken.log_bias, share * whole)
    assert taken.share == share
    assert taken.spread == pytest.approx(float(whole[mask].std()))


def test_a_flat_brain_has_no_field():
    mask = head()[1]
    assert corrected(np.where(mask, np.float32(7), 0), mask)[1] == 0


def shaded_by(image, mask, sd):
    """A head through a coil's field of this spread."""
    return (image * np.exp(known_field(mask, sd))).astype(np.float32)


@pytest.mark.parametrize("method", ["entropy", "n4"])
def test_what_lies_outside_the_mask_does_not_enter(method):
    image, mask = head(size=40)
    scalp = np.where(mask, image, 1e4).astype(np.float32)
    assert np.array_equal(log_bias(image, MM, mask, method=method), log_bias(scalp, MM, mask, method=method))


@pytest.mark.parametrize("method", ["entropy", "n4"])
def test_a_gain_changes_nothing(method):
    image, mask = head(size=40)
    field = log_bias(image, MM, mask, method=method)
    assert abs(field[mask].mean()) < 1e-6
    assert np.abs(field - log_bias(1000 * image, MM, mask, method=method)).max() < 1e-4


_PRINT = """
import hashlib
from test_bias import *
image, mask = head(size=40)
for method in ("entropy", "n4-itk"):
    print(hashlib.sha256(log_bias(image, MM, mask, method=method).tobytes()).hexdigest())
"""


@pytest.mark.long
def test_equal_bytes_for_any_number_of_threads():
    image, mask = head(size=40)
    here = [hashlib.sha256(log_bias(image, MM, mask, method=m).tobytes()).hexdigest() for m in ("entropy", "n4-itk")]
    for count in ("1", "3"):
        threads = {name: count for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", _PRINT],
            env={**os.environ, **threads, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == here


class TestRecipe:
    def test_old_recipes_mean_itk_and_keep_their_digests(self):
        old = {"template": "icbm152-brain-1mm", "n4": True, "n4_shrink_mm": 4.0, "gain": "rms"}
        recipe = PrepRecipe.model_validate(old)
        assert recipe.bias == "n4-itk"
        assert recipe.model_dump() == old
        assert recipe.digest() == "cce20d053179"
        assert len({PrepRecipe(bias=bias).digest() for bias in ("n4-itk", "n4", "entropy")}) == 3

    @pytest.mark.parametrize("bias", ["n4-itk", "n4", "entropy"])
    def test_a_recipe_names_its_estimator(self, bias):
        recipe = PrepRecipe(bias=bias)
        assert PrepRecipe.model_validate_json(recipe.model_dump_json()) == recipe
        image, mask = head(size=40)
        image = (image * np.exp(known_field(mask))).astype(np.float32)
        scan = Scan(image, np.diag([*MM, 1.0]), mask)
        (step,) = [step for step in recipe.preparation.steps if isinstance(step, CorrectBias)]
        result = step.estimate(scan)
        assert np.array_equal(result.log_bias, log_bias(image, MM, mask, method=bias))
        back = step.undo(step.apply(scan, result), result, scan)
        np.testing.assert_allclose(back.data, image, rtol=1e-5)

    def test_an_unknown_estimator_is_refused(self):
        with pytest.raises(ValueError, match="bias"):
            PrepRecipe(bias="n5")


class TestSplines:
    splines = Splines.on((6, 7, 5), (1, 2, 1))

    def dense(self):
        size = int(np.prod(self.splines.shape))
        return np.array([self.splines.field(row.reshape(self.splines.shape)).ravel() for row in np.eye(size)])

    def test_gather_is_the_transpose_of_field(self):
        values = np.random.default_rng(0).normal(size=(6, 7, 5))
        np.testing.assert_allclose(self.splines.gather(values).ravel(), self.dense() @ values.ravel())

    def test_gram_is_the_sum_of_products(self):
        weights = np.random.default_rng(0).random((6, 7, 5))
        rows = self.dense()
        np.testing.assert_allclose(self.splines.gram(weights), (rows * weights.ravel()) @ rows.T, atol=1e-12)

    def test_bending_of_a_parabola(self):
        # On one span, (x²)'' = 2 along one axis: energy 4. The control points of x² are t² − 1/3 at the nodes t.
        splines = Splines.on((5, 5, 5), (1, 1, 1))
        nodes = np.arange(-1.0, 3.0)
        control = np.broadcast_to((nodes**2 - 1 / 3)[:, None, None], (4, 4, 4))
        field = splines.field(control)
        np.testing.assert_allclose(field[:, 0, 0], np.linspace(0, 1, 5) ** 2, atol=1e-12)
        assert control.ravel() @ splines.bending @ control.ravel() == pytest.approx(4)

    def test_a_plane_does_not_bend(self):
        control = np.broadcast_to(np.arange(5.0)[None, :, None], self.splines.shape).ravel()
        assert abs(control @ self.splines.bending @ control) < 1e-9

    def test_refining_keeps_the_function(self):
        control = np.random.default_rng(0).normal(size=self.splines.shape)
        fine = Splines.on((6, 7, 5), (2, 4, 2))
        np.testing.assert_allclose(fine.field(refined(control, (1, 2, 1))), self.splines.field(control))


@pytest.mark.parametrize(("size", "words"), [(6, "fewer than 1000 positive voxels"), (13, "cells of 8 mm")])
def test_too_small_a_mask_is_refused(size, words):
    mask = np.zeros((20, 20, 20), bool)
    mask[:size, :size, :size] = True
    with pytest.raises(PreprocessingError, match=words):
        log_bias(mask.astype(np.float32), MM, mask, cell_mm=8.0)


def test_a_uniform_head_has_no_field():
    mask = np.ones((24, 24, 24), bool)
    for method in ("entropy", "n4"):
        assert np.abs(log_bias(mask.astype(np.float32), MM, mask, method=method)).max() < 1e-6
