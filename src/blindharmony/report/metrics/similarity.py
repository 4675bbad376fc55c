"""How alike two images of the same brain are, voxel by voxel: PSNR, SSIM, correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.floating[Any]]

# Side of the SSIM window and its two constants, as in Wang et al. 2004 and scikit-image.
_WINDOW, _K1, _K2 = 7, 0.01, 0.03


def psnr(a: Image, b: Image, mask: NDArray[np.bool_], data_range: float | None = None) -> float:
    """Peak signal-to-noise ratio in dB inside the mask; infinite for equal images.

    Args:
        a: The reference, shape ``(X, Y, Z)``.
        b: The image to judge, same shape and unit.
        mask: Voxels that count, same shape.
        data_range: The peak; the reference's range inside the mask if not given.

    Raises:
        ValueError: If the shapes differ or the mask is empty.

    Example:
        >>> a = np.arange(27.0).reshape(3, 3, 3)
        >>> round(psnr(a, a + 1, np.ones(a.shape, bool), data_range=100), 1)
        40.0
    """
    inside, other = _inside(a, b, mask)
    error = float(np.mean((inside - other) ** 2))
    peak = float(np.ptp(inside)) if data_range is None else data_range
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def ncc(a: Image, b: Image, mask: NDArray[np.bool_]) -> float:
    """Normalized cross-correlation (Pearson) inside the mask, -1…1; NaN if either is constant there.

    Args:
        a: An image, shape ``(X, Y, Z)``.
        b: Another, same shape, any unit.
        mask: Voxels that count, same shape.

    Raises:
        ValueError: If the shapes differ or the mask is empty.

    Example:
        >>> a = np.arange(27.0).reshape(3, 3, 3)
        >>> round(ncc(a, 5 - 2 * a, np.ones(a.shape, bool)), 6)
        -1.0
    """
    inside, other = _inside(a, b, mask)
    inside, other = inside - inside.mean(), other - other.mean()
    # Sums, not products of vectors: those are shared out over threads, and the last digits change with their number.
    scale = float(np.sqrt((inside**2).sum() * (other**2).sum()))
    return float((inside * other).sum()) / scale if scale > 0 else float("nan")


def ssim(a: Image, b: Image, mask: NDArray[np.bool_], data_range: float | None = None) -> float:
    """Structural similarity: scikit-image's map (cubes of 7 voxels), averaged inside the mask.

    Args:
        a: The reference, shape ``(X, Y, Z)``.
        b: The image to judge, same shape and unit.
        mask: Voxels that count, same shape.
        data_range: The peak; the reference's range inside the mask if not given.

    Raises:
        ValueError: If the shapes differ, the mask is empty, or the image is smaller than the window.

    Example:
        >>> a = np.arange(512.0).reshape(8, 8, 8)
        >>> ssim(a, a, np.ones(a.shape, bool))
        1.0
    """
    inside, _ = _inside(a, b, mask)
    if min(a.shape) < _WINDOW:
        raise ValueError(f"an image of shape {a.shape} is smaller than the window of {_WINDOW} voxels")
    peak = float(np.ptp(inside)) if data_range is None else data_range
    if peak == 0:
        return 1.0 if np.array_equal(a[mask], b[mask]) else 0.0
    box = _box(mask, margin=_WINDOW // 2)
    x, y = a[box].astype(np.float64), b[box].astype(np.float64)
    samples = _WINDOW**x.ndim
    unbiased = samples / (samples - 1)
    mx, my = _mean(x), _mean(y)
    vx = unbiased * (_mean(x * x) - mx * mx)
    vy = unbiased * (_mean(y * y) - my * my)
    vxy = unbiased * (_mean(x * y) - mx * my)
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    similarity = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(similarity[mask[box]].mean())


def _mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(ndimage.uniform_filter(x, size=_WINDOW))


def _box(mask: NDArray[np.bool_], *, margin: int) -> tuple[slice, ...]:
    # Nothing outside it reaches a window inside the mask: the head's empty half costs no time.
    bounds = ndimage.find_objects(mask.astype(np.uint8))[0]
    spans = zip(bounds, mask.shape, strict=True)
    return tuple(slice(max(s.start - margin, 0), min(s.stop + margin, n)) for s, n in spans)


def _inside(a: Image, b: Image, mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not a.shape == b.shape == mask.shape:
        raise ValueError(f"shapes differ: {a.shape}, {b.shape}, mask {mask.shape}")
    if not mask.any():
        raise ValueError("the mask is empty")
    return a[mask].astype(np.float64), b[mask].astype(np.float64)
