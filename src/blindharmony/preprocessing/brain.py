"""The brain mask: one that is given, a scan that is stripped already, another program, or the included network.

The network is deepbet's 3-D LinkNet, run twice: where the brain is (a box, at 128³), then its outline (at 256³ inside
that box). Its weights are stored as safetensors in half precision: no pickle, nothing to download.

Source: Chaurasia & Culurciello, "LinkNet" (2017), in 3-D with instance norm; weights and use: Fisch et al., "deepbet:
Fast brain extraction of T1-weighted MRI", Comput. Biol. Med. 179 (2024), MIT licence (see NOTICE).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from scipy import ndimage
from torch import Tensor, nn

from blindharmony.commands import run_command
from blindharmony.errors import InputError, PreprocessingError
from blindharmony.io.masks import MAX_ML, MIN_ML, load_lesion, load_mask
from blindharmony.io.volume import Source, border, noticed
from blindharmony.preprocessing.steps import Reorient, Scan, Step


class _Standardize(nn.Module):
    """Each channel to mean 0 and variance 1 (instance norm of one image), in place.

    Plane by plane, then over the planes: the bytes shall not depend on the number of threads, as those of torch's own
    layer do where channels lie side by side in memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        planes = x.permute(0, 2, 3, 4, 1).flatten(0, 1).flatten(1, 2)
        count = planes.shape[0] * planes.shape[1]
        everywhere = (1, -1, 1, 1, 1)
        x = x.sub_((planes.sum(1).sum(0) / count).view(everywhere))
        variance = torch.linalg.vector_norm(planes, dim=1).square().sum(0) / count
        return x.mul_((variance + 1e-5).rsqrt().view(everywhere))


class _Unit(nn.Sequential):
    """Convolution → instance norm → optional ReLU, the unit everything here is made of."""

    def __init__(self, conv: nn.Module, *, relu: bool = True) -> None:
        layers = [conv, _Standardize()]
        super().__init__(*layers, nn.ReLU(inplace=True)) if relu else super().__init__(*layers)


class _Convolution(nn.Conv3d):
    """By oneDNN whatever the size and the number of threads.

    Left to itself PyTorch takes a kernel seven times as slow where channels times the first two sides are at most
    20480, and another one with a kernel of one voxel where there is one thread.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return super().forward(x)
        shape = self.padding, self.stride, self.dilation, self.groups
        return torch.mkldnn_convolution(x, self.weight, self.bias, *shape)  # type: ignore[arg-type]


def _pooled(x: Tensor) -> Tensor:
    """The largest of 3×3×3 voxels at every second one, axis by axis: eight times as fast as torch's own layer."""
    for axis in (2, 3, 4):
        even, odd = (x.movedim(axis, 0)[start::2].movedim(0, axis) for start in (0, 1))
        x, count = torch.maximum(even, odd), odd.shape[axis] - 1
        after = x.narrow(axis, 1, count)
        torch.maximum(after, odd.narrow(axis, 0, count), out=after)
    return x


