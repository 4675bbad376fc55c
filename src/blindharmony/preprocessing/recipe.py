r"""The order of the preparation steps, what is kept of them, and preparation in another contrast.

What preparation found about a scan, kept in a folder: a scan that is needed twice is prepared once.

The preparation a target model was trained with, stored in it and applied by it.

Bias correction in the target's contrast: what a field is depends on what tissue looks like.

N4 sharpens the histogram of the log image. The same head in another contrast, say through a gamma, gets another
field, and the target's own scans were corrected in *their* contrast. So once a curve to the target is known, the scan
as it came is put through it, and bias field and gain are found again:

.. math:: y \to T(y / g) \to \text{N4} \to \text{gain}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from blindharmony.files import write_bytes
from blindharmony.io.volume import Volume
from blindharmony.preprocessing.brain import BrainMask, check_grid
from blindharmony.preprocessing.registration import Place
from blindharmony.preprocessing.steps import BiasN4, Gain, Orient, Params, Scan, Step
from blindharmony.version import VERSION


def kept_name(*parts: NDArray[Any] | str | float | None) -> str:
    """A file name that changes with any of the inputs of preparation, and with the version of this package.

    Example:
        >>> kept_name(np.zeros(3), "recipe") == kept_name(np.zeros(3), "another")
        False
    """
    digest = hashlib.sha256(VERSION.encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode())
    return f"{digest.hexdigest()[:24]}.safetensors"


def keep(path: Path, steps: Sequence[Params]) -> None:
    """Write the numbers of every step, in order."""
    arrays, plain = {}, []
    for index, params in enumerate(steps):
        rest = {}
        for name, value in params.items():
            if isinstance(value, np.ndarray):
                arrays[f"{index}.{name}"] = np.ascontiguousarray(value)
            else:
                rest[name] = value
        plain.append(rest)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save(arrays, {"steps": json.dumps(plain)}), overwrite=True)


def kept(path: Path) -> list[Params] | None:
    """The numbers of every step, or None if they are not there or damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(path, "np") as file:
            plain: list[dict[str, Any]] = json.loads(file.metadata()["steps"])
            for key in file.keys():  # noqa: SIM118 - not a dict
                index, name = key.split(".", 1)
                plain[int(index)][name] = file.get_tensor(key)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, IndexError):
        return None
    return list(plain)


class PrepRecipe(BaseModel):
    """Settings of every preparation step, in order: orient, brain mask, N4, gain, place.

    Attributes:
        n4: Whether the bias field is estimated and removed.
        n4_shrink_mm: Voxel size for fitting it.
        gain: What becomes 1 inside the mask: the root mean square, robustly
            (see :class:`~blindharmony.preprocessing.steps.Gain`).
        template: Name of the template and grid.

    Example:
        >>> PrepRecipe().digest() == PrepRecipe(n4=False).digest()
        False
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: Literal["icbm152-brain-1mm"] = "icbm152-brain-1mm"
    n4: bool = True
    n4_shrink_mm: float = Field(default=4.0, gt=0, le=50)
    gain: Literal["rms"] = "rms"

    def digest(self) -> str:
        """A short hash: equal recipes prepare equally."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    def steps(
        self, *, mask: NDArray[np.bool_] | None = None, mask_command: str | None = None, device: str = "cpu"
    ) -> list[Step]:
        """The steps after orientation, for one scan."""
        n4: list[Step] = [BiasN4(shrink_mm=self.n4_shrink_mm)] if self.n4 else []
        return [
            BrainMask(given=mask, command=mask_command, device=device),
            *n4,
            Gain(),
            Place(),
        ]


@dataclass(frozen=True, eq=False)
class Done:
    """One step that was applied: the step, what it found, and the scan before it."""

    step: Step
    params: Params
    before: Scan


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan in the flow's space, with the way back.

    Attributes:
        scan: On the flow's grid, root mean square 1 inside the mask.
        history: The steps applied, in order.
    """

    scan: Scan
    history: tuple[Done, ...]

    @property
    def native(self) -> Scan:
        """The scan on its own grid in the flow's units: all steps applied but the last, resampling."""
        return self.history[-1].before

    def found(self, name: str) -> Params:
        """What the step ``name`` found, empty if it was not run."""
        return next((d.params for d in self.history if d.step.name == name), {})

    def undo_axes(self, native: NDArray[np.float32]) -> NDArray[np.float32]:
        """An array on the native RAS+ grid in the axis order of the file."""
        first = self.history[0]
        return first.step.undo(replace(self.native, data=native, mask=None), first.params, first.before).data

    def summary(self) -> dict[str, Any]:
        """The numbers of every step that fit in a sidecar (no images)."""
        return {
            d.step.name: {
                k: np.asarray(v).tolist() if isinstance(v, np.ndarray) else v
                for k, v in d.params.items()
                if not (isinstance(v, np.ndarray) and v.ndim == 3)
            }
            for d in self.history
        }


def prepare(
    volume: Volume,
    recipe: PrepRecipe,
    *,
    mask: Scan | None = None,
    mask_command: str | None = None,
    device: str = "cpu",
    cache: Path | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Prepared:
    """Bring a scan to the flow's space as the recipe says.

    Args:
        volume: The scan as read.
        recipe: From the target model.
        mask: Brain mask on the scan's grid (see :func:`~blindharmony.preprocessing.brain.read_mask`).
        mask_command: External brain extractor, used if no mask is given and the scan is not stripped.
        device: Where the included brain extractor runs.
        cache: Folder in which the numbers of every step are kept, and from which they are taken the next time.
        progress: Called with the share of the steps that is done, before each.

    Raises:
        InputError: If the mask does not fit.
        PreprocessingError: If a step fails; the message says which and what to do.
    """
    scan = Scan(volume.data, volume.affine)
    orient = Orient()
    given: NDArray[np.bool_] | None = None
    if mask is not None:
        check_grid(mask, scan)
        given = orient.apply(mask, orient.params(mask)).mask
    steps: list[Step] = [orient, *recipe.steps(mask=given, mask_command=mask_command, device=device)]
    file = cache / kept_name(volume.data, volume.affine, recipe.digest(), given, mask_command) if cache else None
    known = kept(file) if file else None
    history: list[Done] = []
    for index, step in enumerate(steps):
        progress(index / len(steps))
        params = known[index] if known else step.params(scan)
        history.append(Done(step, params, scan))
        scan = step.apply(scan, params)
    if file and not known:
        keep(file, [done.params for done in history])
    return Prepared(scan, tuple(history))


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
