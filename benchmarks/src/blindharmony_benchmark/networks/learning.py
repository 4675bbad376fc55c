r"""What all trained systems share: MONAI parts, slices, the loop, what is kept of it.

Networks and losses from MONAI, which is imported only when something is learnt.

Source: MONAI, Cardoso et al. 2022 (arXiv 2211.02701).

Patches of slices, cut at random from scans in three orientations, for training.

What the training loop needs to know about whoever learns.

A training in its folder: safetensors and JSON, replaced in one piece.

``checkpoint.safetensors`` while it runs, ``network.safetensors`` when it is done, ``curve.jsonl`` a line for each look
at the held-out scans, ``training.json`` what was learnt, how long it took and how many numbers it has.

The training loop of every network: bounded by time or steps, interruptible anywhere, the mean of recent weights.

.. math:: \bar w_t = \bar w_{t-1} + (1 - k_t) (w_t - \bar w_{t-1}), \qquad k_t = \min(k, t / (t + 9))

The rate rises for a few steps, then falls along a cosine over the share of time or steps that is used. Of
:math:`\bar w` at every look at the held-out scans the best is kept, or the last where nothing can be held out.

Source: averaging, Polyak & Juditsky 1992; cosine, Loshchilov & Hutter 2017 (arXiv 1608.03983).

What all trained systems share: a folder, a budget, a device, and the network run through the slices of a scan.

A whole scan through a network of slices: in one orientation or the mean over several.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from blindharmony.errors import UsageError
from blindharmony.files import write_bytes, write_text
from blindharmony.preprocessing.grid import mask_box
from blindharmony_benchmark.system import Material, Picture, Say, System

#: Sides of what a U-Net takes are multiples of this.
MULTIPLE = 16
_WIDTHS = (16, 16, 32, 64, 64, 16)


def monai(module: str) -> ModuleType:
    """A module of MONAI.

    Raises:
        UsageError: If MONAI is not installed.
    """
    try:
        return import_module(f"monai.{module}")
    except ImportError:
        raise UsageError("MONAI is not installed", remedy="pip install 'blindharmony-benchmark[networks]'") from None


def unet(inputs: int, outputs: int, *, widths: tuple[int, ...] = _WIDTHS, silent: bool = True) -> nn.Module:
    """A U-Net of slices with five scales, ``(B, inputs, H, W)`` to ``(B, outputs, H, W)``, without normalisation.

    What a voxel becomes depends on its intensity itself: normalising a slice by its own mean would lose that.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        widths: Channels of each scale, and of the last one.
        silent: Whether it begins with zeros, as a correction that corrects nothing.

    Raises:
        UsageError: If MONAI is not installed.

    Source: Ronneberger et al. 2015 (arXiv 1505.04597).
    """
    made = monai("networks.nets").BasicUNet(
        spatial_dims=2,
        in_channels=inputs,
        out_channels=outputs,
        features=widths,
        norm=None,
        # Transposed convolutions leave a chessboard in what is nearly the image already.
        upsample="nontrainable",
    )
    if silent:
        nn.init.zeros_(made.final_conv.weight)
        nn.init.zeros_(made.final_conv.bias)
    return cast(nn.Module, made)


def critic(inputs: int, *, outputs: int = 1, width: int = 16, layers: int = 2) -> nn.Module:
    """A discriminator of patches; its last output is ``(B, outputs, H', W')``.

    Without normalisation, so that it notices a wrong brightness.

    Raises:
        UsageError: If MONAI is not installed.

    Source: Isola et al. 2017 (arXiv 1611.07004).
    """
    made = monai("networks.nets").PatchDiscriminator(
        spatial_dims=2, channels=width, in_channels=inputs, out_channels=outputs, num_layers_d=layers, norm=None
    )
    # Its own first weights are so small that a short training is over before it notices anything.
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return cast(nn.Module, made)


def least_squares() -> nn.Module:
    """The adversarial loss of squares, called with discriminator outputs and whether they are to be real.

    Raises:
        UsageError: If MONAI is not installed.

    Source: Mao et al. 2017 (arXiv 1611.04076).
    """
    return cast(nn.Module, monai("losses").PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True))


def overlap_and_entropy() -> nn.Module:
    """Cross-entropy plus one minus the mean Dice of all classes; logits and labels ``(B, 1, H, W)``.

    Raises:
        UsageError: If MONAI is not installed.

    Source: Milletari et al. 2016 (arXiv 1606.04797); Isensee et al. 2021.
    """
    made = monai("losses").DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    return cast(nn.Module, made)


def count(network: nn.Module) -> int:
    """Numbers that a network learns.

    Example:
        >>> count(nn.Linear(2, 3))
        9
    """
    return sum(p.numel() for p in network.parameters())


Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Neighbours on either side that are seen with a slice.
REACH = 1
#: Side of a training patch, voxels.
PATCH = 96
AXES = (0, 1, 2)
_LEAST_BRAIN, _SPREAD = 0.05, 3.0


class Spot(NamedTuple):
    """Where a patch lies: scan, axis across the slice, slice, corner in it, and whether it is mirrored."""

    scan: int
    axis: int
    at: int
    corner: tuple[int, int]
    mirrored: bool


def cropped(mask: Mask, *volumes: NDArray[np.generic]) -> tuple[NDArray[np.generic], ...]:
    """Mask and volumes cut to the brain, filled with zeros to sides that are multiples of what a U-Net takes."""
    box, _ = mask_box(mask, margin=2)
    return tuple(_padded(v[box]) for v in (mask, *volumes))


def _padded(volume: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.pad(volume, [(0, max(2 * MULTIPLE, n + -n % MULTIPLE) - n) for n in volume.shape])


def patch_side(masks: Sequence[Mask]) -> int:
    """The side of a square patch that fits into every slice of every scan.

    Example:
        >>> patch_side([np.ones((48, 160, 160), bool)])
        48
    """
    return min(PATCH, *(int(min(m.shape)) for m in masks)) // MULTIPLE * MULTIPLE


def draw(masks: Sequence[Mask], side: int, rng: np.random.Generator, axes: Sequence[int] = AXES) -> Spot:
    """A random patch with some brain in it.

    Args:
        masks: Of the scans, cropped.
        side: Of the patch.
        rng: Source of randomness.
        axes: Orientations to choose from.
    """
    scan, axis = int(rng.integers(len(masks))), int(rng.choice(axes))
    across = np.moveaxis(masks[scan], axis, 0)
    for _ in range(20):
        at = int(rng.integers(across.shape[0]))
        low, left = (int(rng.integers(n - side + 1)) for n in across.shape[1:])
        if across[at, low : low + side, left : left + side].mean() > _LEAST_BRAIN:
            break
    # Left and right are the first axis; a slice across it has none.
    return Spot(scan, axis, at, (low, left), axis != 0 and bool(rng.random() < 0.5))


def cut(volume: NDArray[np.generic], spot: Spot, side: int, reach: int = 0) -> Volume:
    """The patch with ``reach`` neighbouring slices either way, ``(2 reach + 1, side, side)``; zeros beyond the end."""
    across = np.moveaxis(volume, spot.axis, 0)
    (low, left), out = spot.corner, np.zeros((2 * reach + 1, side, side), np.float32)
    for k, at in enumerate(range(spot.at - reach, spot.at + reach + 1)):
        if 0 <= at < across.shape[0]:
            out[k] = across[at, low : low + side, left : left + side]
    return out[:, ::-1] if spot.mirrored else out


def orientation(axes: Tensor, like: Tensor) -> Tensor:
    """Three channels that say which way each slice lies.

    Args:
        axes: Axis across each slice, shape ``(B,)``.
        like: Shape ``(B, C, H, W)``.
    """
    turned = torch.nn.functional.one_hot(axes, len(AXES)).to(like.dtype)
    return turned[:, :, None, None].expand(-1, -1, *like.shape[2:])


def centred(slices: Tensor) -> Tensor:
    """Intensities as networks see them: tissue around 0 with a spread of about 1, background 0.

    Flow units are around 1 with a spread of a third. Seen like that, a discriminator needs ten times as long to notice
    another contrast.

    Example:
        >>> centred(torch.tensor([0.0, 1.0, 1.5])).tolist()
        [0.0, 0.0, 1.5]
    """
    return _SPREAD * (slices - (slices > 0).to(slices.dtype))


class Learner(ABC):
    """Networks, and how they take a step.

    Attributes:
        networks: All of them: what is kept.
        optimisers: Of their parameters, at their highest rate; the loop lowers it.
    """

    networks: nn.ModuleDict
    optimisers: Mapping[str, Optimizer]

    @abstractmethod
    def step(self, rng: np.random.Generator, number: int) -> dict[str, float]:
        """One step, everything random in it from ``rng``; its losses, the most telling one first."""

    def score(self) -> float | None:
        """A loss on what nothing is learnt from, or None if there is no such thing: the last weights count then."""
        return None

    def memory(self) -> dict[str, Tensor]:
        """What a step depends on besides weights and ``rng``."""
        return {}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Take up such a memory."""
        if memory:
            raise ValueError("nothing is remembered here")