class _Block(nn.Module):
    """Two 3×3×3 convolutions with a shortcut, the first with a stride."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            *_Unit(_Convolution(cin, cout, 3, stride, 1, bias=False)),
            *_Unit(_Convolution(cout, cout, 3, 1, 1, bias=False), relu=False),
        )
        self.downsample = _Unit(_Convolution(cin, cout, 1, stride, bias=False), relu=False) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.double_conv(x) + shortcut)


class _Down(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.block1, self.block2 = _Block(cin, cout, stride), _Block(cout, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.block2(self.block1(x))  # type: ignore[no-any-return]


class _Up(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        mid = cin // 4
        self.conv1 = _Unit(_Convolution(cin, mid, 1, bias=False))
        up = nn.ConvTranspose3d(mid, mid, 3, stride, 1, output_padding=stride - 1, bias=False)
        self.tp_conv = _Unit(up)
        self.conv2 = _Unit(_Convolution(mid, cout, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.tp_conv(self.conv1(x)))  # type: ignore[no-any-return]


class LinkNet3d(nn.Module):
    """Brain probability of each voxel of one image, ``(1, 1, D, H, W) → (1, 1, D, H, W)``.

    Example:
        >>> LinkNet3d()(torch.zeros(1, 1, 64, 64, 64) + torch.rand(1, 1, 64, 64, 64)).shape
        torch.Size([1, 1, 64, 64, 64])
    """

    def __init__(self) -> None:
        super().__init__()
        self.init = _Unit(_Convolution(1, 16, 7, 2, 3, bias=False))
        self.down0, self.down1 = _Down(16, 16, 1), _Down(16, 32, 2)
        self.down2, self.down3 = _Down(32, 64, 2), _Down(64, 128, 2)
        self.up0, self.up1 = _Up(128, 64, 2), _Up(64, 32, 2)
        self.up2, self.up3 = _Up(32, 16, 2), _Up(16, 16, 1)
        self.tp_conv1 = _Unit(nn.ConvTranspose3d(16, 8, 3, 2, 1, output_padding=1))
        self.conv = _Unit(_Convolution(8, 8, 3, 1, 1))
        self.tp_conv2 = nn.ConvTranspose3d(8, 2, 2, 2)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """The probability of brain; every side of ``x`` must be a multiple of 32."""
        # Channels side by side in memory: the processor convolves up to twice as fast.
        x0 = _pooled(self.init(x.contiguous(memory_format=torch.channels_last_3d)))
        x1 = self.down0(x0)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        y = self.up0(self.down3(x3)) + x3
        y = self.up1(y) + x2
        y = self.up2(y) + x1
        y = self.up3(y) + x0
        y = self.conv(self.tp_conv1(y))
        # Of two classes only the difference counts: half of the last layer, and one exponential instead of two.
        weight, bias = self.tp_conv2.parameters()
        difference = (weight[:, 1] - weight[:, 0]).flatten(1).T[:, :, None, None, None]
        y = F.conv3d(y, difference, (bias[1] - bias[0]).expand(8))
        b, _, i, j, k = y.shape
        y = y.reshape(b, 2, 2, 2, i, j, k).permute(0, 4, 1, 5, 2, 6, 3).reshape(b, 1, 2 * i, 2 * j, 2 * k)
        return y.sigmoid_()


def load_brainnet(name: str) -> LinkNet3d:
    """The stored network ``name``: ``"box"`` finds where the brain is, ``"brain"`` its outline.

    Example:
        >>> sum(p.numel() for p in load_brainnet("box").parameters())
        2126258
    """
    blob = resources.files("blindharmony.preprocessing").joinpath("assets", "deepbet.safetensors").read_bytes()
    tensors = load_safetensors(blob)
    state = {k.removeprefix(f"{name}."): v.float() for k, v in tensors.items() if k.startswith(f"{name}.")}
    net = LinkNet3d()
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)


_BOX_SHAPE = (128, 128, 128)
# Enough to tell a brain from a head, in a tenth of the time of an outline.
_GLANCE_SHAPE = (96, 96, 96)
_BRAIN_SHAPE = (256, 256, 256)
_MARGIN = 0.1


@lru_cache(maxsize=2)
def _network(name: str) -> LinkNet3d:
    return load_brainnet(name)


def extract_brain(
    data: NDArray[np.float32], spacing: tuple[float, float, float], *, device: str = "cpu"
) -> NDArray[np.bool_]:
    """Brain mask of a T1-weighted head.

    Args:
        data: Head in RAS+ axis order, any intensity unit, shape ``(X, Y, Z)``.
        spacing: Voxel size in mm, only to judge the volume found.
        device: Where the network runs.

    Returns:
        Boolean mask of the same shape: one component, no holes.

    Raises:
        PreprocessingError: If no brain is found, or one of an impossible volume (outside 300 to 2600 ml).

    Source:
        Fisch et al. 2024 (deepbet): a box network at 128³, then an outline network at 256³ inside the box.
    """
    x = torch.from_numpy(np.ascontiguousarray(data)).to(device)
    coarse, (low, high) = _coarse(x, _BOX_SHAPE)
    if not coarse.any():
        raise PreprocessingError("no brain was found in this image", remedy=_REMEDY)
    box = _box(coarse, data.shape)
    # Nothing else holds the finer image: its memory is free as soon as it is scaled.
    fine = torch.from_numpy(
        _probability("brain", F.interpolate(x[box][None, None], _BRAIN_SHAPE, mode="nearest-exact")[0, 0], low, high)
    )
    size = tuple(s.stop - s.start for s in box)
    # Linear, not nearest, on the way back: the outline is then as smooth as the network's own grid allows.
    probability = F.interpolate(fine[None, None], size, mode="trilinear", align_corners=False)[0, 0]
    mask = np.zeros(data.shape, dtype=bool)
    mask[box] = _filled(_largest(probability.numpy() > 0.5))
    volume = float(mask.sum() * np.prod(spacing) / 1000)
    if not MIN_ML <= volume <= MAX_ML:
        raise PreprocessingError(f"the brain found has {volume:.0f} ml, which no brain has", remedy=_REMEDY)
    return mask


_REMEDY = "check that this is a T1-weighted whole head, or give a brain mask with --mask"


def _coarse(x: Tensor, shape: tuple[int, int, int]) -> tuple[NDArray[np.bool_], tuple[float, float]]:
    """Where the brain is, about, on a small grid, and the darkest and brightest intensity that count."""
    small = F.interpolate(x[None, None], shape, mode="nearest-exact")[0, 0]
    low, high = np.quantile(small.cpu().numpy(), [0.005, 0.995])
    return _largest(_probability("box", small, low, high) > 0.5), (float(low), float(high))


def _probability(name: str, x: torch.Tensor, low: float, high: float) -> NDArray[np.float32]:
    x = ((x - low).div_(max(high - low, 1e-6))).clamp_(0, 1)
    mean, deviation = x.mean(), x.std().clamp_min(1e-6)
    x = x.sub_(mean).mul_(0.226).div_(deviation).add_(0.449)
    with torch.inference_mode():
        p = _network(name).to(x.device)(x[None, None])[0, 0]
    return p.float().cpu().numpy()  # type: ignore[no-any-return]


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    return filled


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == sizes.argmax())


def _box(coarse: NDArray[np.bool_], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The coarse brain's box with a margin, in voxels of the full image."""
    box = []
    for axis, size in enumerate(shape):
        others = tuple(a for a in range(3) if a != axis)
        profile = np.flatnonzero(coarse.mean(others) > 0.02)
        if profile.size == 0:
            raise PreprocessingError("no brain was found in this image", remedy=_REMEDY)
        low, high = profile[0], profile[-1] + 1
        scale = size / coarse.shape[axis]
        half = (high - low) / 2 * (1 + 2 * _MARGIN) * scale
        centre = (high + low) / 2 * scale
        box.append(slice(max(0, round(centre - half)), min(size, round(centre + half))))
    return tuple(box)


