"""What a scan's report is told, as plain arrays and numbers, and the methods paragraph with the works it rests on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.quality.checks import DIRECTION_OF, Check
from blindharmony.quality.typicality import CONTRAST
from blindharmony.quality.verdict import Verdict


@dataclass(frozen=True, eq=False)
class Curve:
    """The intensity curve that was fitted: scan intensity to harmonized intensity.

    Attributes:
        x: Intensity before, in the unit of the page, increasing, shape ``(n,)``.
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
    """How far the intensity curve may be off.

    Attributes:
        intensity: Harmonized intensity, in the unit of the page, increasing, shape ``(n,)``.
        deviation: One standard deviation of its error, same unit and shape.

    Example:
        >>> Confidence(np.array([0.0, 1.0]), np.array([0.0, 0.1])).deviation.max()
        np.float64(0.1)
    """

    intensity: NDArray[np.floating[Any]]
    deviation: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class FileChange:
    """What was done to a scan between the file that was read and the file that is written, in the brain.

    Attributes:
        gain: Mean of the result over mean of the scan.
        correlation: Pearson's, of the scan as it came with the result.
        total: Mean absolute change that is left when both have the same mean, percent of white matter.
        parts: The same for each step: ``shading``, ``contrast``, ``noise and blur``. They can cancel each other, so
            that their sum may be more than the total.

    Example:
        >>> FileChange(2.0, 0.93, 8.1, {"shading": 7.6, "contrast": 2.0, "noise and blur": 0.4}).words
        'an average voxel changed by 8 % of white matter, mostly evened-out coil shading'
    """

    gain: float
    correlation: float
    total: float
    parts: Mapping[str, float]

    @property
    def words(self) -> str:
        """What a person would say."""
        if self.total < _HARDLY:
            return f"hardly changed ({self.total:.1f} %)"
        ordered = sorted(self.parts, key=lambda name: -self.parts[name])
        most = self.parts[ordered[0]] > _MOST * max(sum(self.parts.values()), self.total)
        what = [_PARTS.get(name, name) for name in ordered[: 1 if most else 2]]
        size = f"{self.total:.0f}" if self.total >= 2 else f"{self.total:.1f}"
        return f"an average voxel changed by {size} % of white matter, mostly {' and '.join(what)}"


_LOOKS = {
    "good": "Looks like a {target} scan",
    "caution": "Look at it before you use it as a {target} scan",
    "poor": "Do not use it as a {target} scan",
}
# Names of checks → what a person would say.
_BECAUSE = {
    "registration": "its brain mask or its place on the template is off",
    "brain mask": "it is not certain what the brain is",
    "brain volume": "its brain mask is off",
    "brain covered by the mask": "its brain mask is off",
    "mask outside the brain": "its brain mask is off",
    "halves": "one half of the head is a copy of the other",
    "dark place": "tissue is unusually dark at one place: a shadow, large ventricles or a lesion",
    "unlike place": "one place is unusual: bright vessels, an artifact or a lesion",
    "order of tissues": "bright and dark tissue are not where they should be",
    "intensities": "its contrast is another one",
    CONTRAST: "its contrast is another one",
    "white matter": "its white matter is too bright or too dark",
    "gray matter": "its gray matter is too bright or too dark",
    "fluid": "its fluid is too bright or too dark",
    "likelihood": "it is improbable there",
    f"{DIRECTION_OF}likelihood": "the result is less probable there than the scan: motion, noise, another sequence?",
    "benefit": "harmonizing did not bring it nearer",
    "fit": "it does not fit the curve of its scanner",
}
# Levels of the flow: millimeters up to which an unusual level is a matter of detail.
_FINE_MM = 4
_FINE, _COARSE = (
    "its fine detail is unusual: noise, motion or blur",
    "its large shapes are unlike: contrast or anatomy",
)
_HARDLY, _MOST = 1.0, 0.6


def _reason(check: Check) -> str:
    """What a person would say of a check that is not good."""
    if check.missing:
        return f"{check.name} not judged"
    if level := re.fullmatch(r"(?:detail|brightness) at (\d+) mm", check.name):
        fine = int(level[1]) <= _FINE_MM
        return _FINE if fine else _COARSE
    return _BECAUSE.get(check.name, check.name)


_PARTS = {"shading": "evened-out coil shading", "contrast": "contrast between tissues"}


