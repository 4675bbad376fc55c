"""The preparation a target model was trained with, stored in it and applied by it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from blindharmony.image import Volume
from blindharmony.prep.keep import keep, kept, kept_name
from blindharmony.prep.mask import BrainMask, check_grid
from blindharmony.prep.orient import Orient
from blindharmony.prep.place import Place
from blindharmony.prep.step import Params, Scan, Step
from blindharmony.prep.steps import BiasN4, Gain


class PrepRecipe(BaseModel):
    """Settings of every preparation step, in order: orient, brain mask, N4, gain, place.

    Attributes:
        n4: Whether the bias field is estimated and removed.
        n4_shrink_mm: Voxel size for fitting it.
        gain: What becomes 1 inside the mask: the root mean square, robustly
            (see :class:`~blindharmony.prep.steps.Gain`).
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
        mask: Brain mask on the scan's grid (see :func:`~blindharmony.prep.mask.read_mask`).
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