# A brain with its CSF has 900 to 2000 ml; the smallest whole head on record here has 4000.
_STRIPPED_ML, _SURE_ML = (300.0, 2300.0), 1900.0
# Share of the volume's border that is background: of a scan that can be stripped, and of one that nothing cuts.
_LEAST_BORDER, _WHOLE_BORDER = 0.5, 0.95
# Of the brightest intensities: what interpolation and filters leave around a stripped brain.
_NOISE = 0.02
# Share of the foreground that is darker than the background: cubic resampling rings around a stripped brain.
_RINGING = 0.01
_SHELL_MM, _DARK_RIM = 3.0, 0.45
# Two opinions on one brain overlap at least so much (Dice), a brain and its head no more than that; between the two it
# cannot be told. Measured: docs/reference/hostile-files.md.
_SAME_BRAIN, _HEAD = 0.90, 0.80
_COMMAND_TIMEOUT_S = 1800


@dataclass(frozen=True, eq=False)
class BrainMask:
    """The brain of a scan.

    Attributes:
        mask: On the scan's grid.
        source: Where it came from: ``given``, ``stripped``, ``command`` or ``network``.
        doubt: Why it may be another; empty if nothing speaks for that.
    """

    mask: NDArray[np.bool_]
    source: str
    doubt: str = ""


