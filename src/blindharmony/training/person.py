r"""The person model of a target is learnt: rank features and quantile curves of its scans, as any scanner sees them.

Every head is shown as it is and through random scanners,

.. math:: y = \bigl(e^{b}\,(k * C(x) + n)\bigr)^\gamma, \qquad Q = \text{quantiles of } k * x + n

:math:`C` gives its tissues other contrasts, as far apart as those of real sites
(:class:`~blindharmony.training.tissue.RandomContrast`, the tissues by :mod:`~blindharmony.models.tissue`), :math:`k` is
blur or thick slices, :math:`n` noise, :math:`b` what is left of a bias field. Features are those of :math:`y`. The
curve that they lead to is that of the head itself (``PersonModel.wanted``): the restorer takes out noise and blur from
scans with the histogram of the truth. The mean head that a head is compared with never contains that person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.summary import by_rank, rank_features
from blindharmony.models.person import PersonModel
from blindharmony.models.target import Target, upsampled
from blindharmony.models.tissue import class_posterior
from blindharmony.settings import PersonFitSettings, TissueFitSettings
from blindharmony.training.augmentation import scanner_noise, softened
from blindharmony.training.data import Head, Report, TrainingData
from blindharmony.training.labels import DEEP, FLUID, GRAY, STEM, WHITE
from blindharmony.training.tissue import RandomContrast, smooth_noise

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
#: Shares of the classes of :data:`~blindharmony.models.tissue.CLASSES` in a head, ``(4, X, Y, Z)``.
Tissue = Callable[[Image, Mask], Image]

_USUAL, _CONTRASTS = PersonFitSettings(), TissueFitSettings()
_FIELD_KNOTS, _BEND_KNOTS = 3, 6
_WHITE = 0.9  # rank of white matter among the brain's intensities


@dataclass(frozen=True, eq=False)
class Version:
    """A head through a scanner.

    Attributes:
        seen: As the scanner shows it.
        plain: As it would with the target's contrast.
        contrast: Fluid/white and gray/white; 0 where the tissues are not known.
    """

    seen: Image
    plain: Image
    contrast: tuple[float, float]


def versions_of(
    image: Image,
    mask: Mask,
    rng: np.random.Generator,
    settings: PersonFitSettings = _USUAL,
    classes: Image | None = None,
) -> Iterator[Version]:
    """One by one: a head as it is, and through random scanners.

    Args:
        image: Template grid, flow units, zero outside the mask.
        mask: Brain.
        rng: Source of contrasts and noise.
        settings: How far scanners lie apart.
        classes: Shares of the :data:`~blindharmony.models.tissue.CLASSES`, ``(4, X, Y, Z)``; without them all scanners
            have the target's contrast.
    """
    shares, levels = None, np.ones(STEM + 1, np.float32)
    if classes is not None:
        shares = with_stem(classes)
        levels = structure_levels(image, mask, classes)
    yield Version(image, image, _ratios(levels) if classes is not None else (0.0, 0.0))
    for _ in range(settings.scanners):
        seen, contrast = image, (0.0, 0.0)
        # A head in which the network sees no contrast between its tissues has none to change.
        if shares is not None and levels[WHITE] > levels[GRAY] > levels[FLUID] > 0:
            drawn = RandomContrast.draw(levels, rng, _CONTRASTS)
            bend = rng.uniform(0, _CONTRASTS.bend_gray) * smooth_noise(image.shape, _BEND_KNOTS, rng)
            seen, contrast = drawn(image, shares, bend), _ratios(drawn.after)
        scanned = partial(_scanned, mask=mask, seed=int(rng.integers(2**63)), settings=settings)
        field = np.exp(rng.uniform(0, settings.field) * smooth_noise(image.shape, _FIELD_KNOTS, rng))
        power = np.float32(np.exp(rng.normal(0, settings.power_sd)))
        yield Version(_inside((scanned(seen) * field) ** power, mask), scanned(image), contrast)


def with_stem(classes: Image) -> Image:
    """Shares of all structures, none of them brainstem: the network counts it as white matter, ``(4, …) → (5, …)``."""
    return np.concatenate([classes, np.zeros_like(classes[:1])])


def structure_levels(image: Image, mask: Mask, classes: Image) -> NDArray[np.float32]:
    """Mean intensity of each structure of a head, ``(5,)``, as :class:`RandomContrast` takes them; classes as above."""
    levels = np.ones(STEM + 1, np.float32)
    for structure, share in zip((FLUID, GRAY, DEEP, WHITE), classes, strict=True):
        weight = share[mask] ** 2
        levels[structure] = (weight * image[mask]).sum() / max(float(weight.sum()), 1e-6)
    levels[STEM] = levels[WHITE]
    return levels


def _scanned(image: Image, mask: Mask, seed: int, settings: PersonFitSettings) -> Image:
    """Blur, thick slices and noise of the random scanner that this seed stands for."""
    rng, white = np.random.default_rng(seed), float(np.quantile(image[mask], _WHITE))
    image = softened(
        image,
        mask,
        rng,
        often=settings.often,
        blur_mm=settings.blur_mm,
        thick=settings.thick,
        slice_mm=settings.slice_mm,
    )
    if rng.random() < settings.often:
        spread = white * float(np.exp(rng.uniform(*np.log(settings.noise))))
        image = image + scanner_noise(image.shape, spread, rng)
    # Other contrasts and noise go below zero, where a display curve has no value.
    return _inside(np.maximum(image, 0), mask)


def _ratios(levels: NDArray[np.float32]) -> tuple[float, float]:
    return float(levels[FLUID] / levels[WHITE]), float(levels[GRAY] / levels[WHITE])


def _inside(image: Image, mask: Mask) -> Image:
    return np.where(mask, image, 0).astype(np.float32)


def fit_people(
    heads: Sequence[Callable[[], tuple[Image, Mask]]],
    coarse: Sequence[tuple[Image, Mask]],
    region: Mask,
    levels: NDArray[np.float64],
    *,
    people: Sequence[str] = (),
    settings: PersonFitSettings = _USUAL,
    tissue: Tissue | None = None,
    on_head: Callable[[int, int], None] | None = None,
) -> PersonModel:
    """The person model of a target.

    The mean head that a scan is compared with never contains that person: a head must not look typical only because
    it was averaged in.

    Args:
        heads: For every target scan a call that gives it on the template grid, in flow units, and its mask.
        coarse: The same scans at 2 mm; their mean is the atlas.
        region: Where scans are compared, template grid.
        levels: Ranks of the quantile curves.
        people: Whose scan each is; all different people if empty.
        settings: The random scanners.
        tissue: Finds the tissues of a head; without it, the scanners have the target's contrast.
        on_head: Called with heads done and their number.
    """
    total = np.sum([x * m for x, m in coarse], 0)
    count = np.sum([m for _, m in coarse], 0).astype(np.float32)
    plain = [np.asarray(np.quantile(image[mask & region], levels), np.float64) for image, mask in (h() for h in heads)]
    mean: NDArray[np.float64] = np.mean(plain, 0)
    whose = np.unique(people, return_inverse=True)[1] if people else np.arange(len(heads))
    features, curves, owners, contrasts, errors = [], [], [], [], []
    for index, head in enumerate(heads):
        image, mask = head()
        inside = mask & region
        same = [pair for pair, who in zip(coarse, whose, strict=True) if who == whose[index]]
        others = total - np.sum([x * m for x, m in same], 0)
        others = others / np.maximum(count - np.sum([m for _, m in same], 0, dtype=np.float32), 1)
        atlas = upsampled(others.astype(np.float32))
        classes = tissue(image, mask) if tissue else None
        image_inside = _inside(image, mask)
        for version in versions_of(image_inside, mask, np.random.default_rng(index), settings, classes):
            curve = np.asarray(np.quantile(version.plain[inside], levels), np.float64)
            # Noise raises the mean square; preparation would scale it away.
            gain = np.sqrt((plain[index] ** 2).mean() / (curve**2).mean())
            curve *= gain
            source = np.asarray(np.quantile(version.seen[inside], levels), np.float64)
            matched = _inside(CurveMap.through(source, mean)(version.seen), inside)
            features.append(rank_features(matched, inside, atlas))
            curves.append(curve)
            owners.append(index)
            contrasts.append(version.contrast)
            if version.seen is not image_inside:
                seen = version.seen[inside]
                away = CurveMap.through(source, curve)(seen) - gain * version.plain[inside]
                errors.append(squares_by_rank(away, seen, levels))
        if on_head:
            on_head(index + 1, len(heads))
    several = whose[owners] if len(np.unique(whose)) < len(heads) else None
    return PersonModel(
        np.array(features),
        np.array(curves),
        np.array(owners),
        people=several,
        contrasts=np.array(contrasts),
        voxel_error=np.sqrt(np.mean(errors, 0)) if errors else None,
    )


_RANK_BINS = 64


def squares_by_rank(away: NDArray[np.floating], seen: Image, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean square of what voxels are away, at the ranks of what is seen, shape ``(Q,)``."""
    parts = by_rank(seen, away.astype(np.float64), min(_RANK_BINS, len(seen)))
    middles = (np.arange(len(parts)) + 0.5) / len(parts)
    return np.asarray(np.interp(levels, middles, [np.mean(part**2) for part in parts]))


