"""What a preparation step promises, and the steps that need no more than the scan: orientation, bias field, gain.

A step looks at a scan (:meth:`Step.estimate`) and writes what it learnt into a frozen result; :meth:`Step.apply` and
:meth:`Step.undo` only follow that result. So a scan that was prepared once can be prepared again from the results
alone, every number can be kept in a sidecar, and every step can be undone.

- **Orientation**: axes in the order right, anterior, superior; a permutation and flips, no interpolation.
- **Bias field**: the smooth brightness drift of the receive coil, estimated inside the brain and divided out. The
  recipe says by what: least entropy, N4 on clean cells, or N4 as ITK has it; a recipe that names none means the last
  (:mod:`~blindharmony.preprocessing.bias`).
- **Gain**: one number, so that the root mean square inside the brain is 1.

The brain mask is in :mod:`~blindharmony.preprocessing.brain`, the registration to the template in
:mod:`~blindharmony.preprocessing.registration`; :mod:`~blindharmony.preprocessing.recipe` puts all in order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from blindharmony.errors import PreprocessingError
from blindharmony.preprocessing.bias import Method, log_bias

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Scan:
    """An image on its way from the scanner to the flow.

    Attributes:
        data: Intensities, shape ``(X, Y, Z)``.
        affine: Voxel to world (mm), shape ``(4, 4)``.
        mask: Brain, once it is known.
        lesion: Voxels that no fit looks at, though they are harmonized like all others; None if there are none.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    mask: NDArray[np.bool_] | None = None
    lesion: NDArray[np.bool_] | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    def inside(self) -> NDArray[np.bool_]:
        """The brain, or every voxel as long as no mask is known."""
        return np.ones(self.data.shape, bool) if self.mask is None else self.mask

    def fitted(self) -> NDArray[np.bool_]:
        """What fits look at: the brain without its lesions."""
        return self.inside() if self.lesion is None else self.inside() & ~self.lesion

    def without_lesion(self) -> NDArray[np.float32]:
        """The intensities with the brain's median in its lesions, for fits that look at neighbors too."""
        if self.lesion is None:
            return self.data
        fitted = self.fitted()
        middle = np.median(self.data[fitted]) if fitted.any() else 0
        return np.where(self.lesion & self.inside(), middle, self.data).astype(np.float32)


class Step(ABC, Generic[Result]):
    """One step of preparation: ``estimate`` looks at the scan, ``apply`` and ``undo`` follow what it found.

    The law every step keeps, for all scans ``s`` and results ``r``: ``undo(apply(s, r), r, s)`` equals ``s``. A step
    that loses detail (resampling, denoising) undoes only what was *changed* after it, and takes the rest from ``s``.

    Attributes:
        name: The field's term, which messages and :func:`print` use.
        key: What sidecars and the cache call it; the name if nothing else is said.
        result: Class of the results: a frozen dataclass of numbers, words, lists and arrays.
        harmonizes: Whether what it does to intensities is part of the harmonization, and so stays in the result.
            Every other step is undone on the way back to the file.
        seconds: What it takes on one core, about; only progress is told by it.

    Example:
        >>> @dataclass(frozen=True)
        ... class Low:
        ...     value: float
        >>> class Shift(Step[Low]):
        ...     name, result = "shift", Low
        ...     def estimate(self, scan): return Low(float(scan.data.min()))
        ...     def apply(self, scan, result): return replace(scan, data=scan.data - np.float32(result.value))
        ...     def undo(self, changed, result, before):
        ...         return replace(changed, data=changed.data + np.float32(result.value))
        >>> Shift.key, Shift().estimate(Scan(np.full((2, 2, 2), 3, np.float32), np.eye(4)))
        ('shift', Low(value=3.0))
    """

    name: ClassVar[str]
    key: ClassVar[str]
    result: ClassVar[type[Any]]
    harmonizes: ClassVar[bool] = False
    seconds: ClassVar[float] = 0.1

    def __init_subclass__(cls, **options: Any) -> None:
        """A step without a key of its own is called by its name in files too."""
        super().__init_subclass__(**options)
        if "name" in vars(cls) and "key" not in vars(cls):
            cls.key = cls.name

    def __str__(self) -> str:
        return type(self).__name__

    @abstractmethod
    def estimate(self, scan: Scan) -> Result:
        """Everything the step needs to know about this scan."""

    @abstractmethod
    def apply(self, scan: Scan, result: Result) -> Scan:
        """The scan after this step."""

    @abstractmethod
    def undo(self, changed: Scan, result: Result, before: Scan) -> Scan:
        """The scan ``before`` with what happened to ``changed`` since.

        On the way back to the file only steps that move voxels are asked, and both scans are then in the target's
        units: take places from the result, never its intensities.
        """

    def intensities(self, values: NDArray[np.float32], result: Result) -> NDArray[np.float32]:
        """What the step does to an intensity wherever it is; nothing, if what it does depends on the place."""
        return values


