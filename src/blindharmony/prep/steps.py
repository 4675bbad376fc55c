"""The two steps that change intensities on the scan's own grid: bias field and gain."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from blindharmony.errors import PreprocessingError
from blindharmony.prep.bias import log_bias_n4
from blindharmony.prep.step import Params, Scan


@dataclass(frozen=True)
class BiasN4:
    """Divide by the coil's bias field, ``data / exp(b)``; see :func:`~blindharmony.prep.bias.log_bias_n4`."""

    shrink_mm: float = 4.0
    name: str = "n4"

    def params(self, scan: Scan) -> Params:
        """The log bias field and its standard deviation inside the mask."""
        field = log_bias_n4(scan.data, scan.affine, scan.inside(), shrink_mm=self.shrink_mm)
        return {"log_bias": field, "log_bias_sd": float(field[scan.inside()].std())}

    def apply(self, scan: Scan, params: Params) -> Scan:
        """Take the field out."""
        return replace(scan, data=(scan.data * np.exp(-params["log_bias"])).astype(np.float32))

    def undo(self, changed: Scan, params: Params, before: Scan) -> Scan:
        """Put the field back."""
        return replace(changed, data=(changed.data * np.exp(params["log_bias"])).astype(np.float32))


@dataclass(frozen=True)
class Gain:
    """Divide by one number, so that the root mean square inside the mask becomes 1.

    Before the mean, values are clipped at their 99.9th percentile: a few bright vessels or a remnant of fat
    do not count. Of the gains tried, this one leaves the scans of one scanner most alike.

    Example:
        >>> scan = Scan(np.full((3, 3, 3), 5, dtype=np.float32), np.eye(4))
        >>> Gain().params(scan)["gain"]
        5.0
    """

    name: str = "gain"

    def params(self, scan: Scan) -> Params:
        """The gain, in the scan's units."""
        values = scan.data[scan.inside()].astype(np.float64)
        gain = float(np.sqrt(np.square(values.clip(0, max(0.0, np.quantile(values, 0.999)))).mean()))
        if not gain > 0:
            raise PreprocessingError("no voxel of the brain is positive", remedy="check the mask")
        return {"gain": gain}

    def apply(self, scan: Scan, params: Params) -> Scan:
        """Divide."""
        return replace(scan, data=(scan.data / np.float32(params["gain"])).astype(np.float32))

    def undo(self, changed: Scan, params: Params, before: Scan) -> Scan:
        """Multiply."""
        return replace(changed, data=(changed.data * np.float32(params["gain"])).astype(np.float32))
