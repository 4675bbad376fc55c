r"""The default method: one increasing intensity curve, inferred under the flow.

Write the harmonized image as :math:`x_c = Q_c(F_y(y))`: the scan's own intensity ranks, and the quantile curve of a
person of the target population, :math:`Q_c = \bar Q + \sum_k c_k s_k v_k`. The coefficients of this head are

.. math:: \hat c = \arg\max_c\; \tau\,\bigl[\log p_\theta(x_c)
    + \textstyle\sum_v \log |\partial x_c / \partial x_0|\bigr] - \tfrac12 \|c\|^2 \;-\; b

where :math:`x_0` is masked histogram matching. The Jacobian makes it a likelihood of the *scan*: without it a flow
prefers blank images. Voxels are not independent evidence about contrast, so the flow's nats count only
:math:`\tau \ll 1`; :math:`\tau` and the offset :math:`b` of the answers come from held-out target scans, for which
the truth is known. Ranks never change: no anatomy can appear.

Source: the likelihood of a scan through an invertible map follows Durkan et al. 2019, eq. 1 (change of variables).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from blindharmony.harmonization.curve_map import CurveMap
from blindharmony.harmonization.match import source_quantiles
from blindharmony.harmonization.people import People
from blindharmony.harmonization.result import Estimate
from blindharmony.harmonization.typicality import reduced
from blindharmony.target import Target

# The 4 mm image: coarse enough to be about contrast and not about noise, and forty milliseconds a look.
HALVINGS = 2
_STEPS = 8

Progress = Callable[[int, int], None]


class CurveEvidence:
    r"""Log-likelihood of a scan as a function of the curve's coefficients, and its gradient.

    The curve is applied to the 4 mm image :math:`x_0`: :math:`h_c(x_0) = x_0 + \sum_k c_k\, m_k(x_0)` with the modes
    :math:`m_k` as functions of intensity, and :math:`h_c' = 1 + \sum_k c_k\, m_k'(x_0)`.

    Args:
        matched: Histogram-matched image, template grid, flow units.
        region: Where it is judged.
        target: Target with a whole-volume flow.
        people: Its quantile curves.
        device: Where the flow runs.
    """

    def __init__(
        self,
        matched: NDArray[np.float32],
        region: NDArray[np.bool_],
        target: Target,
        people: People,
        device: str,
    ) -> None:
        if target.pyramid is None:
            msg = "this target has no whole-volume flow"
            raise ValueError(msg)
        self.flow = target.pyramid.to(device)
        self.first = HALVINGS - 1
        x, self.mask = (t.to(device) for t in reduced(matched, region, HALVINGS))
        values = x.cpu().numpy()
        mean = _smooth(people.mean)
        # Where many voxels share one intensity the mean curve is flat, and a slope over it means nothing.
        step = np.maximum(np.gradient(mean), 0.05 * np.median(np.gradient(mean)) + 1e-6)
        modes = [_smooth(mode) for mode in people.modes]
        knots = np.maximum.accumulate(mean + 1e-6 * np.arange(mean.size))
        images = [np.interp(values, knots, mode) for mode in modes]
        slopes = [np.interp(values, knots, np.gradient(mode) / step) for mode in modes]
        self.image = x
        self.modes = torch.from_numpy(np.concatenate(images, 1).astype(np.float32)).to(device)
        self.slopes = torch.from_numpy(np.concatenate(slopes, 1).astype(np.float32)).to(device)

    def __call__(self, coefficients: Tensor) -> Tensor:
        """Nats of the scan, a scalar that can be differentiated."""
        weights = coefficients.to(self.image).view(1, -1, 1, 1, 1)
        image = self.image + (self.modes * weights).sum(1, keepdim=True)
        slope = 1 + (self.slopes * weights).sum(1, keepdim=True)
        volume = slope.clamp_min(0.05).log().where(self.mask, 0.0).sum()
        return self.flow.density(image, self.mask, first=self.first).nats.sum() + volume


def _smooth(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """A curve over ranks without the noise of nearly equal quantiles: a Gaussian of about 1 % of the ranks."""
    smooth = ndimage.gaussian_filter1d(curve, curve.size / 100, mode="nearest")  # type: ignore[attr-defined]
    return np.asarray(smooth)


def climb(
    evidence: CurveEvidence, *, scale: float, progress: Progress | None = None
) -> tuple[NDArray[np.float64], list[dict[str, float]]]:
    """The most probable coefficients for a given ``scale`` of the evidence, and the way there (L-BFGS)."""
    c = torch.zeros(evidence.modes.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([c], lr=1.0, max_iter=_STEPS, max_eval=2 * _STEPS, line_search_fn="strong_wolfe")
    trace: list[dict[str, float]] = []

    def loss() -> Tensor:
        optimiser.zero_grad()
        nats = evidence(c)
        value = -scale * nats.cpu() + 0.5 * c.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        numbers = {"objective": value.item(), "log-likelihood": nats.item()}
        trace.append({"step": float(len(trace)), **numbers})
        if progress:
            progress(min(len(trace), 2 * _STEPS), 2 * _STEPS)
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return c.detach().double().numpy(), trace


def harmonize_curve(
    image: NDArray[np.float32],
    mask: NDArray[np.bool_],
    target: Target,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Estimate:
    """Harmonize a scan by one intensity curve, with the person's part of it inferred under the flow.

    Args:
        image: Template grid, flow units.
        mask: Brain.
        target: Target model; without a whole-volume flow this is masked histogram matching.
        device: Where the flow runs.
        progress: Called with steps done and the most there can be.
    """
    people = People(target.levels, target.quantiles)
    quantiles, region = source_quantiles(image, mask, target)
    coefficients, trace = np.zeros(len(people.modes)), list[dict[str, float]]()
    if target.pyramid is not None and target.info.evidence_scale > 0 and len(people.modes):
        start = CurveMap.through(quantiles, people.mean)
        matched = np.where(region, start(image), 0).astype(np.float32)
        evidence = CurveEvidence(matched, region, target, people, device)
        found, trace = climb(evidence, scale=target.info.evidence_scale, progress=progress)
        coefficients = found - np.array(target.info.evidence_offset)
    curve = CurveMap.through(quantiles, people.curve(coefficients))
    out = np.where(mask, curve(image), 0).astype(np.float32)
    figures = {f"person {k + 1} (sd)": round(float(c), 3) for k, c in enumerate(coefficients)}
    return Estimate(out, intensity_map=curve, trace=trace, figures=figures)