@dataclass(frozen=True, eq=False)
class ScanEvidence:
    """One harmonized scan, seen from all sides; every image is on the template grid in RAS+ order.

    Attributes:
        name: File name to show.
        before: The scan as it came times the one gain that gives it the result's mean, shape ``(X, Y, Z)``.
        after: The harmonized scan, same shape and unit.
        steps: What each step changed, by name, same shape and unit; they add up to the whole change.
        change: What was done to the file, in numbers.
        target_image: What a head of the target looks like, same shape and unit; zero outside its brain.
        target_words: What that picture is.
        mask: Brain, same shape.
        atlas: The template brain, same shape, to check the registration.
        unit: Name of the intensity unit.
        curve: The intensity curve, if one was fitted.
        target_quantiles: Intensity quantiles of each target scan, shape ``(subjects, levels)``.
        levels: The quantiles' levels, increasing within 0…1, shape ``(levels,)``.
        quantiles: Those of the scan before and after, where both it and the target have brain, each ``(levels,)``.
        held_out: How many of the target scans, the last of them, were never trained on.
        confidence: How sure the result is, if anything is known about it.
        trace: One mapping per optimisation step: ``step``, ``objective``, any other series.
        figures: Numbers for the table, by name.
        verdict: Every check of the result; gauges and limits are those of its checks.
        verdict_before: The same checks of the scan as it came.
        places: Where the head is unlike the target's, by name of the check, each of the images' shape.
        details: What else to know, one sentence each.
        preparation: For each step, the numbers it found.
        methods: The methods paragraph, see :func:`~blindharmony.report.evidence.methods_text`.
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
    quantiles: tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]
    verdict: Verdict
    verdict_before: Verdict
    methods: str
    steps: Mapping[str, NDArray[np.float32]]
    change: FileChange
    target_image: NDArray[np.float32]
    target_words: str
    curve: Curve | None = None
    held_out: int = 0
    confidence: Confidence | None = None
    trace: Sequence[Mapping[str, float]] = ()
    figures: Mapping[str, float | str] = field(default_factory=dict)
    places: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    details: Sequence[str] = ()
    preparation: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What a person would say about the result, in one sentence."""
        like = _LOOKS[self.verdict.level].format(target=self.verdict.target) + self._because
        if self.verdict.level == "poor":
            return f"{like}."
        kept = ". Its contrast was left as it was" if self.verdict.returned else ""
        return f"{like}; {self.change.words}{kept}."

    @property
    def _because(self) -> str:
        """The first of the worst checks in plain words, and how many others there are."""
        worst = [check for check in self.verdict.checks if check.severity and check.severity is self.verdict.severity]
        away = [check for check in worst if check.name.startswith(DIRECTION_OF) and check.name not in _BECAUSE]
        reasons = list(dict.fromkeys(_reason(check) for check in worst if check not in away))
        if away:
            names = [check.name.removeprefix(DIRECTION_OF) for check in away]
            listed = " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
            reasons.append(f"harmonizing moved its {listed} away from the target")
        if not reasons:
            return ""
        more = len(reasons) - 1
        others = f"; {more} more reason{'s' if more > 1 else ''} below" if more else ""
        return f" ({reasons[0]}{others})"

    def __post_init__(self) -> None:
        images = {"after": self.after, "mask": self.mask, "atlas": self.atlas, "target_image": self.target_image}
        for name, image in {**images, **self.steps, **self.places}.items():
            if image.shape != self.before.shape:
                raise ValueError(f"{name} has shape {image.shape}, before has {self.before.shape}")
        subjects, levels = self.target_quantiles.shape
        if subjects < 1 or levels < 2 or self.levels.shape != (levels,):
            shape = self.target_quantiles.shape
            raise ValueError(f"target_quantiles has shape {shape} for {self.levels.size} levels")
        if any(scan.shape != (levels,) for scan in self.quantiles):
            raise ValueError(f"quantiles have shapes {[scan.shape for scan in self.quantiles]} for {levels} levels")
        if not self.mask.any():
            raise ValueError("the mask is empty")


_BASIS = (
    "Scans were {done} with blindharmony {version}, a blind harmonization "
    "method: it learns from target scans only and needs no scan of the source scanner (Jeong et al., 2023). "
    "{mask}. {n4}The scan was registered to the ICBM152 2009a symmetric template at 1 mm (Fonov et al., "
    "2011). The target was known from {scans}{flow}. {method} The result was returned on the scan's own grid."
)
_MASKS = {
    "network": "The brain was extracted with deepbet (Fisch et al., 2024)",
    "stripped": "The scan had been skull-stripped before",
    "command": "The brain was extracted with an external program",
    "given": "The brain was given by a mask of the user",
}
_FLOW = "; a multi-resolution normalizing flow of {couplings} fitted to them judged scan and result"

