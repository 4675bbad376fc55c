"""Everything a scan report shows, as plain arrays and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Level: TypeAlias = Literal["good", "caution", "poor"]


@dataclass(frozen=True, eq=False)
class Curve:
    """The intensity curve that was fitted: scan intensity to harmonized intensity.

    Attributes:
        x: Intensity before, in target units, increasing, shape ``(n,)``.
        y: Intensity after, same unit and shape.
        low: Lower end of where voxels of intensity ``x`` went, same shape.
        high: Upper end, same shape.

    Example:
        >>> x = np.linspace(0.0, 1.0, 5)
        >>> Curve(x, x**2, x**2, x**2).y.shape
        (5,)
    """

    x: NDArray[np.floating[Any]]
    y: NDArray[np.floating[Any]]
    low: NDArray[np.floating[Any]]
    high: NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Confidence:
    """How sure the result is.

    Attributes:
        levels: For each level of detail, its name and how many spreads of the target's unseen scans the scan lies from
            them, before and after.
        limit: Spreads beyond which a scan is no longer like the target's.
        intensity: Harmonized intensity, in target units, increasing, shape ``(n,)``; empty if errors are not known.
        deviation: One standard deviation of its error, same unit and shape.
        surprise: How unlike the target's people this head is, 0 to 1, if the method asks.

    Example:
        >>> Confidence([("detail at 2 mm", 3.0, 0.5)]).levels[0][2]
        0.5
    """

    levels: Sequence[tuple[str, float, float]] = ()
    limit: float = 4.0
    intensity: NDArray[np.floating[Any]] = field(default_factory=lambda: np.zeros(0))
    deviation: NDArray[np.floating[Any]] = field(default_factory=lambda: np.zeros(0))
    surprise: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What a reader should know first.

    Attributes:
        level: ``good``, ``caution`` or ``poor``.
        headline: One plain sentence.
        details: What the sentence rests on.
        advice: What to do now.

    Example:
        >>> Verdict("good", "Looks like a target scan.").advice
        ()
    """

    level: Level
    headline: str
    details: Sequence[str] = ()
    advice: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class ScanEvidence:
    """One harmonized scan, seen from all sides; every image is on the template grid in RAS+ order.

    Attributes:
        name: File name to show.
        before: The prepared scan times one gain, in target units, shape ``(X, Y, Z)``.
        after: The harmonized scan, same shape and unit.
        mask: Brain, same shape.
        atlas: The template brain, same shape, to check the registration.
        unit: Name of the intensity unit.
        curve: The intensity curve, if one was fitted.
        log_bias: Logarithm of the smooth field that was taken out, same shape, if one was fitted.
        target_quantiles: Intensity quantiles of each target scan, shape ``(subjects, levels)``.
        levels: The quantiles' levels, increasing within 0…1, shape ``(levels,)``.
        held_out: How many of the target scans, the last of them, were never trained on.
        confidence: How sure the result is, if anything is known about it.
        trace: One mapping per optimisation step: ``step``, ``objective``, any other series.
        figures: Numbers for the table, by name.
        verdict: What to read first.
        warnings: Everything that went less than well.
        overlap: Dice coefficient of the mask and the template's brain, if it was registered.
        preparation: For each step, the numbers it found.
        methods: The methods paragraph, see :func:`~blindharmony.report.methods.methods_text`.
        provenance: Versions, command, hashes.

    Raises:
        ValueError: If the arrays' shapes do not agree, the mask is empty, or there is no target scan.
    """

    name: str
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    mask: NDArray[np.bool_]
    atlas: NDArray[np.float32]
    unit: str
    target_quantiles: NDArray[np.floating[Any]]
    levels: NDArray[np.floating[Any]]
    verdict: Verdict
    methods: str
    curve: Curve | None = None
    log_bias: NDArray[np.float32] | None = None
    held_out: int = 0
    confidence: Confidence | None = None
    trace: Sequence[Mapping[str, float]] = ()
    figures: Mapping[str, float | str] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    overlap: float | None = None
    preparation: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        images = {"after": self.after, "mask": self.mask, "atlas": self.atlas, "log_bias": self.log_bias}
        for name, image in images.items():
            if image is not None and image.shape != self.before.shape:
                raise ValueError(f"{name} has shape {image.shape}, before has {self.before.shape}")
        subjects, levels = self.target_quantiles.shape
        if subjects < 1 or levels < 2 or self.levels.shape != (levels,):
            shape = self.target_quantiles.shape
            raise ValueError(f"target_quantiles has shape {shape} for {self.levels.size} levels")
        if not self.mask.any():
            raise ValueError("the mask is empty")
