r"""How a scan compares with the target's own scans: one reference score for every quantity.

With :math:`n` reference values of mean :math:`m` and standard deviation :math:`s`, a new value :math:`x` of the same
kind has the z-score and, if values are about normal, the predictive distribution

.. math:: z = \frac{x - m}{s}, \qquad \frac{z}{\sqrt{1 + 1/n}} \sim t_{n-1}.

That is wide where :math:`n` is small, as it should be: four scans do not tell what one scan in a hundred looks like.
A value is called rare if fewer than one target scan in fifty would be expected beyond it, on its side: where both ends
of a range count, one in twenty-five lies outside.

Three kinds of quantity are compared:

* **intensities**: how far an average voxel's intensity is from the target's median quantile curve,
  :math:`d(x) = \frac1U \sum_u |Q_x(u) - \operatorname{med}_s Q_s(u)|`;
* **tissues**: the medians of the histogram's three clusters, and the ratio of gray to white matter;
* **likelihood**: bits a voxel under the target's flow, of every level of detail and of all together, beside target
  scans that never trained.

Source: the predictive distribution of a normal sample, e.g. Gelman et al., Bayesian Data Analysis, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import special

from blindharmony.device import on_device
from blindharmony.flows.bijection import LARGEST_VALUE
from blindharmony.flows.transforms import haar_split
from blindharmony.harmonization.summary import region_quantiles
from blindharmony.models.target import Target
from blindharmony.preprocessing.recipe import kept_arrays
from blindharmony.quality.metrics import tissue_medians, wasserstein
from blindharmony.settings import CheckSettings

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Quantiles = NDArray[np.floating[Any]]

INTENSITIES, LIKELIHOOD, CONTRAST = "intensities", "in all", "gray / white contrast"
_TISSUES = (CONTRAST, "white matter", "gray matter", "fluid")
# Fewer curves have no spread that could be believed.
_FEWEST_CURVES = 3
_DEFAULT = CheckSettings()


class ReferenceScore(BaseModel):
    """One number of a scan beside the same number of the target's own scans.

    Attributes:
        name: What was measured.
        value: Of this scan; intensities and tissues in flow units, likelihood in bits a voxel.
        z: ``(value − mean) / standard deviation`` of the reference scans; in JSON its name is ``excess``.
        quantile: Share of target scans expected below this value (predictive t); None with fewer than two of them.
        rank: How many of the reference scans lie below.
        count: How many reference scans there are; in JSON its name is ``known``.
        mean: Of the reference scans.
        spread: Their standard deviation, or the least that is believed.
        span: Smallest and largest value among them.
        usual: Values between which a scan is not rare.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float
    z: float = Field(serialization_alias="excess")
    quantile: float | None
    rank: int
    count: int = Field(serialization_alias="known")
    mean: float
    spread: float
    span: tuple[float, float]
    usual: tuple[float, float]

    @property
    def high(self) -> bool:
        """Whether hardly any target scan has so much."""
        return self.value > self.usual[1]

    @property
    def low(self) -> bool:
        """Whether hardly any target scan has so little."""
        return self.value < self.usual[0]

    def scaled(self, factor: float) -> ReferenceScore:
        """The same in another unit; z-score, quantile and rank stay."""
        return self.model_copy(
            update={
                "value": factor * self.value,
                "mean": factor * self.mean,
                "spread": factor * self.spread,
                "span": (factor * self.span[0], factor * self.span[1]),
                "usual": (factor * self.usual[0], factor * self.usual[1]),
            }
        )


