"""The way back: a curve acts everywhere, the rest inside the brain only, and nothing is resampled needlessly."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from blindharmony.harmonization import native as carry
from blindharmony.harmonization.intensity import CurveMap, Estimate
from blindharmony.harmonization.native import as_it_came, carry_to_native, fitted_curve, own_bias, steps_of, to_scan
from blindharmony.harmonization.refine import Refinement
from blindharmony.preprocessing.recipe import Applied, Prepared
from blindharmony.preprocessing.steps import BiasField, CorrectBias, Reorient, Scan, Step
from blindharmony.settings import HarmonizeSettings, RefinementSettings

SHAPE = (9, 10, 11)


@dataclass(frozen=True)
class Nothing:
    """All that a shift has to know."""


class Shift(Step[Nothing]):
    """A resampling that loses nothing: one voxel along the first axis."""

    name, result = "shift", Nothing

    def estimate(self, scan):
        return Nothing()

    def apply(self, scan, result):
        return replace(
            scan, data=np.roll(scan.data, 1, 0), mask=None if scan.mask is None else np.roll(scan.mask, 1, 0)
        )

    def undo(self, changed, result, before):
        return replace(before, data=np.roll(changed.data, -1, 0))


@pytest.fixture
def prepared():
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, bool)
    mask[2:7, 2:8, 2:9] = True
    native = Scan(rng.uniform(0.2, 1.5, SHAPE).astype(np.float32), np.diag([2.0, 2, 2, 1]), mask)
    return Prepared(Shift().apply(native, Nothing()), (Applied(Shift(), Nothing(), native),))


CURVE = CurveMap(np.array([0.0, 1.0, 2.0]), np.array([0.1, 0.8, 2.2]))


def test_a_curve_acts_on_every_voxel_and_nothing_is_resampled(prepared, tiny_target, monkeypatch):
    monkeypatch.setattr(Shift, "undo", None)
    found = Estimate(CURVE(prepared.scan.data) * prepared.scan.mask, intensity_map=CURVE)
    native = carry_to_native(prepared, found, tiny_target)
    np.testing.assert_array_equal(native, CURVE(prepared.native.data))


def test_what_no_curve_explains_is_added_inside_the_brain_only(prepared, tiny_target):
    extra = np.random.default_rng(1).normal(0, 0.1, SHAPE).astype(np.float32)
    found = Estimate((CURVE(prepared.scan.data) + extra) * prepared.scan.mask, intensity_map=CURVE)
    native = carry_to_native(prepared, found, tiny_target)
    inside, base = prepared.native.mask, CURVE(prepared.native.data)
    np.testing.assert_allclose(native[inside], (base + np.roll(extra, -1, 0))[inside], atol=1e-6)
    np.testing.assert_allclose(native[~inside], base[~inside], atol=1e-6)


def test_a_method_without_a_curve_gets_the_one_that_explains_most(prepared, tiny_target):
    image = np.where(prepared.scan.mask, 0.5 + 0.7 * prepared.scan.data, 0).astype(np.float32)
    native = carry_to_native(prepared, Estimate(image), tiny_target)
    inside = prepared.native.mask
    np.testing.assert_allclose(native[inside], 0.5 + 0.7 * prepared.native.data[inside], atol=1e-5)
    # Outside the brain too the fitted curve applies, extrapolated where it must be.
    np.testing.assert_allclose(native[~inside], 0.5 + 0.7 * prepared.native.data[~inside], atol=0.1)


@pytest.mark.parametrize(("mm", "asked"), [(1.0, True), (2.0, False)])
def test_the_restorer_works_on_the_scans_own_grid_where_it_can(prepared, tiny_target, monkeypatch, mm, asked):
    calls = []

    def fake(image, mask, target, **options):
        calls.append((mask, options))
        assert not image[~mask].any()
        return Refinement(image - 0.05, 0.5, 0.05)

    monkeypatch.setattr(carry, "refine", fake)
    fine = replace(prepared.native, affine=np.diag([mm, mm, mm, 1]))
    prepared = replace(prepared, history=(replace(prepared.history[0], before=fine),))
    found = Estimate(CURVE(prepared.scan.data) * prepared.scan.mask, intensity_map=CURVE, refinement=0.5)
    native = carry_to_native(prepared, found, tiny_target)
    assert bool(calls) is asked
    base, inside = CURVE(fine.data), fine.mask
    np.testing.assert_allclose(native, np.where(inside, base - 0.05 * asked, base), atol=1e-6)
    if asked:
        assert calls[0][1] == {"strength": 0.5, "own_grid": True, "device": "cpu", "settings": RefinementSettings()}


def test_a_fitted_curve_never_falls():
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 1, 5000).astype(np.float32)
    mask = rng.uniform(size=x.size) < 0.8
    curve = fitted_curve(x, np.sin(3 * x) + rng.normal(0, 0.1, x.size).astype(np.float32), mask)
    assert (np.diff(curve(np.linspace(0, 1, 200, dtype=np.float32))) >= 0).all()
    few = fitted_curve(x[:15], 3 * x[:15], np.ones(15, bool))
    np.testing.assert_allclose(few(np.float32([x[:15].mean()])), 3 * x[:15].mean(), rtol=0.2)


def test_a_scan_keeps_its_own_field_if_asked(prepared, tiny_target):
    native = prepared.native
    field = np.linspace(-0.3, 0.3, np.prod(SHAPE)).reshape(SHAPE)
    bias = BiasField(field, 0.1)
    steps = ((Reorient(), Reorient().estimate(native)), (CorrectBias(), bias), (Shift(), Nothing()))
    whole = Prepared(prepared.scan, tuple(Applied(step, result, native) for step, result in steps))
    found = Estimate(CURVE(prepared.scan.data) * prepared.scan.mask, intensity_map=CURVE)
    (plain, brain), (kept, _) = (
        to_scan(whole, found, tiny_target, HarmonizeSettings(keep_bias=keep)) for keep in (False, True)
    )
    np.testing.assert_allclose(plain, CURVE(native.data) * tiny_target.info.unit, rtol=1e-5)
    np.testing.assert_allclose(kept, plain * np.exp(field), rtol=1e-5)
    np.testing.assert_array_equal(brain, native.mask)


def test_the_scan_s_own_field_is_what_n4_took_out(prepared):
    field = np.linspace(-0.3, 0.3, np.prod(SHAPE)).reshape(SHAPE)
    corrected = Prepared(prepared.scan, (Applied(CorrectBias(), BiasField(field, 0.1), prepared.native),))
    np.testing.assert_allclose(own_bias(corrected), np.exp(field), rtol=1e-6)
    assert own_bias(prepared) == 1.0


@pytest.fixture
def shaded(prepared):
    """A scan that a coil had shaded, prepared: the field was taken out, and then the gain 2."""
    native = prepared.native
    field = np.linspace(-0.3, 0.3, np.prod(SHAPE)).reshape(SHAPE).astype(np.float32)
    came = replace(native, data=2 * native.data * np.exp(field))
    steps = (
        (Reorient(), Reorient().estimate(came), came),
        (CorrectBias(), BiasField(field, 0.1), came),
        (Shift(), Nothing(), native),
    )
    return Prepared(prepared.scan, tuple(Applied(*step) for step in steps)), came


@pytest.mark.parametrize("keep", [False, True])
def test_each_step_is_told_by_what_it_did(shaded, keep):
    prepared, came = shaded
    inside, noise = prepared.scan.mask, np.random.default_rng(3).normal(0, 0.1, SHAPE).astype(np.float32)
    image = np.where(inside, CURVE(prepared.scan.data) + noise, 0).astype(np.float32)
    settings = HarmonizeSettings(keep_bias=keep)
    steps = steps_of(prepared, prepared.scan.data, Estimate(image, intensity_map=CURVE), settings)
    np.testing.assert_array_equal(as_it_came(prepared).data, came.data)
    whole = steps.result - steps.scan
    np.testing.assert_allclose(sum(steps.maps.values())[inside], whole[inside], atol=1e-6)
    assert all(abs(change[inside].mean()) < 1e-5 for change in steps.maps.values())
    sizes = {name: np.abs(change[inside]).mean() for name, change in steps.maps.items()}
    assert (sizes["shading"] > 0.1) is not keep
    assert sizes["noise and blur"] == pytest.approx(np.abs(noise[inside]).mean(), rel=0.1)


def test_a_scan_that_stays_as_it_is_has_no_change(prepared):
    image = np.where(prepared.scan.mask, prepared.scan.data, 0)
    nothing = Estimate(image, intensity_map=CurveMap(np.array([0.0, 9.0]), np.array([0.0, 9.0])))
    steps = steps_of(prepared, prepared.scan.data, nothing, HarmonizeSettings())
    assert all(np.abs(change).max() < 1e-6 for change in steps.maps.values())