@dataclass(frozen=True)
class ExtractBrain(Step[BrainMask]):
    """Attach the brain mask; intensities are left alone.

    Attributes:
        given: A mask on the scan's own (RAS+) grid, used as it is.
        command: A program to call instead of the included network, with ``{input}`` and ``{output}`` in it,
            e.g. ``"hd-bet -i {input} -o {output}"``.
        device: Where the network runs.
    """

    given: NDArray[np.bool_] | None = field(default=None, compare=False)
    command: str | None = None
    device: str = "cpu"

    name = "brain mask"
    key = "brain-mask"
    seconds = 6.0
    result = BrainMask

    def __str__(self) -> str:
        if self.given is not None:
            return "the one that was given"
        return "the scan's own if it is stripped, else " + (self.command or "the included network (deepbet)")

    def estimate(self, scan: Scan) -> BrainMask:
        """The mask and where it came from.

        Raises:
            InputError: If the given mask does not fit the scan.
            PreprocessingError: If no plausible brain is found.
        """
        if self.given is not None:
            return BrainMask(_fitting(self.given, scan), "given")
        foreground, sure = foreground_brain(scan)
        if foreground is None:
            return self._found(scan)
        if sure and _dice(*_at_a_glance(scan, foreground, self.device)) >= _SAME_BRAIN:
            return BrainMask(foreground, "stripped")
        # A slab, a denoised head, something unusual around the brain: what is found is the foreground, or a part.
        with noticed([_MAY_BE_STRIPPED.format(_ml(foreground, scan))]):
            brain = self._found(scan)
        overlap = _dice(foreground, brain.mask)
        if overlap >= _SAME_BRAIN:
            return BrainMask(foreground, "stripped")
        if overlap < _HEAD:
            return brain
        doubt = _CANNOT_TELL.format(_ml(foreground, scan), _ml(brain.mask, scan))
        return replace(brain, doubt=doubt)

    def _found(self, scan: Scan) -> BrainMask:
        if self.command is not None:
            return BrainMask(_from_command(self.command, scan), "command")
        return BrainMask(extract_brain(scan.data, scan.spacing, device=self.device), "network")

    def apply(self, scan: Scan, result: BrainMask) -> Scan:
        """The same scan, with its mask."""
        return replace(scan, mask=result.mask)

    def undo(self, changed: Scan, result: BrainMask, before: Scan) -> Scan:
        """The same scan, with the mask it had before."""
        return replace(changed, mask=before.mask)


_MAY_BE_STRIPPED = (
    "the {:.0f} ml that are not background could be a brain without skull; "
    "if they are, give the scan itself as its mask"
)
_CANNOT_TELL = (
    "Whether the skull was removed before cannot be told: {:.0f} ml are not background, "
    "and {:.0f} ml of them were taken for the brain"
)


def _ml(mask: NDArray[np.bool_], scan: Scan) -> float:
    return float(mask.sum() * np.prod(scan.spacing) / 1000)