_BIAS = {
    "n4-itk": "with N4 (Tustison et al., 2010)",
    "n4": "with N4 (Tustison et al., 2010)",
    "entropy": "by the smooth field that leaves least entropy (Likar et al., 2001)",
}


def _bias_sentence(share: float) -> str:
    if share == 0:
        return "No intensity non-uniformity was found that is not anatomy, and none removed (looked for {})."
    return f"Intensity non-uniformity was {'' if share >= 1 else 'partly '}corrected {{}}."


_REFERENCES = {
    "dinh": "Dinh L, Sohl-Dickstein J, Bengio S. Density estimation using Real NVP. International Conference on "
    "Learning Representations (ICLR), 2017. arXiv:1605.08803.",
    "durkan": "Durkan C, Bekasov A, Murray I, Papamakarios G. Neural spline flows. "
    "Advances in Neural Information Processing Systems 32, 2019. arXiv:1906.04032.",
    "fisch": "Fisch L, et al. deepbet: Fast brain extraction of T1-weighted MRI using convolutional neural "
    "networks. Computers in Biology and Medicine 179:108845, 2024. arXiv:2308.07003.",
    "fonov": "Fonov V, Evans AC, Botteron K, Almli CR, McKinstry RC, Collins DL. Unbiased average "
    "age-appropriate atlases for pediatric studies. NeuroImage 54(1):313–327, 2011.",
    "jeong": "Jeong H, Byun H, Kang DU, Lee J. BlindHarmony: “blind” harmonization for MR images via flow "
    "model. IEEE/CVF International Conference on Computer Vision (ICCV), 2023. arXiv:2305.10732.",
    "likar": "Likar B, Viergever MA, Pernuš F. Retrospective correction of MR intensity inhomogeneity by information "
    "minimization. IEEE Transactions on Medical Imaging 20(12):1398–1410, 2001.",
    "tustison": "Tustison NJ, et al. N4ITK: improved N3 bias correction. "
    "IEEE Transactions on Medical Imaging 29(6):1310–1320, 2010.",
    "yu": "Yu JJ, Derpanis KG, Brubaker MA. Wavelet Flow: fast training of high resolution normalizing flows. "
    "Advances in Neural Information Processing Systems 33, 2020. arXiv:2010.13821.",
}


def methods_text(
    *,
    target: str,
    scans: int,
    method: str,
    version: str,
    n4: bool = True,
    bias: str = "n4-itk",
    bias_share: float = 1.0,
    returned: bool = False,
    mask: str = "network",
    flow: bool = True,
    splines: bool = False,
) -> str:
    """A paragraph to paste, then its references, one per line.

    Args:
        target: Name of the target.
        scans: Number of target scans the model was fitted to.
        method: What was done, in sentences.
        version: Version of this package.
        n4: Whether a bias field was looked for, to be removed.
        bias: What estimated it, as :class:`~blindharmony.preprocessing.recipe.PrepRecipe` names it.
        bias_share: How much of what was found was removed, 0 to 1.
        returned: Whether the scan was returned as it was, because harmonizing did not help.
        mask: Where the brain mask came from: ``network``, ``stripped``, ``command`` or ``given``.
        flow: Whether the target has a whole-volume flow.
        splines: Whether that flow has spline couplings.

    Example:
        >>> text = methods_text(target="T", scans=40, method="A curve was fitted.", version="1.0", n4=False, flow=False)
        >>> "known from 40 scans. A curve was fitted." in text, "N4" in text
        (True, False)
    """
    couplings = "spline couplings (Durkan et al., 2019; " if splines else "affine couplings (Dinh et al., 2017; "
    paragraph = _BASIS.format(
        target=target,
        version=version,
        mask=_MASKS[mask],
        done=f"compared with {target}" if returned else f"brought to the intensities of {target}",
        n4=f"{_bias_sentence(bias_share).format(_BIAS[bias])} " if n4 else "",
        scans=f"{scans} scan" if scans == 1 else f"{scans} scans",
        flow=_FLOW.format(couplings=couplings + "Yu et al., 2020)") if flow else "",
        method=method,
    )
    used = {
        "dinh": flow and not splines,
        "durkan": flow and splines,
        "fisch": mask == "network",
        "fonov": True,
        "jeong": True,
        "likar": n4 and bias == "entropy",
        "tustison": n4 and bias != "entropy",
        "yu": flow,
    }
    return "\n".join([paragraph, "", *(text for name, text in _REFERENCES.items() if used[name])])