def reference_score(
    name: str,
    value: float,
    reference: Sequence[float] | NDArray[np.float64],
    *,
    least_spread: float = 0.0,
    settings: CheckSettings = _DEFAULT,
) -> ReferenceScore:
    """Compare a value with those of reference scans.

    Args:
        name: What was measured.
        value: Of the scan.
        reference: Of the target's scans.
        least_spread: A smaller standard deviation of the reference is not believed.
        settings: What is called rare.

    Raises:
        ValueError: If there is no reference value: nothing is then known about what is usual.

    Example:
        >>> score = reference_score("x", 4.0, [0.0, 1.0, 2.0])
        >>> score.z, score.rank, round(score.quantile, 3), score.high
        (3.0, 3, 0.939, False)
    """
    values = np.array(reference, np.float64)
    if not values.size:
        raise ValueError(f"no target scan tells which '{name}' is usual")
    mean = float(values.mean())
    deviation = float(values.std(ddof=1)) if values.size > 1 else 0.0
    spread = max(deviation, least_spread, float(np.finfo(np.float64).tiny))
    z = (value - mean) / spread
    quantile = float(special.stdtr(values.size - 1, z / np.sqrt(1 + 1 / values.size))) if values.size > 1 else None
    reach = rare_z(values.size, settings) * spread
    return ReferenceScore(
        name=name,
        value=value,
        z=z,
        quantile=quantile,
        rank=int((values < value).sum()),
        count=values.size,
        mean=mean,
        spread=spread,
        span=(float(values.min()), float(values.max())),
        usual=(mean - reach, mean + reach),
    )


def rare_z(count: int, settings: CheckSettings = _DEFAULT) -> float:
    r"""The z-score beyond which one target scan in fifty lies, :math:`t_{n-1}(0.98)\sqrt{1 + 1/n}`.

    Args:
        count: Number of reference scans.
        settings: What is called rare, and the z-score that is taken where one scan is all there is.

    Example:
        >>> [round(rare_z(n), 1) for n in (1, 4, 20)]
        [4.0, 3.9, 2.3]
    """
    if count < 2:
        return settings.rare_excess
    return float(special.stdtrit(count - 1, 1 - settings.rare) * np.sqrt(1 + 1 / count))


def intensity_distance(quantiles: Quantiles, reference: Quantiles, levels: Quantiles) -> float:
    r"""How far an average voxel's intensity is from the reference's median quantile curve, in the curves' unit.

    Args:
        quantiles: Of one scan, shape ``(Q,)``.
        reference: Of the target's scans, shape ``(S, Q)``.
        levels: Ranks of the quantiles, shape ``(Q,)``.

    Example:
        >>> levels = np.linspace(0, 1, 5)
        >>> intensity_distance(levels + 3, np.stack([levels - 1, levels, levels + 1]), levels)
        3.0
    """
    return wasserstein(quantiles, np.median(reference, axis=0), levels)


def intensity_score(
    quantiles: Quantiles, reference: Quantiles, levels: Quantiles, *, settings: CheckSettings = _DEFAULT
) -> ReferenceScore | None:
    """The intensity distance of a scan, beside that of each of the target's scans to the others.

    Args:
        quantiles: Of the scan, shape ``(Q,)``.
        reference: Of the target's scans, same unit, shape ``(S, Q)``.
        levels: Ranks of the quantiles, shape ``(Q,)``.
        settings: What is called rare.

    Returns:
        None with fewer than three curves.
    """
    if len(reference) < _FEWEST_CURVES:
        return None
    usual = [intensity_distance(row, np.delete(reference, k, axis=0), levels) for k, row in enumerate(reference)]
    return reference_score(
        INTENSITIES,
        intensity_distance(quantiles, reference, levels),
        usual,
        least_spread=settings.least_distance_spread * float(np.mean(usual)),
        settings=settings,
    )


def tissue_scores(
    quantiles: Quantiles, reference: Quantiles, levels: Quantiles, *, settings: CheckSettings = _DEFAULT
) -> tuple[ReferenceScore, ...]:
    """The ratio of gray to white matter and the medians of white matter, gray matter and fluid.

    Args:
        quantiles: Of the scan, shape ``(Q,)``.
        reference: Of the target's scans, same unit, shape ``(S, Q)``.
        levels: Ranks of the quantiles, shape ``(Q,)``.
        settings: What is called rare.

    Returns:
        Empty with fewer than three curves, or if the tissues of the scan or of a reference scan cannot be told apart.
    """
    if len(reference) < _FEWEST_CURVES:
        return ()
    try:
        scan = _tissues(quantiles, levels)
        rows = _reference_tissues(reference.tobytes(), reference.shape, reference.dtype, levels.tobytes())
    except ValueError:
        return ()
    least = settings.least_tissue_spread
    return tuple(
        reference_score(name, value, column, least_spread=least * abs(float(column.mean())), settings=settings)
        for name, value, column in zip(_TISSUES, scan, rows.T, strict=True)
    )


