"""Simulated source scanners, by name: ``DOMAINS`` has a sentence, a formula and a function for each.

The paper's eight curves; one effect at a time, harder than a curve; a random mixture of effects (``all``); and
scanners that differ as those of 17 real sites do (``site``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from blindharmony_benchmark.simulation.effects import (
    CURVES,
    TISSUES,
    Array,
    Curve,
    View,
    bias_field,
    blurred,
    gamma_curve,
    mprage,
    spoiled_gradient_echo,
    thick_slices,
    through_curve,
    to_ratio,
    to_signals,
    with_noise,
)
from blindharmony_benchmark.simulation.sites import draw_site, through_site

Params = Mapping[str, Any]
Made = tuple[Array, dict[str, Any]]


@dataclass(frozen=True)
class Domain:
    """A simulated scanner.

    Attributes:
        name: What the user calls it.
        sentence: What it does.
        formula: How.
        make: From a scan, the scanner's settings and a generator for what differs from scan to scan (shape of the
            field, noise) to the image and what is worth recording about it.
        settings: The scanner's own settings, drawn once for all its scans.
        needs_labels: Whether it works on tissue labels.
        monotone: Whether it keeps the order of intensities over the whole scan.
    """

    name: str
    sentence: str
    formula: str
    make: Callable[[View, Params, np.random.Generator], Made]
    settings: Callable[[np.random.Generator], dict[str, Any]]
    needs_labels: bool = False
    monotone: bool = False


def _fixed(**settings: Any) -> Callable[[np.random.Generator], dict[str, Any]]:
    return lambda rng: dict(settings)


def _curve(curve: Curve) -> Callable[[View, Params, np.random.Generator], Made]:
    def make(view: View, settings: Params, rng: np.random.Generator) -> Made:
        image, top = through_curve(view, curve)
        return image, {"Top": top}

    return make


def _bias(view: View, settings: Params, rng: np.random.Generator) -> Made:
    field = bias_field(view, settings["Peak"], rng)
    inside = field[view.mask]
    return view.image * field, {"FieldMin": float(inside.min()), "FieldMax": float(inside.max())}


def _noise(view: View, settings: Params, rng: np.random.Generator) -> Made:
    image, deviation = with_noise(view, settings["Sigma"], rng)
    return image, {"SigmaInUnits": deviation}


def _thick(view: View, settings: Params, rng: np.random.Generator) -> Made:
    return thick_slices(view, settings["SliceThickness"]), {"SliceAxis": view.slice_axis}


def _blur(view: View, settings: Params, rng: np.random.Generator) -> Made:
    return blurred(view, settings["FWHM"]), {}


def _tissue(view: View, settings: Params, rng: np.random.Generator) -> Made:
    return to_ratio(view, settings["GreyToWhite"])


def _gre(view: View, settings: Params, rng: np.random.Generator) -> Made:
    tr, te, flip = (settings[k] for k in ("RepetitionTime", "EchoTime", "FlipAngle"))
    return to_signals(view, {t: spoiled_gradient_echo(x, tr=tr, te=te, flip=flip) for t, x in TISSUES.items()})


def _ir(view: View, settings: Params, rng: np.random.Generator) -> Made:
    words = {
        "tr": settings["RepetitionTime"],
        "ti": settings["InversionTime"],
        "te": settings["EchoTime"],
        "flip": settings["FlipAngle"],
        "echoes": settings["Echoes"],
        "spacing": settings["EchoSpacing"],
    }
    return to_signals(view, {t: mprage(x, **words) for t, x in TISSUES.items()})


def _all(view: View, settings: Params, rng: np.random.Generator) -> Made:
    # In the order of a scanner: contrast, display curve, resolution, coil, and noise that no coil has shaped.
    notes: dict[str, Any] = {"Tissue": view.labels is not None}

    def step(image: Array, found: Mapping[str, Any]) -> View:
        notes.update(found)
        return replace(view, image=np.where(view.data, image, 0.0))

    now = view if view.labels is None else step(*_tissue(view, settings, rng))
    now = step(*_curve(gamma_curve(settings["Gamma"]))(now, settings, rng))
    now = step(*_blur(now, settings, rng))
    now = step(*_bias(now, settings, rng))
    image, found = _noise(now, settings, rng)
    return image, {**notes, **found}


def _any_scanner(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "Gamma": float(np.exp(rng.uniform(np.log(0.7), np.log(1.5)))),
        "GreyToWhite": float(rng.uniform(0.60, 0.85)),
        "FWHM": float(rng.uniform(1.0, 2.0)),
        "Peak": float(rng.uniform(0.1, 0.3)),
        "Sigma": float(rng.uniform(0.01, 0.05)),
    }


def _paper(name: str) -> Domain:
    formula = {"exp": "exp(x)", "log": "log(1 + 3x)"}.get(name, f"x^{name.removeprefix('gamma')}")
    return Domain(
        name,
        f"the paper's {formula}: a brighter or darker display of the same scan",
        f"{formula}, x from min-max to [0, 1], min-max back",
        _curve(CURVES[name]),
        _fixed(),
        monotone=True,
    )


_HARD = (
    Domain("bias", "a coil's smooth bias field, up to 30 %", "I · exp(b), max |b| = log 1.3", _bias, _fixed(Peak=0.3)),
    Domain(
        "noise",
        "Rician noise, 5 % of white matter",
        "sqrt((I + n1)² + n2²), sd 5 % of the 90th percentile",
        _noise,
        _fixed(Sigma=0.05),
    ),
    Domain(
        "thick",
        "slices of 3 mm from bottom to top",
        "box average of 3 mm, linear interpolation back",
        _thick,
        _fixed(SliceThickness=3.0),
    ),
    Domain("blur", "a blurred scan", "Gaussian, FWHM 2 mm", _blur, _fixed(FWHM=2.0)),
    Domain(
        "tissue",
        "less contrast between grey and white matter",
        "grey matter to 0.80 of white matter",
        _tissue,
        _fixed(GreyToWhite=0.80),
        needs_labels=True,
    ),
    Domain(
        "gre",
        "the contrast of a spoiled gradient echo at 3 T",
        "FLASH equation, TR 20 ms, TE 5 ms, 20°",
        _gre,
        _fixed(RepetitionTime=20.0, EchoTime=5.0, FlipAngle=20.0),
        needs_labels=True,
    ),
    Domain(
        "ir",
        "the contrast of an inversion recovery (MPRAGE) at 3 T",
        "MPRAGE steady state, TR 2300, TI 900, TE 3 ms, 9°, 160 echoes of 7 ms",
        _ir,
        _fixed(RepetitionTime=2300.0, InversionTime=900.0, EchoTime=3.0, FlipAngle=9.0, Echoes=160, EchoSpacing=7.0),
        needs_labels=True,
    ),
    Domain(
        "all",
        "a random scanner, drawn from the seed: contrast (with labels), gamma, blur, bias field and noise together",
        "tissue 0.60-0.85, gamma 0.7-1.5, FWHM 1-2 mm, bias 10-30 %, noise 1-5 %",
        _all,
        _any_scanner,
    ),
    Domain(
        "site",
        "a scanner drawn from the seed as 17 real sites differ: contrast, coil field, sharpness, noise",
        "tissues to their levels; I · exp(b); Gaussian; coloured Rician noise; (I / white)^γ",
        through_site,
        draw_site,
        needs_labels=True,
    ),
)

DOMAINS: Mapping[str, Domain] = {d.name: d for d in (*map(_paper, CURVES), *_HARD)}
