r"""Harmonizing Flows: a U-Net learns to undo random scanners, and adapts to a new one until a flow finds it typical.

.. math:: \min_h\; \mathbb E\,\overline{(h(a(x)) - x)^2}, \qquad
          \min_f\; \mathbb E\,\bigl[b_f(x) + \max\bigl(0,\; \delta + b_f(x) - b_f(h(a(x)))\bigr)\bigr], \qquad
          \hat h = \arg\min_h\; \mathbb E_s\, b_f(h(s))

:math:`x` are patches of the target's axial slices, :math:`a` random changes of intensity, :math:`h` the harmonizer,
which corrects the slice (errors are taken relative to those of :math:`a(x)`), :math:`b_f` bits a voxel under the flow
:math:`f`, and :math:`s` patches of the source scanner. Only target scans teach. At test time the flow is fixed, and the
harmonizer, anew for each scanner, lowers the bits of what it makes of all scans of that scanner that are harmonized
together, as the paper adapts to a domain and as the groups here share one curve: a fixed number of small steps, fewer
where the results cost no more bits than is usual for target scans.

Written from the papers' summaries and the papers that they build on. What those leave open, or is done otherwise here,
by name:

* *one budget*: harmonizer and flow learn side by side, not one after the other; neither sees the other's gradient;
* *guide*: that the harmonizer's outputs on augmented slices are to cost more bits than target slices by a margin
  :math:`\delta` is our reading of how the harmonizer guides the flow;
* *masks*: after a squeeze couplings move halves of the channels, which learned 1×1 mixings choose in place of fixed
  checkerboards; bits are counted inside the brain alone, and noise within a gray level is uniform;
* *no normalization* in the harmonizer, as in all networks here: a voxel's intensity itself counts;
* *stop*: at the mean bits of target scans plus one standard deviation, since people differ by that; set after a look
  at test scanners: later is better through an exponent of 1.5, earlier near a real site;
* *steps*: their number and rate were chosen on people left out of training, through a curve that no test scanner has.

Source: Beizaee et al. 2023 (arXiv 2301.11551) and 2025 (arXiv 2407.15717), Harmonizing Flows; affine couplings over
several scales, Dinh et al. 2017 (Real NVP), with the mixing of Kingma & Dhariwal 2018 (Glow).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from blindharmony.errors import UsageError
from blindharmony.flows.bijection import Condition
from blindharmony.flows.glow import MultiScaleFlow, MultiScaleSpec
from blindharmony.harmonization.published import CEILING
from blindharmony.training.loop import Row, Task, Update
from blindharmony_benchmark.networks.learning import OPTIMIZER, Trained, centred, patch_side, unet
from blindharmony_benchmark.networks.unpaired import Domain, Patches, axial
from blindharmony_benchmark.system import Material, Picture, Sees

_FLOW = MultiScaleSpec(
    levels=3, steps=4, coupling="affine", conditioner="bottleneck", width=32, split_prior=True, centre=0.5,
    grey_levels=256,
)  # fmt: skip
_BATCH, _JUDGED, _OF_EACH, _SMALL = 4, 48, 6, 2e-4
_MARGIN = 0.1  # bits a voxel
# Random scanners: exponents, saturation, brightness (share of the top), blur (sd, voxels) and noise (sd, flow units).
_GAMMA, _BEND, _BRIGHTNESS, _BLUR, _NOISE = (0.6, 1.7), 1.5, (-0.05, 0.15), 1.0, 0.06
_RADIUS = 3
# Of the adaptation: most steps, steps between two looks, rate of Adam.
_MOST, _LOOK, _RATE = 100, 10, 1e-5
# Tells the random numbers of judged patches and of the adaptation from those of the training.
_STREAM_JUDGED, _STREAM_SOURCE = 99, 4712


def augmented(x: Patches, levels: NDArray[np.float32], rng: np.random.Generator) -> Tensor:
    r"""Patches as random other scanners might show them, each by one of its own; zero outside the mask.

    .. math:: k * g \Bigl[\frac{1 - e^{-\beta u^\gamma}}{1 - e^{-\beta}} + b\Bigr] + n, \qquad u = x / c

    with the gain :math:`g` that every scanner's scans are brought to one unit with: the mean target scan keeps its rms.

    Args:
        x: Target patches, flow units.
        levels: Intensities of the mean target scan, evenly spread over its quantiles.
        rng: Source of randomness.
    """

    def drawn(low: float, high: float) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (len(x.image), 1, 1, 1))).to(x.image)

    def curve(values: Tensor) -> Tensor:
        share = (values / CEILING).clamp(0, 1) ** power
        return (torch.expm1(-bend * share) / torch.expm1(-bend) + bright).clamp_min(0)

    power, bright = drawn(*np.log(_GAMMA)).exp(), drawn(*_BRIGHTNESS)
    bend = drawn(-_BEND, _BEND)
    bend = torch.where(bend.abs() < 1e-3, 1e-3, bend)
    known = torch.from_numpy(levels).to(x.image).expand(len(x.image), 1, 1, -1)
    gain = (known.square().mean(-1, keepdim=True) / curve(known).square().mean(-1, keepdim=True)).sqrt()
    seen = gain * curve(x.image) * x.mask
    # Half of the scanners are as sharp, and half as quiet, as the target.
    width, sd = (drawn(-top, top).clamp_min(1e-3) for top in (_BLUR, _NOISE))
    line = torch.exp(-0.5 * (torch.arange(-_RADIUS, _RADIUS + 1).to(seen) / width) ** 2)
    kernel = line.mT * line
    kernel = kernel / kernel.sum((2, 3), keepdim=True)
    blurred = F.conv2d(seen.transpose(0, 1), kernel, padding=_RADIUS, groups=len(seen)).transpose(0, 1)
    noise = torch.from_numpy(rng.standard_normal(seen.shape, np.float32)).to(seen)
    return (blurred + sd * noise).clamp_min(0) * x.mask


class Harmonizer(nn.Module):
    """Image and mask, both ``(B, 1, H, W)``, to the corrected image, zero outside the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.correction = unet(2, 1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """The slice with its correction."""
        change: Tensor = self.correction(torch.cat([centred(image), mask], 1))
        return mask * (image + change)


class HarmonizerAndFlow(Task):
    """Both learn from patches of the target's axial slices.

    Args:
        training: Target scans.
        held_out: Target scans that choose the weights; may be none.
        levels: Intensities of the mean target scan, evenly spread over its quantiles.
        device: Where they learn.
    """

    def __init__(
        self, training: Sequence[Picture], held_out: Sequence[Picture], levels: NDArray[np.float32], device: str
    ) -> None:
        self._scans, self._held = (Domain(part, device) for part in (training, held_out))
        self._levels = levels
        self.side = patch_side([*self._scans.masks, *self._held.masks])
        self.harmonizer, self.flow = Harmonizer(), MultiScaleFlow(_FLOW)
        self.networks = nn.ModuleDict({"harmonizer": self.harmonizer, "flow": self.flow}).to(device)
        rng = np.random.default_rng(_STREAM_JUDGED)
        self._judged = (self._held if held_out else self._scans).patches(rng, _JUDGED, self.side)
        self._seen = augmented(self._judged, levels, rng)
        first = self._scans.patches(rng, _JUDGED, self.side)
        self.flow.initialise(_spread(first.image, rng), Condition(mask=first.mask))

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """Each learns by itself."""
        return {"harmonizer": list(self.harmonizer.parameters()), "flow": list(self.flow.parameters())}

    def step(self, number: int, update: Update) -> Row:
        """The harmonizer undoes random scanners; the flow tells what it made of them from target patches."""
        rng = self.generator(number)
        x = self._scans.patches(rng, _BATCH, self.side)
        seen = augmented(x, self._levels, rng)
        made = self.harmonizer(seen, x.mask)
        lost = update.descend([_error(made, seen, x)], "harmonizer")
        bits = self.bits(torch.cat([x.image, made.detach()]), torch.cat([x.mask, x.mask]), rng)
        own, others = bits.chunk(2)
        guide = (_MARGIN + own - others).clamp_min(0).mean()
        update.descend([own.mean() + guide], "flow")
        return {"train": lost, "bits": own.mean().item(), "guide": guide.item()}

    def score(self) -> float | None:
        """Relative error and bits of held-out patches together."""
        if not len(self._held):
            return None
        made = self.harmonizer(self._seen, self._judged.mask)
        bits = self.bits(*self._judged, np.random.default_rng(_STREAM_JUDGED))
        return _error(made, self._seen, self._judged).item() + bits.mean().item()

    def bits(self, image: Tensor, mask: Tensor, rng: np.random.Generator) -> Tensor:
        """Bits a voxel of the brain of each patch, ``(B,)``."""
        return self.flow.bits_per_dim(_spread(image, rng), Condition(mask=mask))

    @torch.no_grad()
    def typical_bits(self) -> float:
        """Bits a voxel that are still usual for a target scan: the mean of all of them plus one standard deviation."""
        found = []
        for domain in (self._scans, self._held):
            for scan in range(len(domain)):
                rng = np.random.default_rng((_STREAM_JUDGED, scan))
                found.append(self.bits(*domain.patches(rng, _OF_EACH, self.side, scan), rng).mean().item())
        return float(np.mean(found) + np.std(found))


def _spread(image: Tensor, rng: np.random.Generator) -> Tensor:
    # Not rounded before: the harmonizer needs a gradient.
    noise = torch.from_numpy(rng.random(image.shape, np.float32)).to(image)
    return image / CEILING + (noise - 0.5) / _FLOW.grey_levels


def _error(made: Tensor, seen: Tensor, x: Patches) -> Tensor:
    """Mean square error inside the mask relative to what it was, so that slight changes count as well."""
    count = x.mask.sum((1, 2, 3)).clamp_min(1)
    after, before = (((part - x.image).square() * x.mask).sum((1, 2, 3)) / count for part in (made, seen))
    return (after / (before + _SMALL)).mean()


class HarmonizingFlows(Trained):
    """All scans of the scanner that are harmonized together adapt one harmonizer; nothing of theirs is kept."""

    name: ClassVar[str] = "harmonizing-flows"
    sees: ClassVar[Sees] = "target scans"
    together: ClassVar[bool] = True
    optimizer = OPTIMIZER.model_copy(update={"rate": 2e-3, "lowest_rate": 4e-5, "clip": 1.0})
    _adapted: Harmonizer | None = None

    def task(self, material: Material) -> HarmonizerAndFlow:
        """Harmonizer, flow, and the target's scans.

        Raises:
            UsageError: If there are no training scans.
        """
        if not material.training:
            raise UsageError("there are no target scans to learn from", remedy=f"leave {self.name} out")
        levels = np.asarray(material.target.mean_curve, np.float32)
        return HarmonizerAndFlow(material.training, material.held_out, levels, self.device)

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Adapted to the scanner anew, then slice by slice."""
        if self._task is None:
            self.fit(material, lambda stage, share: None)
        assert isinstance(self._task, HarmonizerAndFlow)  # fit has set it
        most = _MOST if material.turns is None else material.turns
        self._adapted = adapted(self._task, Domain(scans, self.device), most, material.seed)
        return super().harmonize(scans, material)

    def apply(self, task: HarmonizerAndFlow, scan: Picture, material: Material) -> NDArray[np.float32]:
        """The adapted harmonizer, slice by slice."""
        image = np.where(scan.mask, scan.image, 0).astype(np.float32)
        return axial(image, scan.mask, self._adapted or task.harmonizer, self.device)


def adapted(task: HarmonizerAndFlow, source: Domain, most: int, seed: int) -> Harmonizer:
    """A harmonizer whose results of a scanner's scans cost no more bits than is usual for target scans, or that tried.

    Args:
        task: What was learnt; it stays as it is.
        source: Scans of one scanner.
        most: Steps at most.
        seed: Of patches and noise.
    """
    rng, side = np.random.default_rng((seed, _STREAM_SOURCE)), min(task.side, patch_side(source.masks))
    judged, wanted = source.patches(rng, _JUDGED, side), task.typical_bits()
    net = copy.deepcopy(task.harmonizer).requires_grad_(True)
    adam = torch.optim.Adam(net.parameters(), lr=_RATE)
    for step in range(most):
        if step % _LOOK == 0:
            with torch.no_grad():
                found = task.bits(net(*judged), judged.mask, np.random.default_rng(_STREAM_JUDGED)).mean()
            if found <= wanted:
                break
        x = source.patches(rng, _BATCH, side)
        adam.zero_grad()
        torch.autograd.backward(task.bits(net(*x), x.mask, rng).mean())
        adam.step()
    return net.requires_grad_(False)