axes: Any = orientations  # without types


@dataclass(frozen=True, eq=False)
class Orientation:
    """How the axes of a file lie.

    Attributes:
        axes: Codes of the axes, e.g. ``"LAS"``.
        turn: How they map to RAS+, shape ``(3, 2)``, as nibabel has it.
    """

    axes: str
    turn: NDArray[np.float64]


@dataclass(frozen=True)
class Reorient(Step[Orientation]):
    """Bring the axes closest to RAS+ (oblique scans stay oblique).

    Example:
        >>> scan = Scan(np.arange(24.0, dtype=np.float32).reshape(2, 3, 4), np.diag([-1.0, 1, 1, 1]))
        >>> step = Reorient()
        >>> step.apply(scan, step.estimate(scan)).data[0, 0, 0]
        np.float32(12.0)
    """

    name = "orientation"
    key = "orient"
    result = Orientation

    def __str__(self) -> str:
        return "axes to right, anterior, superior; no interpolation"

    def estimate(self, scan: Scan) -> Orientation:
        """The axes of the scan."""
        turn = axes.io_orientation(scan.affine)
        return Orientation("".join(axes.ornt2axcodes(turn)), turn)

    def apply(self, scan: Scan, result: Orientation) -> Scan:
        """Permute and flip."""
        affine = scan.affine @ axes.inv_ornt_aff(result.turn, scan.data.shape)
        mask, lesion = (None if x is None else axes.apply_orientation(x, result.turn) for x in (scan.mask, scan.lesion))
        data = np.ascontiguousarray(axes.apply_orientation(scan.data, result.turn))
        return Scan(data, affine, mask, lesion)

    def undo(self, changed: Scan, result: Orientation, before: Scan) -> Scan:
        """Permute and flip back."""
        back = axes.ornt_transform(axes.axcodes2ornt("RAS"), axes.axcodes2ornt(result.axes))
        mask = before.mask if changed.mask is None else axes.apply_orientation(changed.mask, back)
        data = np.ascontiguousarray(axes.apply_orientation(changed.data, back))
        return Scan(data, before.affine, mask, before.lesion)


@dataclass(frozen=True, eq=False)
class BiasField:
    """The bias field of a scan.

    Attributes:
        log_bias: Its natural logarithm as it is taken out, on the scan's grid, mean zero inside the brain.
        log_bias_sd: Standard deviation of that inside the brain.
        found_sd: That of the field that was found, of which anatomy may be a part; None if all of it is taken out.
    """

    log_bias: NDArray[np.float32]
    log_bias_sd: float
    found_sd: float | None = None

    @property
    def spread(self) -> float:
        """Standard deviation of the field that was found."""
        return self.log_bias_sd if self.found_sd is None else self.found_sd

    @property
    def share(self) -> float:
        """How much of the field that was found is taken out, 0 to 1."""
        return self.log_bias_sd / self.spread if self.spread else 1.0


