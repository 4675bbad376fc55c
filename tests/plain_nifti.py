"""NIfTI read from the standard alone, with nothing but struct and numpy: does a volume say what its bytes say?"""

import struct

import numpy as np

from blindharmony.io.volume import Volume

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}


def contradiction(content: bytes, volume: Volume) -> str:
    """What the bytes of a NIfTI-1 or NIfTI-2 file say otherwise than the volume, or nothing."""
    order = next((o for o in "<>" if struct.unpack_from(o + "i", content)[0] in (348, 540)), None)
    if order is None:
        return "no NIfTI at all"
    second = struct.unpack_from(order + "i", content)[0] == 540
    at = (16, "q", 12, "h", 104, "d", 168, "q") if second else (40, "h", 70, "h", 76, "f", 108, "f")
    dims = struct.unpack_from(f"{order}8{at[1]}", content, at[0])
    code = struct.unpack_from(order + at[3], content, at[2])[0]
    pixdim = struct.unpack_from(f"{order}8{at[5]}", content, at[4])
    offset = int(struct.unpack_from(order + at[7], content, at[6])[0])
    slope, inter = struct.unpack_from(f"{order}2{at[5]}", content, 176 if second else 112)
    shape = dims[1 : 1 + dims[0]]
    if tuple(shape[:3]) != volume.shape or any(n != 1 for n in shape[3:]):
        return f"shape {shape}"
    if code not in _TYPES:
        return f"value type {code}"
    raw = np.frombuffer(content, np.dtype(_TYPES[code]).newbyteorder(order), int(np.prod(volume.shape)), offset)
    raw = raw.reshape(volume.shape, order="F").astype(np.float64)
    scaled = np.isfinite(slope) and slope != 0
    with np.errstate(all="ignore"):
        values = (slope * raw + (inter if np.isfinite(inter) else 0) if scaled else raw).astype(np.float32)
    if not np.allclose(values, volume.data, rtol=1e-5, atol=1e-6 * float(np.abs(values).max())):
        return f"other intensities (slope {slope:g}, intercept {inter:g})"
    if len(np.unique(values)) < 0.5 * len(np.unique(raw)):
        return f"intensities fell together (slope {slope:g}, intercept {inter:g})"
    q, s = (
        struct.unpack_from(order + ("i" if second else "h"), content, p)[0]
        for p in ((344, 348) if second else (252, 254))
    )
    if s > 0:
        rows = struct.unpack_from(f"{order}12{'d' if second else 'f'}", content, 400 if second else 280)
        if not np.allclose(np.reshape(rows, (3, 4)), volume.affine[:3], rtol=1e-5):
            return "other sform"
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    if (s > 0 or q > 0) and not np.allclose(np.abs(pixdim[1:4]), spacing, rtol=0.05):
        return f"voxel size {pixdim[1:4]} in pixdim, {spacing} in the affine"
    angles = volume.affine[:3, :3] / spacing
    if np.abs(angles.T @ angles - np.eye(3)).max() > 0.2:
        return "sheared axes"
    if np.abs(volume.affine[:3, 3]).max() > 1e5:
        return "farther away than 100 m"
    return ""
