"""The person model of a target is learnt: rank features and quantile curves of its own scans, as any scanner sees them.

Every head is shown as it is and in spoiled versions (noise, blur, thick slices), so that features of a spoiled scan
lead to the same person. The mean head that a head is compared with never contains that person.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.summary import rank_features, texture
from blindharmony.models.person import PersonModel
from blindharmony.models.target import Target, upsampled
from blindharmony.settings import PersonFitSettings
from blindharmony.training.augmentation import FWHM, inside_mean, rician, thick_slices
from blindharmony.training.data import Head, Report, TrainingData

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


def versions_of(
    image: Image, mask: Mask, rng: np.random.Generator, settings: PersonFitSettings | None = None
) -> Iterator[Image]:
    """One by one: a head as it is, with two strengths of noise, two of blur, in thick slices along a random axis.

    Args:
        image: Template grid, flow units, zero outside the mask.
        mask: Brain.
        rng: Source of the noise.
        settings: How strong.
    """
    settings = settings or PersonFitSettings()
    axis = int(rng.integers(3))
    blurs = [partial(ndimage.gaussian_filter, sigma=width / FWHM) for width in settings.blur_mm]
    slices = partial(thick_slices, axis=axis, size=settings.slice_mm)
    yield image
    for share in settings.noise:
        yield np.where(mask, rician(image, share, rng), 0).astype(np.float32)
    for smooth in (*blurs, slices):
        yield inside_mean(image, mask, smooth)


def fit_people(
    heads: Sequence[Callable[[], tuple[Image, Mask]]],
    coarse: Sequence[tuple[Image, Mask]],
    region: Mask,
    levels: NDArray[np.float64],
    *,
    people: Sequence[str] = (),
    settings: PersonFitSettings | None = None,
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
        settings: How the versions of a head are spoiled.
        on_head: Called with heads done and their number.
    """
    total = np.sum([x * m for x, m in coarse], 0)
    count = np.sum([m for _, m in coarse], 0).astype(np.float32)
    plain = [np.asarray(np.quantile(image[mask & region], levels), np.float64) for image, mask in (h() for h in heads)]
    mean: NDArray[np.float64] = np.mean(plain, 0)
    whose = np.unique(people, return_inverse=True)[1] if people else np.arange(len(heads))
    features, textures, curves, owners = [], [], [], []
    for index, head in enumerate(heads):
        image, mask = head()
        inside = mask & region
        same = [pair for pair, who in zip(coarse, whose, strict=True) if who == whose[index]]
        others = total - np.sum([x * m for x, m in same], 0)
        others = others / np.maximum(count - np.sum([m for _, m in same], 0, dtype=np.float32), 1)
        atlas = upsampled(others.astype(np.float32))
        image = np.where(inside, image, 0).astype(np.float32)
        for version in versions_of(image, inside, np.random.default_rng(index), settings):
            curve = np.asarray(np.quantile(version[inside], levels), np.float64)
            # Noise raises the mean square; preparation would scale it away.
            curve *= np.sqrt((plain[index] ** 2).mean() / (curve**2).mean())
            matched = np.where(inside, CurveMap.through(curve, mean)(version), 0).astype(np.float32)
            features.append(rank_features(matched, inside, atlas))
            textures.append(texture(matched, inside))
            curves.append(curve)
            owners.append(index)
        if on_head:
            on_head(index + 1, len(heads))
    several = whose[owners] if len(np.unique(whose)) < len(heads) else None
    return PersonModel(np.array(features), np.array(curves), np.array(owners), np.array(textures), several)


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
