r"""Preparation: the steps in order, what each found, and the same once more in the target's contrast.

A target model stores a :class:`PrepRecipe`, and every scan that is harmonized to it is prepared by that. Its steps are
a :class:`Preparation`, in which steps can be added and replaced::

    orientation → brain mask → bias field → gain → registration

:func:`prepare` runs them and returns a :class:`Prepared` scan: the image on the template's grid, the result of every
step, and the way back. The results can be kept in a folder: a scan that is needed twice is prepared once.

:func:`prepare_in_contrast` finds bias field and gain again in the target's contrast. Every estimator of the recipe
sharpens the histogram of the log image: the same head in another contrast, say through a gamma, gets another field, and
the target's own scans were corrected in *their* contrast. So once a curve :math:`T` to the target is known, the scan as
it came is put through it:

.. math:: y \to T(y / g) \to \text{bias field} \to \text{gain}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from blindharmony.errors import DiskFullError, InputError, OutputError, UsageError
from blindharmony.files import read_tensors, write_tensors
from blindharmony.io.volume import Volume, noticed
from blindharmony.preprocessing.brain import BrainMask, ExtractBrain, check_grid, mask_on
from blindharmony.preprocessing.registration import Register, Registration
from blindharmony.preprocessing.steps import (
    BiasField,
    CorrectBias,
    Gain,
    NormalizeGain,
    Orientation,
    Reorient,
    Result,
    Scan,
    Step,
)
from blindharmony.version import VERSION


class PrepRecipe(BaseModel):
    """Settings of preparation, as a target model stores them.

    Attributes:
        n4: Whether the bias field is estimated and removed.
        n4_shrink_mm: Voxel size for fitting it.
        bias: What estimates it, see :func:`~blindharmony.preprocessing.bias.log_bias`: N4 as ITK has it (``n4-itk``,
            that of every recipe that does not say), ``n4`` or ``entropy``. Targets and scans are prepared
            alike: the target's recipe decides.
        gain: What becomes 1 inside the mask: the root mean square, robustly
            (see :class:`~blindharmony.preprocessing.steps.NormalizeGain`).
        template: Name of the template and grid.

    Example:
        >>> PrepRecipe().digest() == PrepRecipe(n4=False).digest()
        False
        >>> "bias" in PrepRecipe().model_dump(), PrepRecipe(bias="entropy").model_dump()["bias"]
        (False, 'entropy')
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: Literal["icbm152-brain-1mm"] = "icbm152-brain-1mm"
    n4: bool = True
    n4_shrink_mm: float = Field(default=4.0, gt=0, le=50)
    gain: Literal["rms"] = "rms"
    bias: Literal["n4-itk", "n4", "entropy"] = "n4-itk"

    @model_serializer(mode="wrap")
    def _as_before_there_was_a_choice(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes of ITK's N4 are written as they always were, so that their digests and files stay the same.
        known: dict[str, Any] = handler(self)
        return {name: value for name, value in known.items() if name != "bias" or value != "n4-itk"}

    def digest(self) -> str:
        """A short hash: equal recipes prepare equally."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]

    @property
    def preparation(self) -> Preparation:
        """The steps, in order."""
        bias = (CorrectBias(self.n4_shrink_mm, self.bias),) if self.n4 else ()
        return Preparation((Reorient(), ExtractBrain(), *bias, NormalizeGain(), Register()), self)

    def with_step(self, step: Step[Any], **where: str) -> Preparation:
        """The steps with another one among them: see :meth:`Preparation.with_step`."""
        return self.preparation.with_step(step, **where)


@dataclass(frozen=True)
class Preparation:
    """Preparation steps in the order in which they run.

    Attributes:
        steps: From orientation to registration.
        recipe: What the target was trained with; the steps are its own until one is added or replaced.

    Example:
        >>> print(PrepRecipe().preparation)
        orientation   axes to right, anterior, superior; no interpolation
        brain mask    the scan's own if it is stripped, else the included network (deepbet)
        bias field    N4 inside the brain, fitted at 4 mm
        gain          root mean square of the brain becomes 1
        registration  affine by mutual information, onto ICBM152 at 1 mm
        >>> coarse = PrepRecipe().with_step(CorrectBias(shrink_mm=8), instead_of="bias field")
        >>> coarse.as_trained
        False
    """

    steps: tuple[Step[Any], ...]
    recipe: PrepRecipe

    def __str__(self) -> str:
        width = max(len(step.name) for step in self.steps)
        return "\n".join(f"{step.name:{width}}  {step}" for step in self.steps)

    @property
    def as_trained(self) -> bool:
        """Whether these are the steps of the recipe, no other."""
        return self.steps == self.recipe.preparation.steps

    def with_step(
        self,
        step: Step[Any],
        *,
        before: str | None = None,
        after: str | None = None,
        instead_of: str | None = None,
    ) -> Preparation:
        """The steps with another one among them.

        Args:
            step: What is added.
            before: Name of the step that it precedes.
            after: Name of the step that it follows.
            instead_of: Name of the step that it replaces.

        Raises:
            UsageError: If not exactly one place is given, there is no such step, the name is taken, or it would come
                after the registration: all that follows works on the template's grid.
        """
        places = [place for place in (before, after, instead_of) if place is not None]
        names = [known.name for known in self.steps]
        if len(places) != 1 or places[0] not in names:
            raise UsageError(
                f"there is no place for the step '{step.name}'",
                remedy=f"give one of before, after, instead_of, with one of {', '.join(names)}",
            )
        at = names.index(places[0])
        kept = [known for known in self.steps if instead_of is None or known is not self.steps[at]]
        if step.key in {known.key for known in kept}:
            raise UsageError(f"there is a step '{step.key}' already", remedy="give the new one another name and key")
        kept.insert(at + (after is not None), step)
        if kept[-1].result is not Registration:
            raise UsageError(
                f"the step '{step.name}' would come last", remedy="registration to the template is the last step"
            )
        return replace(self, steps=tuple(kept))

    def for_scan(self, mask: NDArray[np.bool_] | None, mask_command: str | None, device: str) -> tuple[Step[Any], ...]:
        """The steps with what is given for one scan: its mask, a brain extractor, a device."""
        brain = ExtractBrain(given=mask, command=mask_command, device=device)
        given = mask is not None or mask_command is not None
        # A mask that is given counts more than any way to find one.
        return tuple(
            brain if isinstance(step, ExtractBrain) or (given and step.result is BrainMask) else step
            for step in self.steps
        )


@dataclass(frozen=True, eq=False)
class Applied:
    """One step that was applied: the step, what it found, and the scan before it."""

    step: Step[Any]
    result: Any
    before: Scan


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan in the flow's space, with the result of every step and the way back.

    Attributes:
        scan: On the flow's grid, root mean square 1 inside the mask.
        history: The steps applied, in order.
    """

    scan: Scan
    history: tuple[Applied, ...]

    def optional(self, kind: type[Result]) -> Result | None:
        """The result of this kind, None if no step has one."""
        return next((applied.result for applied in self.history if isinstance(applied.result, kind)), None)

    def result(self, kind: type[Result]) -> Result:
        """The result of this kind.

        Raises:
            LookupError: If no step has one.
        """
        result = self.optional(kind)
        if result is None:
            raise LookupError(f"no preparation step gave a {kind.__name__}")
        return result

    @property
    def orientation(self) -> Orientation:
        """How the axes of the file lie."""
        return self.result(Orientation)

    @property
    def brain_mask(self) -> BrainMask:
        """The brain, and where its mask came from."""
        return self.result(BrainMask)

    @property
    def in_contrast(self) -> bool:
        """Whether a curve has put the scan into the target's contrast already, for its bias field to be found there."""
        return self.optional(FirstGain) is not None

    @property
    def bias_field(self) -> BiasField | None:
        """The bias field, None if the recipe has none taken out."""
        return self.optional(BiasField)

    @property
    def gain(self) -> float:
        """What became 1."""
        return self.result(Gain).gain

    @property
    def registration(self) -> Registration:
        """The affine to the template, and how well it fits."""
        return self.result(Registration)

    @property
    def native(self) -> Scan:
        """The scan on its own grid in the flow's units: all steps applied but the last, resampling."""
        return self.history[-1].before

    def to_file_grid(self, native: NDArray[np.float32], *, fill: float = 0.0) -> NDArray[np.float32]:
        """An array on the native RAS+ grid on the grid and in the axes of the file.

        Args:
            native: Anything but a scan: a mask, a field, an error.
            fill: Its value where the native grid does not reach.
        """
        scan = replace(self.native, data=native, mask=None)
        for applied in reversed(self.history[:-1]):
            before = replace(applied.before, data=np.full(applied.before.data.shape, fill, np.float32))
            if before.data.shape != scan.data.shape or not np.array_equal(before.affine, scan.affine):
                scan = applied.step.undo(scan, applied.result, before)
        return scan.data

    def to_file(
        self, native: NDArray[np.float32], curve: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """A harmonized scan on the native RAS+ grid as its file has it: every step undone but those that harmonize.

        Args:
            native: Harmonized intensities.
            curve: Prepared → harmonized intensities. What a step takes from the scan goes through it: :math:`y` is
                the scan as all later steps would have it without this one, :math:`y'` as they have it; the file gets
                :math:`x_h + T(y) - T(y')`. Only a step that moves voxels is asked to ``undo`` itself.
        """
        scan = replace(self.native, data=native)
        for index in reversed(range(len(self.history) - 1)):
            applied = self.history[index]
            if applied.step.harmonizes:
                continue
            if isinstance(applied.step, Reorient | ExtractBrain):
                before = applied.before  # its intensities do not matter, so none are computed
            elif self._grid_is_kept(index):
                # What the step took away, in the target's units: its own numbers are in those of the scan.
                with_it, without = self._later(index, applied.before), self.native.data
                scan = replace(scan, data=scan.data + curve(with_it) - curve(without))
                continue
            else:
                values = applied.before.data
                for later in self.history[index + 1 : -1]:
                    values = later.step.intensities(values, later.result)
                before = replace(applied.before, data=curve(values))
            scan = applied.step.undo(scan, applied.result, before)
        return scan.data

    def _grid_is_kept(self, index: int) -> bool:
        """Whether step ``index`` and all after it, but the last, leave voxels where they are."""
        grids = [applied.before for applied in self.history[index:]]
        return all(g.data.shape == grids[0].data.shape and np.array_equal(g.affine, grids[0].affine) for g in grids)

    def _later(self, index: int, scan: Scan) -> NDArray[np.float32]:
        """What the steps after ``index`` make of a scan, resampling left out."""
        for later in self.history[index + 1 : -1]:
            scan = later.step.apply(scan, later.result)
        return scan.data

    def summary(self) -> dict[str, Any]:
        """The numbers of every step that fit in a sidecar (no images, no empty words)."""
        return {
            applied.step.key: {
                name: value.tolist() if isinstance(value, np.ndarray) else value
                for name, value in _values(applied.result).items()
                if (value.ndim < 3 if isinstance(value, np.ndarray) else value != "")
            }
            for applied in self.history
        }


def prepare(
    volume: Volume,
    recipe: PrepRecipe | Preparation,
    *,
    mask: Scan | None = None,
    lesion: Scan | None = None,
    mask_command: str | None = None,
    device: str = "cpu",
    cache: Path | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Prepared:
    """Bring a scan to the flow's space as the recipe says.

    Args:
        volume: The scan as read.
        recipe: From the target model, or its steps with others among them.
        mask: Brain mask on the scan's grid (see :func:`~blindharmony.preprocessing.brain.read_mask`).
        lesion: Lesions on the scan's grid, which no fit looks at
            (see :func:`~blindharmony.preprocessing.brain.read_lesion`).
        mask_command: External brain extractor, used if no mask is given and the scan is not stripped.
        device: Where the included brain extractor runs.
        cache: Folder in which the numbers of every step are kept, and from which they are taken the next time. Steps of
            one's own are always run: nothing says whether their code has changed.
        progress: Called with the share of the steps that is done, before each.

    Raises:
        InputError: If a mask does not fit.
        PreprocessingError: If a step fails; the message says which and what to do.
    """
    preparation = recipe.preparation if isinstance(recipe, PrepRecipe) else recipe
    scan = Scan(volume.data, volume.affine)
    if lesion is not None:
        scan = replace(scan, lesion=mask_on(lesion, scan, "lesion mask"))
    mask_given: NDArray[np.bool_] | None = None
    if mask is not None:
        check_grid(mask, scan)
        reorient = Reorient()
        mask_given = reorient.apply(mask, reorient.estimate(mask)).mask
    steps = preparation.for_scan(mask_given, mask_command, device)
    left_out = () if scan.lesion is None else (scan.lesion,)
    parts = (volume.data, volume.affine, preparation.recipe.digest(), mask_given, mask_command, *left_out)
    file = cache / cache_key(*parts) if cache and preparation.as_trained else None
    return run_steps(scan, steps, file=file, progress=progress)


def run_steps(
    scan: Scan,
    steps: Sequence[Step[Any]],
    *,
    known: Mapping[str, Any] | None = None,
    earlier: tuple[Applied, ...] = (),
    file: Path | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Prepared:
    """Run steps one after another, and keep what they found.

    Args:
        scan: The scan before the first of them.
        steps: In order.
        known: Results that need no look at the scan, by the key of their step.
        earlier: The steps before these.
        file: Where results are kept, and taken from if they are there.
        progress: Called with the share of the time, about, that the steps before this one take.
    """
    whole = sum(step.seconds for step in steps)
    cached = cached_results(file, steps) if file else None
    history: list[Applied] = []
    for index, step in enumerate(steps):
        progress(sum(before.seconds for before in steps[:index]) / whole)
        result = (known or {}).get(step.key)
        if result is None:
            with noticed(_TAKEN_FOR_STRIPPED if _is_stripped(history) else ()):
                result = cached[index] if cached else step.estimate(scan)
        history.append(Applied(step, result, scan))
        scan = step.apply(scan, result)
        if scan.lesion is not None and not scan.fitted().any():
            raise InputError("the lesion mask covers the whole brain", remedy="check that it belongs to this scan")
    if file and not cached:
        cache_results(file, [applied.result for applied in history])
    return Prepared(scan, (*earlier, *history))


_TAKEN_FOR_STRIPPED = ("the skull seemed to be removed already: all that is not background was taken for the brain",)


def _is_stripped(history: Sequence[Applied]) -> bool:
    masks = [applied.result for applied in history if isinstance(applied.result, BrainMask)]
    return any(mask.source == "stripped" for mask in masks)


class Curve(Protocol):
    """An increasing change of intensity."""

    def __call__(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The changed intensities."""


@dataclass(frozen=True)
class FirstGain:
    """The gain with which a scan was put through a curve, in its own units."""

    gain: float


@dataclass(frozen=True, eq=False)
class ChangeContrast(Step[FirstGain]):
    """Put the scan through a curve, ``T(data / gain)``."""

    curve: Curve
    gain: float

    name = "contrast"
    key = "lift"
    result = FirstGain
    harmonizes = True

    def __str__(self) -> str:
        return "the target's, by the curve so far"

    def estimate(self, scan: Scan) -> FirstGain:
        """The gain."""
        return FirstGain(self.gain)

    def apply(self, scan: Scan, result: FirstGain) -> Scan:
        """The scan in the other contrast."""
        return replace(scan, data=self.intensities(scan.data, result))

    def undo(self, changed: Scan, result: FirstGain, before: Scan) -> Scan:
        """What changed since, carried to the scan: ``before + gain · (changed − T(before / gain))``."""
        change = changed.data - self.apply(before, result).data
        return replace(before, data=(before.data + np.float32(result.gain) * change).astype(np.float32))

    def intensities(self, values: NDArray[np.float32], result: FirstGain) -> NDArray[np.float32]:
        """Through the curve."""
        return self.curve((values / np.float32(result.gain)).astype(np.float32))


def prepare_in_contrast(
    prepared: Prepared, recipe: PrepRecipe | Preparation, curve: Curve, *, cache: Path | None = None
) -> Prepared:
    """Prepare a scan once more in the contrast that a curve gives it; mask and registration stay.

    Args:
        prepared: The scan as prepared in its own contrast.
        recipe: From the target model.
        curve: Prepared intensities → intensities like the target's.
        cache: Folder in which bias field and gain are kept.

    Raises:
        LookupError: If no bias field was taken out.
    """
    at = next((i for i, applied in enumerate(prepared.history) if isinstance(applied.result, BiasField)), None)
    if at is None:
        raise LookupError("no bias field was taken out, so there is none to find again")
    start, gain = prepared.history[at].before, prepared.gain
    steps = [ChangeContrast(curve, gain), *(applied.step for applied in prepared.history[at:])]
    preparation = recipe.preparation if isinstance(recipe, PrepRecipe) else recipe
    sampled = curve(np.linspace(0, 3, 64, dtype=np.float32))
    parts = (start.data, start.fitted(), preparation.recipe.digest(), gain, sampled)
    file = cache / cache_key(*parts) if cache and preparation.as_trained else None
    return run_steps(
        start,
        steps,
        known={Register.key: prepared.registration},
        earlier=prepared.history[:at],
        file=file,
    )


def cache_key(*parts: NDArray[Any] | str | float | None) -> str:
    """A file name that changes with any of the inputs of preparation, and with the version of this package.

    Example:
        >>> cache_key(np.zeros(3), "recipe") == cache_key(np.zeros(3), "another")
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


def kept_arrays(
    make: Callable[[], dict[str, NDArray[Any]]], cache: Path | None, *parts: NDArray[Any] | str | float | None
) -> dict[str, NDArray[Any]]:
    """Arrays that take long to make, from the cache if they lie there.

    Args:
        make: Makes them.
        cache: Folder; without one they are made and not kept.
        parts: All that they depend on (:func:`cache_key`).

    Raises:
        DiskFullError: If the disk is full. A folder that cannot be written to is no reason to fail.
    """
    if cache is None:
        return make()
    file = cache / cache_key(*parts)
    if file.exists():
        try:
            return read_tensors(file)[0]
        except (OSError, ValueError):
            pass  # damaged: it is made anew
    arrays = make()
    _keep(file, arrays, {})
    return arrays


def _keep(file: Path, arrays: dict[str, NDArray[Any]], words: dict[str, str]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(file, arrays, words)
    except DiskFullError:
        raise
    except (OutputError, OSError):
        pass  # it is made anew the next time


def cache_results(path: Path, results: Sequence[Any]) -> None:
    """Keep the result of every step, in order: arrays as tensors, the rest as JSON.

    Raises:
        DiskFullError: If the disk is full. A folder that cannot be written to is no reason to fail.
    """
    arrays, plain = {}, []
    for index, result in enumerate(results):
        numbers = {}
        for name, value in _values(result).items():
            if isinstance(value, np.ndarray):
                arrays[f"{index}.{name}"] = np.ascontiguousarray(value)
            else:
                numbers[name] = value
        plain.append(numbers)
    _keep(path, arrays, {"steps": json.dumps(plain)})


def cached_results(path: Path, steps: Sequence[Step[Any]]) -> list[Any] | None:
    """The result of every step, or None if they are not there or damaged."""
    if not path.exists():
        return None
    try:
        arrays, words = read_tensors(path)
        plain: list[dict[str, Any]] = json.loads(words["steps"])
        for key, array in arrays.items():
            index, name = key.split(".", 1)
            plain[int(index)][name] = array
        return [step.result(**values) for step, values in zip(steps, plain, strict=True)]
    except (OSError, KeyError, ValueError, TypeError, IndexError):
        return None


def _values(result: Any) -> dict[str, Any]:
    return {field.name: getattr(result, field.name) for field in fields(result)}
