"""A target model: everything that is learnt about one scanner, in memory and in plain words.

A model knows the quantile curves of its scans, their mean head, the flow that says how probable a head is, the person
model, the restorer, and for the published method the flow of slices. Its description says what it was learnt from,
with which settings, and what was measured on scans that no network has learnt from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy import ndimage

from blindharmony.flows.glow import MultiScaleFlow, MultiScaleSpec
from blindharmony.flows.pyramid import Pyramid, PyramidSpec
from blindharmony.flows.transforms import haar_split
from blindharmony.models.person import PersonModel
from blindharmony.models.restorer import Restorer, RestorerSpec
from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony.preprocessing.registration import load_template
from blindharmony.settings import PersonSettings, TrainSettings

FORMAT = 8


class RefinedError(BaseModel):
    r"""How far single voxels of a refined image lie from the head, by how much the restorer wants to change in it.

    .. math:: \sigma(u) = p(u)\, e^{a + b \log c}

    :math:`c` is the root mean square of that change, :math:`u` the rank of the intensity. Errors have longer tails than
    a Gaussian: :math:`\sigma` is the deviation of a Gaussian with the same mean :math:`\sqrt{|e|}`, which few large
    errors hardly move.

    Attributes:
        intercept: :math:`a`.
        slope: :math:`b`.
        changes: Least and largest :math:`c` that was seen, flow units; beyond them nothing is extrapolated.
        profile: :math:`p` in equally full bins of rank.

    Example:
        >>> error = RefinedError(intercept=0.0, slope=1.0, changes=(0.01, 0.05), profile=(1.0, 2.0))
        >>> error(0.02, np.array([0.25, 0.5, 0.75])).round(3).tolist(), error(9.0, np.array([0.25])).round(3).tolist()
        ([0.02, 0.03, 0.04], [0.05])
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    intercept: float = Field(ge=-50, le=50)
    slope: float = Field(ge=-50, le=50)
    changes: tuple[float, float]
    profile: tuple[float, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _positive(self) -> RefinedError:
        if not (0 < self.changes[0] <= self.changes[1] < np.inf and all(0 <= p < np.inf for p in self.profile)):
            raise ValueError("refined_error has changes or a profile that are no positive numbers")
        return self

    def __call__(self, change: float, levels: NDArray[np.float64]) -> NDArray[np.float64]:
        """The deviation at these ranks, flow units, shape like ``levels``."""
        size = np.exp(self.intercept + self.slope * np.log(np.clip(change, *self.changes)))
        middles = (np.arange(len(self.profile)) + 0.5) / len(self.profile)
        return np.asarray(size * np.interp(levels, middles, self.profile))


class HeldOut(BaseModel):
    """What was measured on target scans that never trained.

    Attributes:
        scans: How many.
        bits_per_dim: Of each of them at the fitted resolution, 256 grey levels in [0, 1].
        level_bits: For each scan, bits/dim of each level, finest first and the coarsest image last.
        latent_sd: Standard deviation of the latents of each level, all channels together (1: calibrated).
        latent_channels: The same for each channel of each level; empty in models made before it was kept.
        matching_error: For each target scan, the rms difference of its quantile curve from the mean of the others
            (flow units): what histogram matching alone gets wrong.
        person_error: The same for the curve that the person model predicts without having seen the scan.
        restorer_change: Root mean square of the change that the restorer makes to each of them (flow units).
        refined_error: How far single voxels lie from the head after curve and restorer; None if it was not measured.
        slice_bits: Mean bits/dim of the slice flow, if there is one.
        honesty: For each change of intensity and each resolution, finest first, the change of each scan that the
            flow likes best, Jacobian included (:mod:`~blindharmony.flows.pyramid`); 0 is honest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scans: int = 0
    bits_per_dim: tuple[float, ...] = ()
    level_bits: tuple[tuple[float, ...], ...] = ()
    latent_sd: tuple[float, ...] = ()
    latent_channels: tuple[tuple[float, ...], ...] = ()
    matching_error: tuple[float, ...] = ()
    person_error: tuple[float, ...] = ()
    restorer_change: tuple[float, ...] = ()
    refined_error: RefinedError | None = None
    slice_bits: float | None = None
    honesty: dict[str, tuple[tuple[float, ...], ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _rectangular(self) -> HeldOut:
        if len({len(row) for row in self.level_bits}) > 1:
            raise ValueError("level_bits has rows of different lengths")
        return self


class TargetInfo(BaseModel):
    """Everything about a target model that is not an array.

    Attributes:
        format: Version of the file format.
        name: What people call it.
        suffix: BIDS suffix of the contrast.
        scans: Number of training scans.
        learnt_from: SHA-256 of the files of all scans that it knows, held-out ones too, first 16 digits, sorted; empty
            in models made before it was kept. They tell whether a given file was among them, and nothing else.
        recipe: Preparation, applied to every scan that is harmonized.
        unit: Intensity of 1.0 in the flow's units, in the target scanner's own units.
        pyramid: Shape of the whole-volume flow.
        slices: Shape of the slice flow, if there is one.
        restorer: Shape of the restorer, if there is one.
        training: Settings of the training; None in models made before they were kept.
        held_out: Measured on held-out scans.
        data: Where the scans came from.
        licence: Of the model.
        made_with: Version of this package that trained it.
        seed: Of the training.
        notes: Anything else, for the model card.

    Example:
        >>> TargetInfo(name="mysite", scans=20, held_out=HeldOut(scans=4)).suffix
        'T1w'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    name: str
    suffix: str = "T1w"
    scans: int = Field(ge=0)
    learnt_from: tuple[str, ...] = ()
    recipe: PrepRecipe = PrepRecipe()
    unit: float = Field(default=1.0, gt=0, lt=1e12)
    pyramid: PyramidSpec | None = None
    slices: MultiScaleSpec | None = None
    restorer: RestorerSpec | None = None
    training: TrainSettings | None = None
    held_out: HeldOut = HeldOut()
    data: str = ""
    licence: str = ""
    made_with: str = ""
    seed: int = 0
    notes: dict[str, str] = Field(default_factory=dict)


#: Levels whose places are mapped: details of 2, 4 and 8 mm.
PLACE_LEVELS = 3


@dataclass(frozen=True, eq=False)
class Places:
    """What is usual at every place of the target's own scans (:mod:`blindharmony.quality.places`).

    It is told of what places cost under the flow, three maps for details of 2, 4 and 8 mm, and of how dark their tissue
    is, one map.

    Attributes:
        mean: Of the scans, at each place of 4 mm, shape ``(K, 40, 48, 40)``; NaN where fewer than four in five scans
            have something there.
        spread: Standard deviation between scans, pooled over 2 to 3 cm, same shape.
        largest: How unlike the most unlike place of each scan is, judged by other people, shape ``(S,)``.
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    largest: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Target:
    """A target model in memory.

    Attributes:
        info: Its description.
        levels: Ranks at which intensity quantiles are kept, shape ``(Q,)``, increasing in (0, 1).
        quantiles: Quantile curves of the target's scans inside the fit region, flow units, shape ``(S, Q)``.
        coverage: How many of the training masks cover each voxel of the template grid at 2 mm, in [0, 1].
        pyramid: Whole-volume flow, if there is one.
        slices: Slice flow, if there is one.
        restorer: Takes out noise and blur, if it was trained.
        mean_image: Mean of the training scans on the template grid at 2 mm, where the published method starts.
        person: Tells a head's quantile curve from its rank features, if it was trained.
        places: What each place of its scans costs under the flow, nats per number, if there are enough to say so.
        dark_places: How dark the tissue of each place is (shares of white matter), likewise.
        digest: SHA-256 of the file, first 12 digits; empty if it was never saved.
        file: Name of the file it was read from, without its folder; empty if it was never read.

    Example:
        >>> from blindharmony.models.file import load_target
        >>> target = load_target("ds002748")
        >>> target.quantiles.shape, target.mean_image.shape
        ((38, 512), (80, 96, 80))
    """

    info: TargetInfo
    levels: NDArray[np.float64]
    quantiles: NDArray[np.float64]
    coverage: NDArray[np.float32]
    mean_image: NDArray[np.float32]
    person: PersonModel | None = None
    pyramid: Pyramid | None = None
    slices: MultiScaleFlow | None = None
    restorer: Restorer | None = None
    places: Places | None = None
    dark_places: Places | None = None
    digest: str = ""
    file: str = ""

    def __repr__(self) -> str:
        return f"<Target {self.info.name} ({self.digest or 'not saved'}), {self.info.scans} scans>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the rows of its card."""
        rows = Markup("").join(
            Markup('<tr><th style="text-align:left">{}</th><td style="text-align:left">{}</td></tr>').format(*row)
            for row in card_rows(self)
        )
        return str(Markup("<table>{}</table>").format(rows))

    def asked_with(self, settings: PersonSettings) -> Target:
        """This target, its person model asked with these numbers.

        Args:
            settings: Numbers of the regression.
        """
        if self.person is None or self.person.settings == settings:
            return self
        return replace(self, person=replace(self.person, settings=settings))

    @cached_property
    def mean_curve(self) -> NDArray[np.float64]:
        """Mean quantile curve of the target's scans, what histogram matching matches to, shape ``(Q,)``."""
        # Where many voxels share one intensity the curve must still increase.
        return np.asarray(np.maximum.accumulate(self.quantiles.mean(0)) + 1e-7 * np.arange(self.levels.size))

    @cached_property
    def atlas(self) -> NDArray[np.float32]:
        """The mean head on the 1 mm template grid, linearly interpolated."""
        return upsampled(self.mean_image)

    @cached_property
    def fit_region(self) -> NDArray[np.bool_]:
        """Voxels of the template grid that at least half of the training masks cover, shape ``(X, Y, Z)``.

        Brain extractors disagree about the outermost layer of CSF; what is compared between scans is compared
        where they agree.
        """
        covered = self.coverage > 0.5
        fine = covered.repeat(2, 0).repeat(2, 1).repeat(2, 2)
        return fine[tuple(slice(n) for n in load_template().data.shape)]


def upsampled(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """A 2 mm image of the template grid at 1 mm, linearly interpolated between the centres of its voxels.

    Example:
        >>> upsampled(np.ones((2, 2, 2), np.float32)).shape
        (4, 4, 4)
    """
    return np.asarray(ndimage.zoom(image, 2, order=1, mode="nearest", grid_mode=True), np.float32)


def atlas_tensor(levels_down: int = 1) -> torch.Tensor:
    """The template's brain in [0, 1] with ``levels_down`` halvings of resolution, what flows know of the place."""
    data = load_template().data
    image = torch.from_numpy(data / data.max())[None, None]
    mask = torch.ones_like(image, dtype=torch.bool)
    for _ in range(levels_down):
        level = haar_split(image, mask)
        image, mask = level.coarse, level.coarse_mask
    return image[0, 0]


def card_rows(target: Target) -> list[tuple[str, str]]:
    """What a model is, as names and values: data, preparation, size, held-out figures, licence, hash."""
    info, held_out = target.info, target.info.held_out
    modules = [m for m in (target.pyramid, target.slices, target.restorer) if m is not None]
    weights = sum(p.numel() for m in modules for p in m.parameters())
    recipe = info.recipe
    rows = [
        ("target", info.name),
        ("contrast", info.suffix),
        ("data", info.data or "not recorded"),
        ("training scans", str(info.scans)),
        ("held-out scans", str(held_out.scans)),
        ("license", info.licence or "not recorded"),
        (
            "preparation",
            f"{recipe.digest()}: template {recipe.template}, {_bias_words(recipe)}, gain {recipe.gain}",
        ),
        ("weights", f"{weights:,}"),
        ("networks", ", ".join(_networks(target)) or "none"),
        ("intensity unit", f"1.0 in the flow is {info.unit:.4g} on the target scanner"),
    ]
    if held_out.bits_per_dim:
        bits = held_out.bits_per_dim
        rows.append(
            (
                "held-out bits/dim",
                f"{np.mean(bits):.3f} ({min(bits):.3f} to {max(bits):.3f}), at 2 mm and 256 gray levels",
            )
        )
        levels = np.mean(held_out.level_bits, 0)
        rows.append(("  by level", ", ".join(f"{b:.2f}" for b in levels) + " (finest first, coarsest image last)"))
        spreads = ", ".join(f"{s:.3f}" for s in held_out.latent_sd)
        rows.append(("  latent spread", f"{spreads} before calibration (1: calibrated)"))
        for name, channels in zip(("finest", "second", "third", "fourth"), held_out.latent_channels, strict=False):
            rows.append((f"    {name}, by channel", ", ".join(f"{s:.2f}" for s in channels)))
        for name, by_level in held_out.honesty.items():
            means = ", ".join(f"{100 * np.mean(scans):+.1f}" for scans in by_level).replace("-", "−")
            rows.append((f"  most probable {name}", f"{means} % by resolution, mean of held-out scans (0: honest)"))
    if held_out.matching_error:
        error = np.mean(held_out.matching_error)
        rows.append(("matching alone", f"misses a left-out scan's intensities by {error:.4f} (rms, flow units)"))
    if held_out.person_error:
        error = np.mean(held_out.person_error)
        rows.append(("with the person model", f"misses them by {error:.4f}"))
    if held_out.restorer_change:
        rows.append(
            ("restorer", f"changes unseen scans of the target by {max(held_out.restorer_change):.4f} at most (rms)")
        )
    if held_out.slice_bits is not None:
        rows.append(("slice flow bits/dim", f"{held_out.slice_bits:.3f}, at 1 mm"))
    if info.training is not None:
        rows.append(("training", f"settings {info.training.digest}{_changed(info.training)}"))
    rows += [(k, v) for k, v in info.notes.items()]
    rows += [
        ("made with", f"blindharmony {info.made_with}, seed {info.seed}, format {info.format}"),
        ("hash", target.digest),
    ]
    return rows


def _changed(settings: TrainSettings) -> str:
    """What differs from the defaults, for a card that has rows for name, data and licence."""
    numbers = {k: v for k, v in settings.differences().items() if k not in ("name", "data", "licence", "mask_command")}
    flat = {
        ".".join((name, *inner)): value
        for name, group in numbers.items()
        for inner, value in ([((k,), v) for k, v in group.items()] if isinstance(group, dict) else [((), group)])
    }
    return "".join(f", {name} {value}" for name, value in flat.items())


def _bias_words(recipe: PrepRecipe) -> str:
    if not recipe.n4:
        return "no bias field"
    return {"n4-itk": "N4 on", "n4": "N4 with clean cells", "entropy": "bias field of least entropy"}[recipe.bias]


def _networks(target: Target) -> list[str]:
    names = []
    if target.pyramid is not None:
        names.append(f"whole-volume pyramid ({len(target.pyramid.levels)} levels)")
    if target.slices is not None:
        names.append("slice flow")
    if target.restorer is not None:
        names.append("restorer")
    return names