@dataclass(frozen=True)
class CorrectBias(Step[BiasField]):
    """Divide by the coil's bias field, ``data / exp(b)``.

    A scan whose field was taken out before, by the scanner or a program, has none left; what least entropy then finds
    is anatomy, and taking it out lowers the contrast between gray and white matter. Such a field is small beside that
    contrast (:func:`tissue_contrast`). So a field of least entropy is taken out as far as it is larger: not at all up
    to 0.37 times the contrast, all of it from 0.50 times. A power of the intensities changes both alike.

    Attributes:
        shrink_mm: Size of the cells that the field is fitted to.
        method: ``"n4-itk"``, ``"n4"`` or ``"entropy"``, see :func:`~blindharmony.preprocessing.bias.log_bias`.

    Example:
        >>> print(CorrectBias(method="entropy"))
        least entropy inside the brain, fitted at 4 mm
    """

    shrink_mm: float = 4.0
    method: Method = "n4-itk"

    name = "bias field"
    key = "n4"
    seconds = 1.0
    result = BiasField
    harmonizes = True

    def __str__(self) -> str:
        estimator = "least entropy" if self.method == "entropy" else "N4"
        return f"{estimator} inside the brain, fitted at {self.shrink_mm:g} mm"

    def estimate(self, scan: Scan) -> BiasField:
        """The log bias field and its standard deviation inside the mask."""
        field = log_bias(scan.without_lesion(), scan.spacing, scan.fitted(), method=self.method, cell_mm=self.shrink_mm)
        spread = float(field[scan.inside()].std())
        if self.method != "entropy":
            return BiasField(field, spread)
        contrast = tissue_contrast(scan.data[scan.fitted()])
        field *= np.float32(coil_share(spread / contrast) if contrast else 0)
        taken = float(field[scan.inside()].std())
        return BiasField(field, taken, None if taken == spread else spread)

    def apply(self, scan: Scan, result: BiasField) -> Scan:
        """Take the field out."""
        return replace(scan, data=(scan.data * np.exp(-result.log_bias)).astype(np.float32))

    def undo(self, changed: Scan, result: BiasField, before: Scan) -> Scan:
        """Put the field back."""
        return replace(changed, data=(changed.data * np.exp(result.log_bias)).astype(np.float32))


# Found in 28 scans of two sets whose fields were taken out before, as they are and through log(1 + x / median): 0.10 to
# 0.35 times the contrast; in 55 of three other sets 0.53 times or more.
_CORRECTED, _SHADED = 0.37, 0.50


def coil_share(relative: float) -> float:
    """How much of a field of least entropy is the scanner's, by its spread in units of the tissue contrast.

    Example:
        >>> [round(coil_share(relative), 2) for relative in (0.2, 0.435, 0.7)]
        [0.0, 0.5, 1.0]
    """
    return min(max((relative - _CORRECTED) / (_SHADED - _CORRECTED), 0.0), 1.0)


def tissue_contrast(values: NDArray[np.float32]) -> float:
    r"""How far the brighter tissues of a brain lie apart, without knowing them: :math:`\log q_{75} - \log q_{50}`.

    Args:
        values: Intensities in the brain. What is not above zero counts as very dark.

    Example:
        >>> x = np.linspace(0.1, 1, 1000, dtype=np.float32)
        >>> round(tissue_contrast(x**2) / tissue_contrast(x), 2)
        2.0
    """
    if not values.size:
        return 0.0
    middle, upper = np.maximum(np.quantile(values, [0.5, 0.75]), 0)
    return float(np.log(upper / middle)) if middle > 0 else 0.0


@dataclass(frozen=True)
class Gain:
    """The gain of a scan.

    Attributes:
        gain: What becomes 1, in the scan's units.
    """

    gain: float


@dataclass(frozen=True)
class NormalizeGain(Step[Gain]):
    """Divide by one number, so that the root mean square inside the mask becomes 1.

    Before the mean, values are clipped at their 99.9th percentile: a few bright vessels or a remnant of fat
    do not count. Of the gains tried, this one leaves the scans of one scanner most alike.

    Example:
        >>> scan = Scan(np.full((3, 3, 3), 5, dtype=np.float32), np.eye(4))
        >>> NormalizeGain().estimate(scan)
        Gain(gain=5.0)
    """

    name = "gain"
    key = "gain"
    result = Gain
    harmonizes = True

    def __str__(self) -> str:
        return "root mean square of the brain becomes 1"

    def estimate(self, scan: Scan) -> Gain:
        """The gain, in the scan's units."""
        values = scan.data[scan.fitted()].astype(np.float64)
        gain = float(np.sqrt(np.square(values.clip(0, max(0.0, np.quantile(values, 0.999)))).mean()))
        if not gain > 0:
            raise PreprocessingError("no voxel of the brain is positive", remedy="check the mask")
        return Gain(gain)

    def apply(self, scan: Scan, result: Gain) -> Scan:
        """Divide."""
        return replace(scan, data=self.intensities(scan.data, result))

    def undo(self, changed: Scan, result: Gain, before: Scan) -> Scan:
        """Multiply."""
        return replace(changed, data=(changed.data * np.float32(result.gain)).astype(np.float32))

    def intensities(self, values: NDArray[np.float32], result: Gain) -> NDArray[np.float32]:
        """Divided by the gain."""
        return (values / np.float32(result.gain)).astype(np.float32)
