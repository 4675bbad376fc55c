"""Places that are unlike the target's: found where they are, and not in a head that is like the others."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from blindharmony.models.file import load_target, save_target
from blindharmony.quality.checks import (
    CheckSettings,
    Severity,
    dark_place,
    darkest_place,
    places_to_show,
    position,
    unlike_in_all,
    unlike_place,
)
from blindharmony.quality.places import (
    _BALL,
    likeness_of_halves,
    most_unlike,
    place_costs,
    place_darkness,
    unlike,
    usual_places,
    without_bright_artifacts,
)

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
def usual(brain):
    return usual_places([made_costs(brain, seed) for seed in range(12)])


def test_a_head_like_the_others_has_no_place_unlike_them(brain, usual):
    others = [most_unlike(unlike(made_costs(brain, seed), usual)).z for seed in range(20, 24)]
    assert usual.largest.shape == (12,)
    assert max(others) < 1.2 * usual.largest.max()


def test_everybody_is_judged_by_what_is_usual_without_him():
    rng = np.random.default_rng(0)
    costs = [np.where(rng.random(SHAPE) < 0.9, rng.normal(size=SHAPE), np.nan).astype(np.float32) for _ in range(6)]
    together = usual_places(costs, "aabcde")
    own = [usual_places([c for c, p in zip(costs, "aabcde", strict=True) if p != person]) for person in "aabcde"]
    expected = [most_unlike(unlike(cost, others)).z for cost, others in zip(costs, own, strict=True)]
    np.testing.assert_allclose(together.largest, expected, rtol=2e-3)
    there = np.sum([np.isfinite(c) for c in costs], 0) >= 5
    np.testing.assert_allclose(together.mean, np.where(there, np.nanmean(costs, 0), np.nan), rtol=2e-3, atol=1e-3)


def test_a_target_in_memory_knows_the_places_that_its_file_knows(tiny_target, brain, tmp_path):
    places = usual_places([made_costs(brain, seed) for seed in range(4)])
    kept = save_target(replace(tiny_target, places=places), tmp_path / "target.safetensors")
    read = load_target(tmp_path / "target.safetensors")
    for name in ("mean", "spread", "largest"):
        np.testing.assert_array_equal(getattr(kept.places, name), getattr(read.places, name))


def test_nobody_is_judged_by_another_scan_of_himself(brain, usual):
    odd = made_costs(brain, 40)
    odd[:, 10:14, 20:24, 18:22] += 0.5
    costs = [made_costs(brain, seed) for seed in range(10)] + [odd, odd]
    told_apart = usual_places(costs, [*range(10), 10, 10]).largest
    assert told_apart[10] == told_apart[11] > 1.1 * usual_places(costs).largest[10]
    with pytest.raises(ValueError, match="three people"):
        usual_places(costs, [0] * 6 + [1] * 6)


def test_a_place_that_costs_more_is_found_where_it_is(brain, usual):
    costs = made_costs(brain, 30)
    costs[:, 10:14, 20:24, 18:22] += 0.5
    place = most_unlike(unlike(costs, usual))
    assert place.z > 2 * usual.largest.max()
    np.testing.assert_allclose(place.centre, (48, 88, 80), atol=4)
    assert place.ml == pytest.approx(4.1, rel=0.5)
    assert place.region[11, 21, 19]


def test_a_head_that_costs_more_everywhere_is_not_local(brain, usual):
    noisier = most_unlike(unlike(made_costs(brain, 31, level=3.0), usual))
    assert noisier.z < 1.2 * usual.largest.max()


def test_nothing_is_known_where_there_is_no_brain_and_at_its_rim(brain, usual):
    z = unlike(made_costs(brain, 32), usual)
    deep = brain.copy()
    for axis in range(3):
        deep &= np.roll(brain, 1, axis) & np.roll(brain, -1, axis)
    np.testing.assert_array_equal(np.isfinite(z), deep)
    assert np.isnan(unlike(np.full(SHAPE, np.nan, np.float32), usual)).all()
    assert most_unlike(np.full(SHAPE[1:], np.nan, np.float32)).z == 0


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


@pytest.fixture(scope="module")
def knows_places(tiny_target):
    """The made-up target with what the places of twenty noisy copies of one head cost."""
    inside = tiny_target.fit_region
    rng = np.random.default_rng(1)
    heads = [np.where(inside, 1 + 0.1 * rng.normal(size=inside.shape), 0).astype(np.float32) for _ in range(21)]
    costs = [place_costs(head, inside, tiny_target) for head in heads]
    return replace(tiny_target, places=usual_places(costs[1:])), heads[0]


def spoiled(head, inside):
    """With a ball of 2 cm that is much brighter."""
    at = np.linalg.norm(np.indices(head.shape) - np.array([60, 110, 84])[:, None, None, None], axis=0) < 10
    return np.where(at & inside, head * 3, head).astype(np.float32)


def test_what_only_the_result_has_is_not_the_heads(knows_places):
    target, head = knows_places
    inside, limits = target.fit_region, CheckSettings()
    odd = spoiled(head, inside)
    both, one, plain = (
        unlike_in_all(images, inside, target, settings=limits).z for images in ((odd, odd), (odd, head), (head, head))
    )
    assert both > 3 * one
    assert one < 2 * plain


def evidence_of(target, image):
    """As far as this check looks at it."""
    limits = CheckSettings()
    place = unlike_in_all((image,), target.fit_region, target, settings=limits)
    return SimpleNamespace(target=target, unlike=place, dark=None, settings=limits)


def test_the_check_says_where_to_look(knows_places):
    target, head = knows_places
    good = evidence_of(target, head)
    assert [c.severity for c in unlike_place(good)] == [Severity.GOOD]
    assert places_to_show(good) == {}
    bad = evidence_of(target, spoiled(head, target.fit_region))
    (check,) = unlike_place(bad)
    assert check.severity is Severity.CAUTION
    assert check.value > check.limit[1]
    assert position(places_to_show(bad)["unlike place"].centre) in check.message
    assert position((60, 110, 84)).split(" (")[0] in check.message
    # A target that does not know it says so.
    (check,) = unlike_place(evidence_of(replace(target, places=None), head))
    assert check.severity is Severity.GOOD
    assert "not looked at" in check.message


def test_half_a_head_that_is_copied_is_told_from_a_head(brain):
    rng = np.random.default_rng(3)
    head = rng.random((60, 66, 54))
    mask = head > -1
    for start in (24, 27, 30):  # the plane need not be the middle
        copied = head.copy()
        copied[start : 2 * start] = head[:start][::-1]
        assert likeness_of_halves(copied[: 2 * start], mask[: 2 * start]) > 0.99
    assert likeness_of_halves(head, mask) < 0.1
    assert likeness_of_halves(head, ~mask) == 0


def test_arteries_are_what_no_ball_fits_into():
    image = ndimage.gaussian_filter(np.random.default_rng(0).random((20, 25, 18)), 2).astype(np.float32)
    white = float(np.median(image)) / 1.2
    bright = image > 1.2 * white
    thick = ndimage.binary_dilation(ndimage.binary_opening(bright, _BALL), _BALL)
    assert (bright & ~thick).any()
    assert (bright & thick).any()
    plain = without_bright_artifacts(image, image > 0, white)
    # Signal that piles up from the base is no lesion either.
    pile = np.zeros_like(bright)
    for k in range(10):
        pile[..., k] = np.any([bright[..., foot : k + 1].all(2) for foot in range(min(k + 1, 3))], 0)
    np.testing.assert_array_equal(plain, np.where(bright & (~thick | pile), np.float32(white), image))


@pytest.fixture(scope="module")
def white_and_gray(tiny_target):
    """Heads of white matter with a rim of gray and a hollow of fluid, and the target that knows twenty of them."""
    inside = tiny_target.fit_region
    depth = ndimage.distance_transform_edt(inside)
    rng = np.random.default_rng(2)

    def head():
        tissue = np.where(depth < rng.uniform(9, 11), 0.7, 1.0)
        hollow = np.linalg.norm(np.indices(inside.shape) - rng.normal((80, 96, 80), 1)[:, None, None, None], axis=0) < 8
        noisy = np.where(hollow, 0.3, tissue) + 0.04 * rng.normal(size=inside.shape)
        return np.where(inside, np.maximum(noisy, 0.01), 0).astype(np.float32)

    darkness = [place_darkness(head(), inside, tiny_target) for _ in range(20)]
    return replace(tiny_target, dark_places=usual_places(darkness)), head()


def ball(shape, centre, radius):
    return np.linalg.norm(np.indices(shape) - np.array(centre)[:, None, None, None], axis=0) < radius


def test_gray_tissue_in_white_matter_is_seen_and_larger_ventricles_are_not(white_and_gray):
    target, head = white_and_gray
    inside, at = target.fit_region, (56, 96, 92)
    lesion = np.where(ball(head.shape, at, 8) & inside, 0.7 * head, head).astype(np.float32)
    hollow = np.where(ball(head.shape, (80, 96, 80), 12) & inside, 0.3, head).astype(np.float32)
    plain, ill, old = (
        darkest_place((image,), inside, target, settings=CheckSettings()) for image in (head, lesion, hollow)
    )
    assert ill.z > 2 * max(plain.z, old.z, *target.dark_places.largest)
    np.testing.assert_allclose(ill.centre, at, atol=5)
    evidence = SimpleNamespace(target=target, unlike=None, dark=ill, settings=CheckSettings())
    (check,) = dark_place(evidence)
    assert (check.severity, places_to_show(evidence)) == (Severity.CAUTION, {"dark place": ill})
    assert position(ill.centre) in check.message
    evidence.dark = old
    assert [c.severity for c in dark_place(evidence)] == [Severity.GOOD]
    assert places_to_show(evidence) == {}
    assert dark_place(SimpleNamespace(target=replace(target, dark_places=None), dark=None)) == []
    assert darkest_place((head,), inside, replace(target, dark_places=None), settings=CheckSettings()) is None


def test_no_increasing_curve_makes_tissue_dark(white_and_gray):
    target, head = white_and_gray
    inside = target.fit_region
    for curve in (np.sqrt, np.square, lambda x: 3 * x):
        seen = place_darkness(np.where(inside, curve(head), 0).astype(np.float32), inside, target)
        np.testing.assert_allclose(seen, place_darkness(head, inside, target), atol=1e-3)