def white_matter(target: Target) -> float:
    """Intensity of the target's white matter, flow units: what changes and distances are told in percent of.

    The mean of its scans' medians; where their tissues cannot be told apart, the mean curve's 90th percentile.

    Example:
        >>> from blindharmony.models.file import load_target
        >>> round(white_matter(load_target("ds002748")), 2)
        1.26
    """
    return white_of(target.quantiles, target.levels)


def white_of(curves: NDArray[np.float64], levels: NDArray[np.float64]) -> float:
    """The same from quantile curves of scans, shape ``(scans, levels)``, in their unit."""
    try:
        return float(_reference_tissues(curves.tobytes(), curves.shape, curves.dtype, levels.tobytes())[:, 1].mean())
    except ValueError:
        return float(np.interp(0.9, levels, curves.mean(0)))


@lru_cache(maxsize=8)
def _reference_tissues(
    curves: bytes, shape: tuple[int, ...], dtype: np.dtype[Any], levels: bytes
) -> NDArray[np.float64]:
    """The same of the target's scans, ``(S, 4)``: every comparison with one target asks for them."""
    ranks = np.frombuffer(levels)
    return np.array([_tissues(row, ranks) for row in np.frombuffer(curves, dtype).reshape(shape)])


def _tissues(quantiles: Quantiles, levels: Quantiles) -> tuple[float, float, float, float]:
    # Quantiles at even levels are a sample of the scan: all scans are treated alike.
    even = np.interp(np.linspace(levels[0], levels[-1], 1000), levels, quantiles)
    fluid, gray, white = tissue_medians(even)
    if white == 0:
        raise ValueError("white matter is dark")
    return gray / white, white, gray, fluid


@dataclass(frozen=True)
class Typicality:
    """Bits a voxel of an image under the target's flow, beside those of target scans that never trained.

    Attributes:
        levels: Of each level, finest first, the coarsest image last.
        in_all: All levels together.
    """

    levels: tuple[ReferenceScore, ...]
    in_all: ReferenceScore

    @property
    def bits(self) -> float:
        """Bits a voxel, all levels together."""
        return self.in_all.value

    @property
    def worst(self) -> ReferenceScore:
        """The least probable level: contrast shows in coarse levels, which hold few of the voxels."""
        return max(self.levels, key=lambda score: score.z)


def typicality(
    image: Image,
    mask: Mask,
    target: Target,
    *,
    device: str = "cpu",
    settings: CheckSettings = _DEFAULT,
    cache: Path | None = None,
) -> Typicality | None:
    """How probable a template-grid image is under the target's flow.

    Args:
        image: Template grid, flow units.
        mask: Brain.
        target: Its flow is asked, and its held-out scans are the reference.
        device: Where the flow runs.
        settings: What is called rare.
        cache: Folder in which the flow's answer is kept for the next time.

    Returns:
        None if the target has no whole-volume flow or no held-out scans.
    """
    held_out, pyramid = target.info.held_out, target.pyramid
    if pyramid is None or not held_out.level_bits or not held_out.bits_per_dim:
        return None

    def answer() -> dict[str, NDArray[Any]]:
        with on_device(pyramid, device) as flow, torch.inference_mode():
            # A single wild voxel is improbable enough at the largest value that the flow takes.
            x, inside = reduced(np.clip(image, -LARGEST_VALUE, LARGEST_VALUE), mask & target.fit_region, 1)
            density = flow.density(x.to(device), inside.to(device))
        bits = {"levels": density.level_bits()[0], "in all": density.bits_per_dim()}
        return {name: value.cpu().numpy() for name, value in bits.items()}

    bits = kept_arrays(answer, cache if target.digest else None, "typicality", image, mask, target.digest, device)
    # With a handful of held-out scans the spread is a guess; a small one would cry wolf.
    least = settings.least_spread
    levels = tuple(
        reference_score(name, value, reference, least_spread=least, settings=settings)
        for name, value, reference in zip(
            level_names(target), bits["levels"].tolist(), zip(*held_out.level_bits, strict=True), strict=True
        )
    )
    in_all = float(bits["in all"][0])
    return Typicality(
        levels, reference_score(LIKELIHOOD, in_all, held_out.bits_per_dim, least_spread=least, settings=settings)
    )