NETWORK, CHECKPOINT, CURVE, SUMMARY = "network.safetensors", "checkpoint.safetensors", "curve.jsonl", "training.json"
Row = dict[str, float]


@dataclass
class Progress:
    """A training between two steps.

    Attributes:
        step: Steps done.
        seconds: Spent on them, all sittings together.
        best: Lowest held-out score so far.
        rows: Of the learning curve.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    rows: list[Row] = field(default_factory=list)


Parts = Mapping[str, Mapping[str, Tensor]]


def write_checkpoint(folder: Path, progress: Progress, parts: Parts, plan: Mapping[str, Any]) -> None:
    """Keep where a training stands.

    Args:
        folder: Its folder.
        progress: Counters.
        parts: Named groups of tensors.
        plan: What is being learnt from what; a training with another plan is another one.
    """
    _write(folder / CHECKPOINT, parts, {"plan": plan, "progress": vars(progress)})
    write_curve(folder, progress.rows)


def read_checkpoint(folder: Path, plan: Mapping[str, Any]) -> tuple[Progress, dict[str, dict[str, Tensor]]] | None:
    """Where a training of this plan stood, or None if there is none."""
    found = _read(folder / CHECKPOINT, plan)
    return None if found is None else (Progress(**found[0]["progress"]), found[1])


def write_network(
    folder: Path, weights: Mapping[str, Tensor], plan: Mapping[str, Any], progress: Progress, numbers: int
) -> None:
    """Keep what was learnt; the checkpoint is no longer needed."""
    _write(folder / NETWORK, {"network": weights}, {"plan": plan})
    write_curve(folder, progress.rows)
    best = progress.best if progress.best < float("inf") else None
    summary = {"plan": plan, "steps": progress.step, "seconds": round(progress.seconds, 1), "held_out": best}
    write_text(folder / SUMMARY, json.dumps({**summary, "parameters": numbers}, indent=1) + "\n", overwrite=True)
    (folder / CHECKPOINT).unlink(missing_ok=True)


def read_network(folder: Path, plan: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Weights learnt by this plan, or None."""
    found = _read(folder / NETWORK, plan)
    return None if found is None else found[1]["network"]


