"""What all trained systems share: networks from MONAI, patches of slices, their training, whole scans slice by slice.

Networks see slices in up to three orientations, with a neighbour on either side. They are trained by the loop that
trains the target itself (:mod:`blindharmony.training.loop`), bounded by time or steps, and a scan goes through them
slice by slice, the mean over orientations. MONAI is imported only when something is learnt.

Source: MONAI, Cardoso et al. 2022 (arXiv 2211.02701).
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from blindharmony.errors import UsageError
from blindharmony.files import write_text
from blindharmony.preprocessing.grid import mask_box
from blindharmony.settings import OptimizerSettings
from blindharmony.training.loop import Budget, Checkpoint, Compute, Progress, Task, fit, read_tensors, write_tensors
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
        raise UsageError("MONAI is not installed", remedy="pip install monai") from None


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


Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Neighbours on either side that are seen with a slice.
REACH = 1
#: Side of a training patch, voxels.
PATCH = 96
AXES = (0, 1, 2)
_LEAST_BRAIN = 0.05
_SPREAD = 3.0
# Tells the random numbers of these trainings from those that make their first weights.
_STREAM = 4711


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


NETWORK, CHECKPOINT, CURVE, SUMMARY = "network.safetensors", "checkpoint.safetensors", "curve.jsonl", "training.json"

#: How all networks here are trained, but for their rate and Adam's shares.
OPTIMIZER = OptimizerSettings(lowest_rate=2e-5, warmup_steps=30, warmup_share=0.1, average=0.99, looks=20)


def train(
    task: Task,
    settings: OptimizerSettings,
    folder: Path,
    plan: Mapping[str, Any],
    limits: Limits,
    say: Say,
    stage: str,
) -> None:
    """Train, go on training, or take what was learnt already; the networks have the chosen weights afterwards.

    The folder gets ``network.safetensors``, ``curve.jsonl`` with a line for each look at held-out scans, and
    ``training.json``: what was learnt, how long it took and how many numbers it has.

    Args:
        task: Networks with their first weights.
        settings: Rates, clipping, averaging.
        folder: Where all is kept.
        plan: What tells this training from others.
        limits: How long.
        say: Told how far it is.
        stage: What it is called.
    """
    # Minutes are no part of it: what was learnt in another time is still what was learnt from these scans.
    plan = {**plan, "steps": limits.steps, "seed": limits.seed}
    weights = _learnt(folder / NETWORK, plan)
    if weights is None:
        _learn(task, settings, folder, plan, limits, say, stage)
    else:
        task.networks.load_state_dict(weights)
    task.networks.eval().requires_grad_(False)


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


def _learn(
    task: Task,
    settings: OptimizerSettings,
    folder: Path,
    plan: Mapping[str, Any],
    limits: Limits,
    say: Say,
    stage: str,
) -> None:
    task.seed = (limits.seed, _STREAM)
    checkpoint = Checkpoint(folder / CHECKPOINT, plan)
    try:
        checkpoint.read()
    except UsageError:
        # Missing, damaged, or of other scans: learning begins anew.
        checkpoint.path.unlink(missing_ok=True)
    progress = fit(
        task,
        settings,
        # Random scanners make some steps a hundred times as slow as others: a trial would mislead.
        Budget(limits.steps, limits.minutes, by_clock=True),
        checkpoint=checkpoint,
        compute=Compute(str(next(task.networks.parameters()).device)),
        on_step=lambda share, numbers: say(stage, share),
        on_look=lambda progress: _write_curve(folder, progress),
    )
    _write_curve(folder, progress)
    write_tensors(folder / NETWORK, {"network": task.networks.state_dict()}, {"plan": plan})
    best = progress.best if progress.best < float("inf") else None
    summary = {"plan": plan, "steps": progress.step, "seconds": round(progress.seconds, 1), "held_out": best}
    numbers = {"parameters": sum(p.numel() for p in task.networks.parameters())}
    write_text(folder / SUMMARY, json.dumps({**summary, **numbers}, indent=1) + "\n", overwrite=True)
    checkpoint.path.unlink(missing_ok=True)


def _learnt(path: Path, plan: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """Weights learnt by this plan, or None; a file that is missing or damaged means learning again."""
    try:
        parts, about = read_tensors(path)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    return parts["network"] if about.get("plan") == json.loads(json.dumps(plan)) else None


def _write_curve(folder: Path, progress: Progress) -> None:
    """The learning curve, one JSON object a line."""
    write_text(folder / CURVE, "".join(json.dumps(row) + "\n" for row in progress.rows), overwrite=True)


class Trained(System):
    """A system that learns networks; :meth:`fit` before :meth:`harmonize`.

    Args:
        steps: Steps instead of minutes.
        device: Where it learns; a GPU if there is one.

    Attributes:
        version: Of what is learnt; a change of it is a reason to learn again.
        optimizer: How it is trained.
    """

    version: ClassVar[int] = 1
    optimizer: ClassVar[OptimizerSettings] = OPTIMIZER

    def __init__(self, steps: int | None = None, device: str | None = None) -> None:
        self.steps = steps
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._task: Task | None = None

    def fit(self, material: Material, say: Say) -> None:
        """Learn, or take what was learnt from the same scans already."""
        torch.manual_seed(material.seed)
        task = self.task(material)
        plan: dict[str, Any] = {"system": self.name, "version": self.version, "scans": digest(_seen(material))}
        limits = Limits(material.minutes, self.steps, material.seed)
        train(task, self.optimizer, material.folder, plan, limits, say, f"training {self.name}")
        self._task = task

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Every scan through the network; nothing darker than nothing or brighter than any scan it learnt from."""
        if self._task is None:
            self.fit(material, lambda stage, share: None)
        task = self._task
        assert task is not None  # fit has set it
        # A slice with a handful of voxels can send a normalising layer anywhere.
        brightest = max(float(p.image.max()) for p in material.training)
        return [np.clip(self.apply(task, s, material), 0, brightest) for s in scans]

    @abstractmethod
    def task(self, material: Material) -> Any:
        """Networks with their first weights and what they learn from."""

    @abstractmethod
    def apply(self, task: Any, scan: Picture, material: Material) -> NDArray[np.float32]:
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
