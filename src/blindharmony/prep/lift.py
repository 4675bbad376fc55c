r"""Bias correction in the target's contrast: what a field is depends on what tissue looks like.

N4 sharpens the histogram of the log image. The same head in another contrast, say through a gamma, gets another
field, and the target's own scans were corrected in *their* contrast. So once a curve to the target is known, the scan
as it came is put through it, and bias field and gain are found again:

.. math:: y \to T(y / g) \to \text{N4} \to \text{gain}
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from blindharmony.prep.keep import keep, kept, kept_name
from blindharmony.prep.recipe import Done, Prepared, PrepRecipe
from blindharmony.prep.step import Params, Scan, Step


class Curve(Protocol):
    """An increasing change of intensity."""

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The changed intensities."""


@dataclass(frozen=True, eq=False)
class Lift:
    """Put the scan through a curve, ``T(data / gain)``."""

    curve: Curve
    gain: float
    name: str = "lift"

    def params(self, scan: Scan) -> Params:
        """The gain."""
        return {"gain": self.gain}

    def apply(self, scan: Scan, params: Params) -> Scan:
        """The scan in the other contrast."""
        return replace(scan, data=self.curve((scan.data / np.float32(params["gain"])).astype(np.float32)))

    def undo(self, changed: Scan, params: Params, before: Scan) -> Scan:
        """What changed since, carried to the scan: ``before + gain · (changed − T(before / gain))``."""
        change = changed.data - self.apply(before, params).data
        return replace(before, data=(before.data + np.float32(params["gain"]) * change).astype(np.float32))


def prepare_again(prepared: Prepared, recipe: PrepRecipe, curve: Curve, *, cache: Path | None = None) -> Prepared:
    """Prepare a scan once more in the contrast that a curve gives it; mask and place stay.

    Args:
        prepared: The scan as prepared in its own contrast.
        recipe: From the target model.
        curve: Prepared intensities → intensities like the target's.
        cache: Folder in which bias field and gain are kept.
    """
    known = {done.step.name: done for done in prepared.history}
    start, gain = known["n4"].before, float(known["gain"].params["gain"])
    steps: list[Step] = [Lift(curve, gain), *(known[name].step for name in ("n4", "gain", "place"))]
    at = np.linspace(0, 3, 64, dtype=np.float32)
    file = cache / kept_name(start.data, start.inside(), recipe.digest(), gain, curve(at)) if cache else None
    found = (kept(file) if file else None) or []
    history = [done for done in prepared.history if done.step.name in ("orient", "brain-mask")]
    scan = start
    for index, step in enumerate(steps):
        place = known["place"].params if step.name == "place" else None
        params = place or (found[index] if found else step.params(scan))
        history.append(Done(step, params, scan))
        scan = step.apply(scan, params)
    if file and not found:
        keep(file, [done.params for done in history[-len(steps) :]])
    return Prepared(scan, tuple(history))
