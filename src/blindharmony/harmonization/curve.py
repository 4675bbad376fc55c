r"""The default method: one increasing intensity curve, from the scan's own ranks or shared by scans of one scanner.

.. math:: x_h(v) = T(g\, y(v))

For one scan :math:`T = \hat Q \circ F_y`: its intensity ranks :math:`F_y`, and the quantile curve :math:`\hat Q` that
the person in it would have on the target scanner (:mod:`~blindharmony.models.person`), :math:`g = 1`. With a scanner
model (:mod:`~blindharmony.harmonization.scanner`) :math:`T` is that scanner's, and :math:`g` gives the result the scale
of a target scan. Ranks never change: no anatomy can appear.

Before the curve is used, a bias field of N4 is estimated again in the target's contrast (one of least entropy hardly
takes contrast for shading). A first curve :math:`T_1` says what the scan as it came would look like on the target.
There the field is found again, and with it another curve :math:`T_2` for what is left. A field that was found in the
wrong contrast had misled the first, so the scan as it came is put through both, :math:`T_2 \circ T_1`, and the field is
found once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blindharmony.harmonization.intensity import Curve, CurveMap, Estimate, error_bar, evident_share, lifting_curve, rms
from blindharmony.harmonization.scanner import ScannerModel, fit_scanner
from blindharmony.harmonization.summary import ScanSummary, inside_only, summarize
from blindharmony.models.target import Target
from blindharmony.preprocessing.recipe import Preparation, Prepared, prepare_in_contrast
from blindharmony.settings import HarmonizeSettings

#: The figure of a scan whose error is known.
ERROR_BAR = "error bar (% of the brightest tissue)"


def harmonize_curve(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    target: Target,
    *,
    scanner: ScannerModel | None = None,
    settings: HarmonizeSettings = HarmonizeSettings(),
    fitted: NDArray[np.bool_] | None = None,
    whole: bool = False,
) -> Estimate:
    """Harmonize a scan by one intensity curve.

    Args:
        image: Template grid, prepared, zero outside the mask.
        mask: Brain.
        target: Target model; without a person model this is masked histogram matching.
        scanner: Of the scanner that made the scan, if several of its scans were fitted together.
        settings: Numbers of the curve.
        fitted: Voxels that the curve is fitted to, without lesions; the whole brain if not given.
        whole: Whether the scan is in the target's contrast by an earlier curve, so that all of this one, which is for
            what is left, is used; otherwise it goes as far as there is evidence.

    Raises:
        PreprocessingError: If hardly any brain lies where the target has brain.
    """
    fitted = mask if fitted is None else fitted
    summary = summarize(image, fitted, target, settings.curve)
    person, warnings, doubts = target.person, [], []
    moved = float(np.sqrt(np.mean((summary.person - target.mean_curve) ** 2)))
    figures: dict[str, float | str] = {
        "person's difference from the mean (rms)": round(moved, 4),
        "surprise": round(summary.surprise, 3),
    }
    if scanner is None:
        gain, used = 1.0, fit_scanner([summary], target, settings, whole=whole)
    else:
        gain, used = scanner.gain(image, fitted), scanner
    curve = CurveMap(used.curve.x / gain, used.curve.y)
    wanted = curve(summary.quantiles.astype(np.float32)).astype(np.float64)
    if scanner is not None:
        off = float(np.sqrt(np.mean((wanted - summary.person) ** 2)))
        figures |= {"scans of the scanner": scanner.scans, "gain": round(gain, 4), "off its own curve": round(off, 4)}
        if person is not None and off > settings.curve.other_scanner * float(np.sqrt((person.error**2).mean())):
            doubts.append(
                "This scan does not fit the model of its scanner: alone it would have got another curve. "
                "Was it made by another scanner, or with another sequence?"
            )
    elif person is not None and (left_open := float(person.open_share(summary.surprise))) > settings.curve.strange:
        kept = f" Only {100 / left_open:.0f} % of the difference from the mean head was used." if left_open > 1 else ""
        warnings.append(
            "How bright this person's tissues would be on the target is known less well than usual: the order of its "
            f"intensities says little about it, and the error bar is larger.{kept}"
        )
    bar = None
    if person is not None:
        bar = error_bar(person, wanted, surprise=summary.surprise, scans=scanner.scans if scanner else 1)
        figures[ERROR_BAR] = round(100 * float(bar.deviation.mean()) / float(np.quantile(wanted, 0.95)), 2)
    return Estimate(
        inside_only(image, mask, curve),
        intensity_map=curve,
        error=bar,
        figures=figures,
        warnings=warnings,
        doubts=doubts,
    )


def in_target_contrast(
    prepared: Prepared,
    target: Target,
    scanner: ScannerModel | None = None,
    *,
    settings: HarmonizeSettings = HarmonizeSettings(),
    recipe: Preparation | None = None,
    cache: Path | None = None,
) -> tuple[Prepared, ScannerModel | None]:
    """The scan with its bias field estimated again, and the curve of its scanner that is still to be applied.

    Args:
        prepared: The scan as prepared in its own contrast.
        target: The target.
        scanner: Of the scanner that made the scan, if it is known: its curves are used, in as many rounds as it has.
        settings: Numbers; a scan whose scanner is not known has as many rounds as they say.
        recipe: Steps of preparation; those of the target if not given.
        cache: Folder in which bias fields are kept.
    """
    rounds = settings.bias_again.rounds_after(target.info.recipe.bias)
    *used, remaining = scanner.rounds if scanner else (*[None] * rounds, None)
    return bias_estimated_again(prepared, target, used, settings=settings, recipe=recipe, cache=cache), remaining


def bias_estimated_again(
    prepared: Prepared,
    target: Target,
    models: Sequence[ScannerModel | None],
    *,
    settings: HarmonizeSettings = HarmonizeSettings(),
    recipe: Preparation | None = None,
    cache: Path | None = None,
) -> Prepared:
    """The scan prepared again in the contrast of each round's model; None for the scan's own curve.

    Without a bias field there is nothing to estimate, and if the first curve may be all error there is no better
    contrast to do it in: then the scan stays as it is.
    """
    if prepared.bias_field is None:
        return prepared
    latest, total, share = prepared, None, 0.0
    for model in models:
        image, inside = latest.scan.data, latest.scan.fitted()
        estimate = harmonize_curve(image, inside, target, scanner=model, settings=settings, whole=True)
        if not isinstance(estimate.intensity_map, CurveMap):
            break
        if total is None:
            change = rms((estimate.image - image)[inside])
            error = _usual_error(estimate, target)
            share = model.lift if model else evident_share(change, error, settings.bias_again.sure)
            if share == 0:
                break
        # A scan that is unlike the target's is no reason to believe in a parabola: its surprise is no part of this.
        scans = model.scans if model else 1
        usual = rms(target.person.deviation(np.zeros(scans))) if target.person else np.inf
        curve = _composed(total, latest, estimate.intensity_map)
        total = lifting_curve(curve, share, prepared.scan.data[inside], usual, settings.bias_again)
        latest = prepare_in_contrast(prepared, recipe or target.info.recipe, total, cache=cache)
    return latest


@dataclass(frozen=True)
class ScannerRounds:
    """The model of a scanner while it is being fitted: which look at its scans is next, and what it taught.

    In the first look the scans are as prepared in their own contrast, and a first curve is fitted to them. In each
    later look their bias fields are estimated again in the contrast of the model so far, and what is left of the curve
    is fitted to that. The last look is at what harmonizing does with it: whether it brings the scans nearer to the
    target, all together. One look follows another as long as one is :attr:`wanted`.

    Attributes:
        target: The target model.
        model: So far; None before the first look.
        ended: Whether no other look is taken: scans were lost between two looks, or nothing tells how near the target
            they are.
        settings: Numbers of the curve, and how many looks there may be.

    Example:
        >>> def fitted(look, target):
        ...     rounds = ScannerRounds(target)
        ...     while rounds.wanted:
        ...         rounds = rounds.after(look(rounds.number, rounds.model))
        ...     return rounds.model
    """

    target: Target
    model: ScannerModel | None = None
    ended: bool = False
    settings: HarmonizeSettings = HarmonizeSettings()

    @property
    def number(self) -> int:
        """The look that is next, from 1."""
        return 1 + (len(self.model.rounds) if self.model else 0)

    @property
    def wanted(self) -> bool:
        """Whether another look is: bias fields are corrected at all, and the first curve is surely no accident."""
        return self.model is None or self._of_bias or self.of_benefit

    @property
    def _of_bias(self) -> bool:
        recipe = self.target.info.recipe
        if self.model is None or self.model.distances or self.ended:
            return False
        more = len(self.model.rounds) <= self.settings.bias_again.rounds_after(recipe.bias)
        return recipe.n4 and bool(self.model.lift > 0) and more

    @property
    def of_benefit(self) -> bool:
        """Whether the next look is at what harmonizing does; the summaries are then to have ``distances``."""
        open_question = self.model is not None and self.model.distances is None
        return self.settings.on_harm == "scan" and open_question and not self._of_bias and not self.ended

    def after(self, summaries: Sequence[ScanSummary]) -> ScannerRounds:
        """The rounds after one more look.

        Args:
            summaries: Of the scans; some can be lost on the way. A model that several scans made is not refined with a
                single one: it stays as it is then.

        Raises:
            UsageError: If the first look gave none.
        """
        if self.model is None:
            return replace(self, model=fit_scanner(summaries, self.target, self.settings))
        if self.of_benefit:
            known = [s.distances for s in summaries if s.distances and np.isfinite(s.distances).all()]
            if not known:
                return replace(self, ended=True)
            before, after = np.mean(known, 0).round(3).tolist()
            return replace(self, model=replace(self.model, distances=(before, after)))
        if len(summaries) < min(2, self.model.scans):
            return replace(self, ended=True)
        last = fit_scanner(summaries, self.target, self.settings, whole=True)
        return replace(self, model=self.model.with_round(last))


def _composed(total: CurveMap | None, latest: Prepared, curve: CurveMap) -> Curve:
    """Prepared intensities → flow units: through the curve so far, the gain found after it, and the next curve."""
    if total is None:
        return curve
    so_far, gain = total, np.float32(latest.gain)

    def composed(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return curve(so_far(values) / gain)

    return composed


def _usual_error(estimate: Estimate, target: Target) -> float:
    """The error bar of a curve, one number."""
    return rms(estimate.error.deviation) if estimate.error else rms(target.quantiles.std(0))