def write_curve(folder: Path, rows: list[Row]) -> None:
    """The learning curve, one JSON object a line."""
    write_text(folder / CURVE, "".join(json.dumps(r) + "\n" for r in rows), overwrite=True)


def moments(optimisers: Mapping[str, Optimizer]) -> dict[str, Tensor]:
    """What optimisers remember, by name."""
    found: dict[str, Tensor] = {}
    for name, optimiser in optimisers.items():
        for index, state in optimiser.state_dict()["state"].items():
            found |= {f"{name}|{index}|{key}": value for key, value in state.items()}
    return found


def put_moments(optimisers: Mapping[str, Optimizer], kept: Mapping[str, Tensor]) -> None:
    """Remind optimisers of it."""
    for name, optimiser in optimisers.items():
        content = optimiser.state_dict()
        for key, value in kept.items():
            owner, index, what = key.split("|")
            if owner == name:
                content["state"].setdefault(int(index), {})[what] = value
        optimiser.load_state_dict(content)


def copied(module: nn.Module) -> dict[str, Tensor]:
    """Its weights, as they are now."""
    return {k: v.detach().clone() for k, v in module.state_dict().items()}


def _write(path: Path, parts: Parts, meta: Mapping[str, Any]) -> None:
    flat = {f"{p}/{k}": v.detach().cpu().contiguous() for p, own in parts.items() for k, v in own.items()}
    write_bytes(path, save(flat, {"about": json.dumps(meta, sort_keys=True)}), overwrite=True)


