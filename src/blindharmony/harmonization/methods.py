"""The harmonization methods by name, and how another one is added.

A method takes a prepared scan on the template's grid and returns an :class:`~.intensity.Estimate` of what the target
scanner would have made of it. What comes before (preparation) and after (checks, return to native space) is the same
for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import UsageError
from blindharmony.harmonization.curve import harmonize_curve
from blindharmony.harmonization.intensity import Estimate
from blindharmony.harmonization.published import harmonize_latent
from blindharmony.harmonization.refine import refined
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.harmonization.summary import harmonize_match
from blindharmony.models.target import Target
from blindharmony.settings import ABOUT, HarmonizeSettings

Image: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True)
class MethodOptions:
    """What a method may use beside scan and target.

    Attributes:
        settings: Where to compute, the seed of methods that draw, and all numbers.
        scanner: What is left of the curve of the scanner that made the scan, if it is known.
        progress: Called with the steps done and the steps in all.
        fitted: Voxels that a fit may look at: the mask without lesions; the whole mask if None.
        in_contrast: Whether an earlier curve has brought the scan into the target's contrast already.
    """

    settings: HarmonizeSettings = HarmonizeSettings()
    scanner: ScannerModel | None = None
    progress: Callable[[int, int], None] | None = None
    fitted: Mask | None = None
    in_contrast: bool = False


Harmonizer: TypeAlias = Callable[[Image, Mask, Target, MethodOptions], Estimate]


@dataclass(frozen=True)
class HarmonizationMethod:
    """A way to harmonize a prepared scan.

    Attributes:
        name: What users call it.
        about: What it does, one full sentence for the methods paragraph of reports.
        harmonize: Prepared image (template grid, flow units, zero outside the mask), mask, target, options → estimate.
        target_contrast: Whether the bias field is estimated again in the target's contrast first.
        refines: Whether the target's restorer may take out noise and blur after it.
        scanner: Whether it can use the model of a scanner.
        guarded: Whether a scan that it does not help is returned as it was.
    """

    name: str
    about: str
    harmonize: Harmonizer
    target_contrast: bool = False
    refines: bool = False
    scanner: bool = False
    guarded: bool = False


_METHODS: dict[str, HarmonizationMethod] = {}


def register_method(name: str, about: str, **options: Any) -> Callable[[Harmonizer], Harmonizer]:
    """Make a function a method that ``harmonize(method=name)`` knows, until this Python ends.

    Args:
        name: What users call it.
        about: What it does, one full sentence for the methods paragraph of reports.
        **options: As for :class:`HarmonizationMethod`.

    Raises:
        UsageError: If the name is taken.

    Example:
        >>> @register_method("nothing", about="Intensities were left as they are.")
        ... def nothing(image, mask, target, options):
        ...     return Estimate(image)
        >>> method_named("nothing").about
        'Intensities were left as they are.'
        >>> unregister_method("nothing")
    """
    if name in _METHODS:
        raise UsageError(f"there is a method '{name}' already", remedy="choose another name")

    def register(harmonize: Harmonizer) -> Harmonizer:
        _METHODS[name] = HarmonizationMethod(name, about, harmonize, **options)
        return harmonize

    return register


def unregister_method(name: str) -> None:
    """Forget a method."""
    del _METHODS[name]


def method_named(name: str) -> HarmonizationMethod:
    """The method of this name.

    Raises:
        UsageError: If there is none.
    """
    if name not in _METHODS:
        raise UsageError(f"there is no method '{name}'", remedy=f"choose one of {', '.join(_METHODS)}")
    return _METHODS[name]


@register_method("curve", about=ABOUT["curve"], target_contrast=True, refines=True, scanner=True, guarded=True)
def _curve(image: Image, mask: Mask, target: Target, options: MethodOptions) -> Estimate:
    scanner, settings, fitted = options.scanner, options.settings, options.fitted
    whole = options.in_contrast
    return harmonize_curve(image, mask, target, scanner=scanner, settings=settings, fitted=fitted, whole=whole)


@register_method("match", about=ABOUT["match"])
def _match(image: Image, mask: Mask, target: Target, options: MethodOptions) -> Estimate:
    return harmonize_match(image, mask, target, options.settings.curve, fitted=options.fitted)


@register_method("latent-published", about=ABOUT["latent-published"])
@register_method("latent", about=ABOUT["latent"])
def _published(image: Image, mask: Mask, target: Target, options: MethodOptions) -> Estimate:
    settings = options.settings
    return harmonize_latent(
        image,
        mask,
        target,
        settings.iteration,
        device=settings.device,
        seed=settings.seed,
        progress=options.progress,
    )


def estimate(
    method: str | HarmonizationMethod,
    image: Image,
    mask: Mask,
    target: Target,
    settings: HarmonizeSettings = HarmonizeSettings(),
    *,
    scanner: ScannerModel | None = None,
    fitted: Mask | None = None,
    in_contrast: bool = False,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Harmonize an image on the template grid, and take out noise and blur if the method lets the restorer do that.

    Args:
        method: What it is called, or the method itself.
        image: Prepared, zero outside the mask.
        mask: Brain.
        target: Target model.
        settings: All numbers.
        scanner: What is left of the curve of the scanner that made the scan, if it is known.
        fitted: Voxels that a fit may look at; the whole mask if not given.
        in_contrast: Whether the scan was prepared in the target's contrast (:attr:`Prepared.in_contrast`).
        cache: Folder in which the refined image is kept for the next time.
        progress: Called with the steps done and the steps in all.

    Raises:
        UsageError: If there is no such method, or the target lacks what it needs.
    """
    chosen = method_named(method) if isinstance(method, str) else method
    settings = settings.updated(method=chosen.name)
    harmonized = chosen.harmonize(image, mask, target, MethodOptions(settings, scanner, progress, fitted, in_contrast))
    if chosen.refines and settings.refine and target.restorer:
        return refined(harmonized, mask, target, device=settings.device, settings=settings.refinement, cache=cache)
    return harmonized