def _at_a_glance(scan: Scan, foreground: NDArray[np.bool_], device: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The foreground, and what the network takes for the brain, on a small grid."""
    coarse, _ = _coarse(torch.from_numpy(np.ascontiguousarray(scan.data)).to(device), _GLANCE_SHAPE)
    small = F.interpolate(torch.from_numpy(foreground)[None, None].float(), _GLANCE_SHAPE, mode="nearest-exact")[0, 0]
    return small.numpy() > 0, coarse


def _dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return 2 * int((one & other).sum()) / max(int(one.sum()) + int(other.sum()), 1)


def foreground_brain(scan: Scan) -> tuple[NDArray[np.bool_] | None, bool]:
    """What stands out from the background, if that can be a brain without skull, and whether it surely is.

    It can be one if at least half of the volume's border is background (one value, or noise of 2 % around it) and what
    is left, in one piece, has 300 to 2300 ml. It surely is one if it has no more than 1900 ml, does not reach the
    border (a slab does), and has no skull: going inwards from its surface, the median intensity of a head falls from
    scalp to bone and rises again behind it, and noise around a head is a dark rim; a brain has neither.

    Returns:
        The foreground or None, and whether no other opinion is needed.

    Example:
        >>> ball = (np.indices((80, 80, 80)) - 40).astype(float)
        >>> head = ((ball**2).sum(0) < 36**2).astype(np.float32)   # 195 ml at 1 mm
        >>> foreground_brain(Scan(head, np.diag([2.0, 2, 2, 1])))[1]   # 1563 ml at 2 mm
        True
        >>> foreground_brain(Scan(head, np.diag([3.0, 3, 3, 1])))      # 5275 ml
        (None, False)
    """
    level, tolerance, share = _background(scan.data)
    if share < _LEAST_BORDER:
        return None, False
    foreground: NDArray[np.bool_] = np.abs(scan.data - level) > tolerance
    if not foreground.any():
        return None, False
    millilitres = float(np.prod(scan.spacing)) / 1000
    if tolerance == 0 and np.mean(scan.data[foreground] < level) > _RINGING:
        tolerance = _NOISE * float(np.quantile(scan.data[foreground] - level, 0.98))
        foreground = scan.data - level > tolerance
    # Up to 2.5 l of noise would be labelled in vain.
    if foreground.sum() * millilitres > _STRIPPED_ML[1] * (1 if tolerance == 0 else 2):
        return None, False
    foreground = _largest(foreground)
    if tolerance > 0:
        foreground = _filled(foreground)
    volume = foreground.sum() * millilitres
    if not _STRIPPED_ML[0] <= volume <= _STRIPPED_ML[1]:
        return None, False
    return foreground, bool(share >= _WHOLE_BORDER and volume <= _SURE_ML and not _has_skull(foreground, scan))


def _background(data: NDArray[np.float32]) -> tuple[float, float, float]:
    """The background's value, how far its voxels are from it at most, and its share of the volume's border."""
    edge = data[border(data.shape)]
    values, counts = np.unique(edge, return_counts=True)
    level = float(values[counts.argmax()])
    share = int(counts[counts.argmax()]) / edge.size
    if share >= _LEAST_BORDER:
        return level, 0.0, share
    if share < 0.05:
        level = float(np.median(edge))
    bright = float(np.quantile(data[data > level], 0.98)) if (data > level).any() else level
    tolerance = _NOISE * (bright - level)
    return level, tolerance, float(np.mean(np.abs(edge - level) <= tolerance))


def _has_skull(foreground: NDArray[np.bool_], scan: Scan) -> bool:
    """Whether the foreground has a dark rim, or a dark shell between two bright ones, within 2 cm of its surface."""
    thin = tuple(slice(None, None, max(1, round(2 / s))) for s in scan.spacing)
    inside, data = foreground[thin], scan.data[thin]
    spacing = [s * t.step for s, t in zip(scan.spacing, thin, strict=True)]
    depth = ndimage.distance_transform_edt(inside, sampling=spacing)
    values = data[inside] - _background(scan.data)[0]
    shells = np.ceil(depth[inside] / _SHELL_MM).astype(int)
    top = np.quantile(values, 0.98)
    rim = values[shells == 1]
    if rim.size and np.mean(rim < 0.2 * top) > _DARK_RIM:
        return True
    medians = np.array([np.median(values[shells == n]) for n in range(1, 8) if (shells == n).any()])
    # Falls by a fifth below what lies outside, and rises again by a fifth.
    falls = [n for n in range(1, len(medians) - 1) if medians[n] < 0.8 * medians[:n].max()]
    return any(medians[n + 1 :].max() > 1.2 * medians[n] for n in falls)


def read_mask(mask: Source, affine: NDArray[np.float64] | None = None) -> Scan:
    """A mask (file, image or array) as a scan; see :func:`~blindharmony.io.masks.load_mask` for what is inside.

    Args:
        mask: The mask.
        affine: Of an array, which has no place of its own.

    Raises:
        InputError: If it cannot be read, or is no plausible brain.
    """
    loaded = load_mask(mask, affine)
    return Scan(loaded.inside.astype(np.float32), loaded.affine, loaded.inside)


def read_lesion(mask: Source, affine: NDArray[np.float64] | None = None) -> Scan | None:
    """A lesion mask (file, image or array) as a scan; see :func:`~blindharmony.io.masks.load_lesion`.

    Args:
        mask: The mask.
        affine: Of an array, which has no place of its own.

    Returns:
        None if it has no voxel inside: a head without lesions.

    Raises:
        InputError: If it cannot be read, or has more inside than a lesion can have.
    """
    loaded = load_lesion(mask, affine)
    return Scan(loaded.inside.astype(np.float32), loaded.affine, loaded.inside) if loaded.inside.any() else None


def mask_on(mask: Scan, scan: Scan, what: str = "mask") -> NDArray[np.bool_]:
    """The mask in the axis order of a scan: same voxels of the same space, corners less than half a voxel apart.

    fMRIPrep and others turn scans to RAS+ before they find the brain: both are turned before they are compared.

    Args:
        mask: The mask.
        scan: The scan.
        what: What kind of mask it is, for the message.

    Raises:
        InputError: If the mask lies on another grid.
    """
    reorient = Reorient()
    turn = reorient.estimate(scan)
    there, turned = reorient.apply(scan, turn), reorient.apply(mask, reorient.estimate(mask))
    _check_shape(turned.data.shape, there, what)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(there.data.shape) - 1)
    apart = corners @ (turned.affine - there.affine)[:3, :3].T + (turned.affine - there.affine)[:3, 3]
    worst = float(np.linalg.norm(apart, axis=1).max())
    if worst > min(scan.spacing) / 2:
        raise InputError(
            f"the {what} lies elsewhere than the scan (by up to {worst:.1f} mm)",
            remedy="give a mask on the scan's own grid, with the scan's own header",
        )
    return reorient.undo(turned, turn, scan).inside()


def check_grid(mask: Scan, scan: Scan) -> None:
    """Check that a mask lies on the scan's own grid, in whatever axis order.

    Raises:
        InputError: If it does not.
    """
    mask_on(mask, scan)


def _check_shape(shape: tuple[int, ...], scan: Scan, what: str = "mask") -> None:
    if shape != scan.data.shape:
        raise InputError(
            f"the {what} has {shape} voxels, the scan {scan.data.shape}",
            remedy="give a mask on the scan's own grid",
        )


def _fitting(mask: NDArray[np.bool_], scan: Scan) -> NDArray[np.bool_]:
    _check_shape(mask.shape, scan)
    if not (mask & (scan.data != _background(scan.data)[0])).any():
        raise InputError("the mask and the image do not overlap", remedy="check that they belong together")
    return mask


def _from_command(command: str, scan: Scan) -> NDArray[np.bool_]:
    with _temporary() as folder:
        head, brain = Path(folder, "head.nii.gz"), Path(folder, "brain.nii.gz")
        nifti: Any = nib.Nifti1Image
        nib.save(nifti(scan.data, scan.affine), head)
        run_command(
            command,
            {"input": head, "output": brain},
            called="the mask command",
            seconds=_COMMAND_TIMEOUT_S,
            remedy="check --mask-command",
        )
        try:
            return _fitting(mask_on(read_mask(brain), scan), scan)
        except InputError as error:
            raise PreprocessingError(
                f"the mask command wrote no usable mask ({error.what})", remedy="check --mask-command"
            ) from None


def _temporary() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory()
    except OSError:  # a container may be read-only but for the output
        raise PreprocessingError("no folder for temporary files can be written", remedy="set TMPDIR") from None