def _read(path: Path, plan: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            flat = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict
    # A file that is missing or damaged means learning again.
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    if about.get("plan") != json.loads(json.dumps(plan)):
        return None
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in flat.items():
        part, name = key.split("/", 1)
        groups.setdefault(part, {})[name] = value
    return about, groups


_WARMUP, _KEEP, _LOOKS, _LEAST = 30, 0.99, 20, 0.02


@dataclass(frozen=True)
class Limits:
    """How long to train.

    Attributes:
        minutes: Wall clock, if ``steps`` is None; what is learnt then depends on the machine.
        steps: Steps; equal input then gives equal bytes.
        seed: Of everything random.
    """

    minutes: float
    steps: int | None = None
    seed: int = 0

    def share(self, progress: Progress, seconds: float) -> float:
        """How much of it is used."""
        if self.steps is not None:
            return progress.step / self.steps
        return min(1.0, seconds / (60 * self.minutes)) if self.minutes > 0 else 1.0


def train(learner: Learner, folder: Path, plan: Mapping[str, Any], limits: Limits, say: Say, stage: str) -> None:
    """Train, go on training, or take what was learnt already; the networks have the chosen weights afterwards.

    Args:
        learner: Networks with their first weights.
        folder: Where all is kept.
        plan: What tells this training from others.
        limits: How long.
        say: Told how far it is.
        stage: What it is called.
    """
    # Minutes are no part of it: what was learnt in another time is still what was learnt from these scans.
    plan = {**plan, "steps": limits.steps, "seed": limits.seed}
    known = read_network(folder, plan)
    if known is None:
        _learn(learner, folder, plan, limits, say, stage)
    else:
        learner.networks.load_state_dict(known)
    learner.networks.eval().requires_grad_(False)


def _learn(learner: Learner, folder: Path, plan: Mapping[str, Any], limits: Limits, say: Say, stage: str) -> None:
    nets, progress = learner.networks, Progress()
    mean = copied(nets)
    best = mean
    found = read_checkpoint(folder, plan)
    if found is not None:
        progress, parts = found
        nets.load_state_dict(parts["now"])
        device = next(nets.parameters()).device
        mean, best = ({k: v.to(device) for k, v in parts[p].items()} for p in ("mean", "best"))
        put_moments(learner.optimisers, parts.get("moments", {}))
        learner.recall(parts.get("memory", {}))
    before, began = progress.seconds, time.monotonic()
    share = limits.share(progress, before)
    losses: list[dict[str, float]] = []
    while share < 1 or progress.step == 0:
        _set_rate(learner, progress.step, share)
        nets.train()
        rng = np.random.default_rng((limits.seed, 4711, progress.step))
        losses.append(learner.step(rng, progress.step))
        progress.step += 1
        _average(mean, nets.state_dict(), progress.step)
        progress.seconds = before + time.monotonic() - began
        last, share = share, limits.share(progress, progress.seconds)
        say(stage, min(share, 1.0))
        if int(share * _LOOKS) > int(last * _LOOKS) or share >= 1:
            best = _look(learner, progress, losses, mean, best)
            losses = []
            tensors = {"now": copied(nets), "mean": mean, "best": best, "moments": moments(learner.optimisers)}
            write_checkpoint(folder, progress, {**tensors, "memory": learner.memory()}, plan)
    nets.load_state_dict(best)
    write_network(folder, best, plan, progress, count(nets))


def _set_rate(learner: Learner, step: int, share: float) -> None:
    cosine = _LEAST + (1 - _LEAST) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    # Thirty steps, but no more than a tenth of a short training.
    rise = min(1.0, max((step + 1) / _WARMUP, 10 * share))
    for optimiser in learner.optimisers.values():
        for group in optimiser.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * rise * cosine


def _average(mean: dict[str, Tensor], now: Mapping[str, Tensor], step: int) -> None:
    keep = min(_KEEP, step / (step + 9))
    for name, value in now.items():
        if value.is_floating_point():
            mean[name].lerp_(value, 1 - keep)
        else:
            mean[name].copy_(value)


def _look(
    learner: Learner,
    progress: Progress,
    losses: list[dict[str, float]],
    mean: dict[str, Tensor],
    best: dict[str, Tensor],
) -> dict[str, Tensor]:
    """Judge the mean weights, add a row to the curve, and say which weights are the best now."""
    now = copied(learner.networks)
    learner.networks.load_state_dict(mean)
    learner.networks.eval()
    with torch.no_grad():
        score = learner.score()
    learner.networks.load_state_dict(now)
    row: dict[str, float] = {"step": progress.step, "seconds": round(progress.seconds, 1)}
    row |= {k: float(np.mean([x[k] for x in losses])) for k in losses[0]}
    if score is not None:
        row["held_out"] = score
    progress.rows.append(row)
    if score is not None and score > progress.best:
        return best
    progress.best = progress.best if score is None else score
    return {k: v.clone() for k, v in mean.items()}


class Trained(System):
    """A system that learns networks; :meth:`fit` before :meth:`harmonize`.

    Args:
        steps: Steps instead of minutes.
        device: Where it learns; a GPU if there is one.

    Attributes:
        version: Of what is learnt; a change of it is a reason to learn again.
    """

    version: ClassVar[int] = 1

    def __init__(self, steps: int | None = None, device: str | None = None) -> None:
        self.steps = steps
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._learner: Learner | None = None

    def fit(self, material: Material, say: Say) -> None:
        """Learn, or take what was learnt from the same scans already."""
        torch.manual_seed(material.seed)
        learner = self.learner(material)
        plan: dict[str, Any] = {"system": self.name, "version": self.version, "scans": digest(_seen(material))}
        limits = Limits(material.minutes, self.steps, material.seed)
        train(learner, material.folder, plan, limits, say, f"training {self.name}")
        self._learner = learner

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Every scan through the network; nothing darker than nothing or brighter than any scan it learnt from."""
        if self._learner is None:
            self.fit(material, lambda stage, share: None)
        learner = self._learner
        assert learner is not None  # fit has set it
        # A slice with a handful of voxels can send a normalising layer anywhere.
        brightest = max(float(p.image.max()) for p in material.training)
        return [np.clip(self.apply(learner, s, material), 0, brightest) for s in scans]

    @abstractmethod
    def learner(self, material: Material) -> Any:
        """Networks with their first weights and what they learn from."""

    @abstractmethod
    def apply(self, learner: Any, scan: Picture, material: Material) -> NDArray[np.float32]:
        """One scan through the networks, zero outside its mask."""


def _seen(material: Material) -> Iterable[Picture]:
    yield from (*material.training, *material.held_out, *material.source)
    for pair in material.pairs:
        yield from pair


def digest(pictures: Iterable[Picture]) -> str:
    """What scans are, in sixteen letters."""
    found = hashlib.blake2b(digest_size=8)
    for picture in pictures:
        found.update(np.ascontiguousarray(picture.image).tobytes())
        found.update(b"" if picture.labels is None else picture.labels.tobytes())
    return found.hexdigest()


_TOGETHER = 8


def through(
    volumes: Sequence[Volume], mask: Mask, run: Callable[[Tensor, int], Tensor], axes: Sequence[int], device: str
) -> Volume:
    """All slices of a scan through a network, the mean over orientations; zero outside the mask.

    Args:
        volumes: What the network sees of each voxel, each ``(X, Y, Z)``.
        mask: Brain.
        run: From slices with their neighbours and mask, ``(B, C, H, W)``, and their axis to ``(B, K, H, W)``.
        axes: Orientations.
        device: Where it runs.

    Returns:
        Shape ``(K, X, Y, Z)``, float32.
    """
    box, _ = mask_box(mask, margin=2)
    inside, *seen = cropped(mask, *volumes)
    with torch.inference_mode():
        total = np.asarray(sum(_one_way(inside, seen, run, axis, device) for axis in axes), np.float32) / len(axes)
    out = np.zeros((total.shape[0], *mask.shape), np.float32)
    x, y, z = mask[box].shape
    out[(slice(None), *box)] = total[:, :x, :y, :z]
    out[:, ~mask] = 0
    return out


def _one_way(
    inside: NDArray[np.generic],
    seen: Sequence[NDArray[np.generic]],
    run: Callable[[Tensor, int], Tensor],
    axis: int,
    device: str,
) -> Volume:
    channels = [*(c for v in seen for c in _neighbours(np.moveaxis(v, axis, 0))), np.moveaxis(inside, axis, 0)]
    stack = torch.from_numpy(np.stack(channels, 1).astype(np.float32))
    made: Tensor | None = None
    for start in range(0, len(stack), _TOGETHER):
        part = stack[start : start + _TOGETHER]
        if made is not None and not bool(part[:, -1].any()):
            continue
        found = run(part.to(device, memory_format=torch.channels_last), axis).float().cpu()
        if made is None:
            made = found.new_zeros(len(stack), *found.shape[1:])
        made[start : start + _TOGETHER] = found
    if made is None:
        raise ValueError("the scan has no slices")
    return np.moveaxis(made.numpy(), (1, 0), (0, axis + 1))


def _neighbours(volume: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    """The volume as seen from slices below to slices above."""
    wide = np.pad(volume, [(REACH, REACH), (0, 0), (0, 0)])
    return [wide[k : k + len(volume)] for k in range(2 * REACH + 1)]