def with_people(target: Target, data: TrainingData, settings: PersonFitSettings, *, report: Report) -> Target:
    """The target with the quantile curves of all its scans and the person model learnt from them.

    Every scan serves, held-out ones too: with twenty heads each counts, and the model is judged by leaving each head
    out in turn.
    """
    pools, people = (data.images, data.held_out_images), data.people
    coarse = [
        (image[0, 0].numpy(), mask[0, 0].numpy())
        for image, mask in (pool.load(index, 0) for pool in pools for index in range(len(pool.files)))
    ]
    person = fit_people(
        [partial(_arrays, head) for head in (*data.heads, *data.held_out)],
        coarse,
        target.fit_region,
        target.levels,
        people=people,
        settings=settings,
        # The network that finds tissues knows T1w scans.
        tissue=class_posterior if target.info.suffix == "T1w" else None,
        on_head=lambda i, n: report("learning the people", i / n, {}),
    )
    plain = person.curves[person.themselves]
    others = [plain[[q != p for q in people]].mean(0) for p in people]
    errors = {
        "matching_error": tuple(np.sqrt(((others - plain) ** 2).mean(1)).tolist()),
        "person_error": tuple(np.sqrt(((person.left_out() - plain) ** 2).mean(1)).tolist()),
    }
    held_out = target.info.held_out.model_copy(update=errors)
    info = target.info.model_copy(update={"held_out": held_out})
    return replace(target, info=info, quantiles=plain, person=person)


def _arrays(head: Head) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    image, mask = head.image()
    return image.numpy(), mask.numpy()