def level_names(target: Target) -> list[str]:
    """The levels of a target's pyramid in words, finest first, the coarsest image last.

    Example:
        >>> from blindharmony.models.file import load_target
        >>> level_names(load_target("ds002748"))[::4]
        ['detail at 2 mm', 'brightness at 32 mm']
    """
    pyramid = target.info.pyramid
    if pyramid is None:
        return []
    details = [f"detail at {pyramid.finest_mm * 2**k:g} mm" for k in range(len(pyramid.widths))]
    return [*details, f"brightness at {pyramid.finest_mm * 2 ** len(pyramid.widths):g} mm"]


def reduced(values: Image, mask: Mask, halvings: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A template-grid image at ``1 mm · 2^halvings``, masked means, as ``(1, 1, ...)`` tensors with its mask."""
    x = torch.from_numpy(np.where(mask, values, 0).astype(np.float32))[None, None]
    inside = torch.from_numpy(mask)[None, None]
    for _ in range(halvings):
        level = haar_split(x, inside)
        x, inside = level.coarse, level.coarse_mask
    return x, inside


@dataclass(frozen=True, eq=False)
class Comparison:
    """One image beside the target's own scans, in everything that is measured.

    Attributes:
        quantiles: Its intensities at the target's ranks where both have brain, flow units, shape ``(Q,)``.
        intensities: How far they are from the target's; None if the target has fewer than three scans.
        tissues: Contrast, white matter, gray matter, fluid; empty if they cannot be told apart.
        typicality: What the flow says; None if the target has no flow or no held-out scans.
    """

    quantiles: NDArray[np.float64]
    intensities: ReferenceScore | None
    tissues: tuple[ReferenceScore, ...]
    typicality: Typicality | None

    @property
    def z_scores(self) -> dict[str, float]:
        """Contrast, tissues and likelihood in standard deviations of the target's own scans, as far as they are known.

        A scan that is more probable than they are is not far from them: its likelihood counts as 0.
        """
        z = {score.name: score.z for score in self.tissues}
        return z | ({"likelihood": max(0.0, self.typicality.in_all.z)} if self.typicality else {})

    @property
    def distance(self) -> float | None:
        r"""How far it is from the target's own scans, :math:`\sqrt{\operatorname{mean} z^2}`; None if not known."""
        z = list(self.z_scores.values())
        return float(np.sqrt(np.mean(np.square(z)))) if z else None

    @property
    def rows(self) -> tuple[ReferenceScore, ...]:
        """Intensities, every level of the flow, all levels together: what ``assess`` lists."""
        flow = (*self.typicality.levels, self.typicality.in_all) if self.typicality else ()
        return (*((self.intensities,) if self.intensities else ()), *flow)


def compare(
    image: Image,
    mask: Mask,
    target: Target,
    *,
    device: str = "cpu",
    settings: CheckSettings = _DEFAULT,
    cache: Path | None = None,
) -> Comparison:
    """Compare a template-grid image in flow units with the target's own scans.

    Args:
        image: Template grid, flow units.
        mask: Brain.
        target: The target.
        device: Where its flow runs.
        settings: What is called rare.
        cache: Folder in which the flow's answer is kept for the next time.

    Raises:
        PreprocessingError: If hardly any brain lies where the target has brain.
    """
    quantiles, _ = region_quantiles(image, mask, target)
    return Comparison(
        quantiles=quantiles,
        intensities=intensity_score(quantiles, target.quantiles, target.levels, settings=settings),
        tissues=tissue_scores(quantiles, target.quantiles, target.levels, settings=settings),
        typicality=typicality(image, mask, target, device=device, settings=settings, cache=cache),
    )
