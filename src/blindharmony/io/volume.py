"""One 3-D scan in memory: :func:`read_volume` takes a file, an image or an array, checks it, and says what it mended.

Nothing is allocated before the declared size was compared with the file, and every value is judged before it is used:
a :class:`Volume` is finite, in float32, with a place in space. What could be mended is in its ``warnings``; what could
not is refused with a remedy.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import HeaderDataError, SpatialImage
from scipy import ndimage

from blindharmony.errors import InputError, PreprocessingError
from blindharmony.io.headers import (
    Template,
    best_affine,
    check_affine,
    check_file,
    check_header,
    check_shape,
    check_voxels,
    first_bytes,
    header_repairs,
    no_scan_format,
    orientation_warnings,
    stored_bytes,
    voxel_size,
)

Float: TypeAlias = npt.NDArray[np.float32]
Affine: TypeAlias = npt.NDArray[np.float64]
FORMATS = (nib.Nifti1Pair, nib.Nifti2Pair, nib.MGHImage)
_AGAIN = "convert or download it again"
MAX_NONFINITE = 0.05
MAX_NEGATIVE = 0.05
# Of a scan cut to the brain, up to this share of the field of view is background.
MAX_BACKGROUND, _MOST_OF_BORDER = 0.99, 0.6
# More negative voxels than this are another kind of image (CT, phase), not a magnitude image with wrapped voxels.
_MOST_WRAPPED, _FEWEST_WRAPPED = 0.4, 5
MIN_MAGNITUDE, MAX_MAGNITUDE = 1e-12, 1e12
# Fewer steps of single precision between the darkest and the brightest voxel leave nothing of an image.
MIN_STEPS = 1000


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3-D scan with its place in space.

    Attributes:
        data: Intensities in the scan's own units, shape ``(i, j, k)``, all finite.
        affine: Voxel indices to scanner millimetres, shape ``(4, 4)``.
        template: The source's header, for writing results like the source.
        path: The file it was read from, if any.
        warnings: What was repaired or looks odd, one sentence each.

    Example:
        >>> scan = read_volume(np.arange(4096.0).reshape(16, 16, 16), affine=np.diag([1, 1, 2, 1]))
        >>> scan.shape, scan.spacing.tolist(), scan.axcodes
        ((16, 16, 16), [1.0, 1.0, 2.0], ('R', 'A', 'S'))
    """

    data: Float
    affine: Affine
    template: Template
    path: Path | None = None
    warnings: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        i, j, k = self.data.shape
        return i, j, k

    @property
    def spacing(self) -> Affine:
        """Voxel size along each axis, in mm, shape ``(3,)``."""
        return voxel_size(self.affine)

    @property
    def axcodes(self) -> tuple[str, str, str]:
        """Where each axis points, e.g. ``("R", "A", "S")`` for right, anterior, superior."""
        orientations: Any = nib.orientations
        i, j, k = orientations.aff2axcodes(self.affine)
        return i, j, k


class TensorLike(Protocol):
    """A torch tensor, without importing torch."""

    def detach(self) -> Any:
        """Itself, without gradients."""


class ItkLike(Protocol):
    """A SimpleITK image, without importing SimpleITK."""

    def GetDirection(self) -> Any:  # noqa: N802
        """Its axes, row by row."""


Source: TypeAlias = str | PathLike[str] | SpatialImage | npt.NDArray[np.generic] | Volume | ItkLike | TensorLike


def read_volume(source: Source, *, affine: npt.ArrayLike | None = None) -> Volume:
    """Read one scan from a file, an image in memory or an array.

    Any orientation and voxel size is kept as it is; a 4-D file with a single frame counts as 3-D.

    Args:
        source: A ``.nii``, ``.nii.gz``, ``.mgh``, ``.mgz`` or ``.img``/``.hdr`` file, a nibabel or SimpleITK image, an
            array or tensor of shape ``(i, j, k)``, or a volume, which is returned as it is.
        affine: Voxel to millimetre map of an array, shape ``(4, 4)``. Without one, axes right, anterior, superior and
            voxels of 1 mm are assumed, and a warning says so.

    Raises:
        InputError: If it is missing, damaged, too large, not a single 3-D volume, or makes no sense as an
            MR image (empty, constant, wrapped, mostly negative, not finite, impossible voxel size).
        TypeError: If ``affine`` is given for anything but an array.

    Example:
        >>> read_volume(np.eye(64).reshape(16, 16, 16), affine=np.eye(4)).warnings
        ()
    """
    if isinstance(source, Volume):
        return source
    image, path, notes = opened(source, affine)
    with noticed(notes):
        shape, matrix, oddities = placed(image, path)
        notes = (*notes, *oddities)
    with noticed(notes):
        values, longer = load_array(image, path)
    with noticed((*notes, *longer)):
        data, repaired = clean_values(values.reshape(shape), path)
    return Volume(data, matrix, Template.of(image, matrix), path, (*notes, *longer, *repaired))


def opened(source: Source, affine: npt.ArrayLike | None = None) -> tuple[SpatialImage, Path | None, tuple[str, ...]]:
    """Anything that can be a scan or a mask as an image, its file if it has one, and what was noticed; see above.

    Raises:
        InputError: If it is nothing of the kind, or its file cannot be opened.
        TypeError: If ``affine`` is given for anything but an array.
    """
    if isinstance(source, np.ndarray) or hasattr(source, "detach"):
        array = source if isinstance(source, np.ndarray) else _from_tensor(source)
        notes = () if affine is not None else (_NO_AFFINE,)
        return _image_of(array, affine), None, notes
    if affine is not None:
        raise TypeError("affine= belongs to an array; files and images bring their own")
    if isinstance(source, Volume):
        return _image_of(source.data, source.affine), source.path, source.warnings
    if isinstance(source, SpatialImage):
        # Voxels in memory may differ from those of the file that the image was last saved to.
        name = source.get_filename() if isinstance(source.dataobj, ArrayProxy) else None
        return source, Path(name) if name else None, ()
    if hasattr(source, "GetDirection"):
        return _from_itk(source), None, ()
    if not isinstance(source, str | PathLike):
        raise InputError(
            f"a {type(source).__name__} is no scan",
            remedy="give a file, a nibabel or SimpleITK image, or an array with affine=",
        )
    path = Path(source)
    image, repaired = open_image(path)
    return image, path, repaired


_NO_AFFINE = "the array has no affine: axes right, anterior, superior and voxels of 1 mm were assumed (pass affine=)"


def _image_of(array: npt.NDArray[np.generic], affine: npt.ArrayLike | None) -> SpatialImage:
    matrix = np.eye(4) if affine is None else np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise InputError(f"the affine has shape {matrix.shape}", remedy="give a 4 x 4 matrix")
    # The base class has no dtype rules: NIfTI would refuse int64 and booleans, harmless here.
    return SpatialImage(array, matrix)


def _from_tensor(tensor: Any) -> npt.NDArray[np.generic]:
    try:
        return np.asarray(tensor.detach().cpu().numpy())
    except (RuntimeError, TypeError):  # bfloat16 and sparse tensors have no array of their own
        raise InputError("numpy cannot hold this tensor", remedy="give tensor.to_dense().float()") from None


def _from_itk(image: Any) -> SpatialImage:
    if image.GetDimension() != 3:
        raise InputError(f"the image is {image.GetDimension()}-D, not a volume", remedy="give the 3-D volume")
    # ITK counts axes the other way round, and millimetres to the left and to the back.
    array = sys.modules["SimpleITK"].GetArrayFromImage(image)
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    matrix[:3, 3] = image.GetOrigin()
    return SpatialImage(array.transpose(2, 1, 0, *range(3, array.ndim)), np.diag([-1.0, -1, 1, 1]) @ matrix)


def placed(image: SpatialImage, path: Path | None) -> tuple[tuple[int, int, int], Affine, tuple[str, ...]]:
    """Shape and affine of one volume, and what is odd about them.

    Raises:
        InputError: As :func:`~blindharmony.io.headers.check_shape` and ``check_affine``.
    """
    shape = check_shape(image.shape, path)
    matrix, mended = best_affine(image)
    with noticed(mended):
        matrix = check_affine(matrix, path)
    return shape, matrix, (*mended, *orientation_warnings(image, matrix, shape, mended=bool(mended)))


_NOTICED = " (noticed before: "


@contextmanager
def noticed(notes: Sequence[str]) -> Iterator[None]:
    """Errors inside say what was noticed before: it is often the reason.

    Example:
        >>> with noticed(["the header has no orientation"]):
        ...     raise InputError("no brain was found")
        Traceback (most recent call last):
        blindharmony.errors.InputError: no brain was found (noticed before: the header has no orientation)
    """
    try:
        yield
    except (InputError, PreprocessingError) as error:
        what, _, inner = error.what.partition(_NOTICED)
        said = inner.removesuffix(")")
        more = [note for note in notes if note not in said]
        if not more:
            raise
        text = "; ".join(filter(None, (said, *more)))[:300]
        raise type(error)(f"{what}{_NOTICED}{text})", remedy=error.remedy, path=error.path) from error


# From a file to an image: no voxel is read yet.


def open_image(path: Path) -> tuple[SpatialImage, tuple[str, ...]]:
    """Open a scan and say what was repaired in its header; no voxel is read yet.

    Raises:
        InputError: If the file is missing, of another type, or damaged.

    Example:
        >>> open_image(Path("nowhere.nii"))
        Traceback (most recent call last):
        blindharmony.errors.InputError: nowhere.nii: no such file; check the path
    """
    check_file(path)
    check_header(path)
    try:
        with header_repairs() as repairs, warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            image = _loaded(path, repairs)
    except Exception as error:  # a damaged header makes nibabel raise nearly anything
        # The message names the file anyway, and whoever is shown only what is wrong has no use for its folder.
        why = _first_line(error, path)
        raise InputError(f"not a readable image ({why})", remedy=_AGAIN, path=path) from error
    if not isinstance(image, FORMATS):
        kind = type(image).__name__.removesuffix("Image")
        raise no_scan_format(kind, path)
    return image, tuple(repairs)


def _loaded(path: Path, repairs: list[str]) -> SpatialImage:
    try:
        return nib.load(path)  # type: ignore[return-value]
    except HeaderDataError as error:
        if "invalid intercept" not in str(error):
            raise
    # A slope without intercept (NaN) means none: nibabel writes NaN in both for "no scaling".
    kind: Any = nib.Nifti2Image if _is_nifti2(path) else nib.Nifti1Pair if _is_pair(path) else nib.Nifti1Image
    files = kind.filespec_to_file_map(str(path))
    with files.get("header", files["image"]).get_prepare_fileobj("rb") as file:
        header = kind.header_class.from_fileobj(file)
    header["scl_inter"] = 0
    repairs.append("the header has a scaling slope and no intercept (NaN); 0 was used")
    image: SpatialImage = kind(ArrayProxy(files["image"].filename, header), None, header, file_map=files)
    return image


def _is_pair(path: Path) -> bool:
    return path.suffix.lower() in (".img", ".hdr")


def _is_nifti2(path: Path) -> bool:
    start = first_bytes(path, 540)
    kind: Any = nib.Nifti2Header
    return bool(kind.may_contain_header(start))


def load_array(image: SpatialImage, path: Path | None) -> tuple[npt.NDArray[np.generic], tuple[str, ...]]:
    """Read the voxels, with the header's slope and intercept applied, and say what looks odd about the file.

    Raises:
        InputError: If the header declares more than the file holds or than 10**9 voxels, or a value type that is not
            one real number per voxel.
    """
    odd = check_voxels_stored(image, path)
    try:
        # A wild slope may overflow: the infinite voxels are found and reported by clean_values.
        with np.errstate(all="ignore"):
            return np.asanyarray(image.dataobj), odd
    except Exception as error:
        raise InputError(f"the voxels cannot be read ({_first_line(error)})", remedy=_AGAIN, path=path) from error


def check_voxels_stored(image: SpatialImage, path: Path | None) -> tuple[str, ...]:
    """Say whether the voxels can be read, and what is odd about how they lie there, without holding them in memory.

    Raises:
        InputError: As for :func:`load_array`.
    """
    try:
        # Of an image in memory the header's type is only what it would be saved as.
        stored: Any = image.dataobj
        dtype = np.dtype(stored.dtype)
    except Exception as error:
        raise InputError(f"unknown value type ({_first_line(error)})", remedy=_AGAIN, path=path) from error
    if dtype.kind not in "biuf":
        raise InputError(
            "the image holds color or complex values",
            remedy="give the magnitude image, one number per voxel",
            path=path,
        )
    return _check_declared(image, image.dataobj.offset, dtype, path) if isinstance(image.dataobj, ArrayProxy) else ()


def _check_declared(
    image: SpatialImage, offset: int, dtype: np.dtype[np.generic], path: Path | None
) -> tuple[str, ...]:
    voxels = prod(int(n) for n in image.shape)
    check_voxels(voxels, path)
    filename = image.file_map["image"].filename
    if filename is None:  # read from a stream, which has no size to compare with
        return ()
    needed = int(offset) + voxels * dtype.itemsize
    held = stored_bytes(Path(filename), needed)
    if held < needed:
        raise InputError(
            f"truncated: the header declares {needed} bytes, the file holds {held}",
            remedy=_AGAIN,
            path=path,
        )
    # FreeSurfer keeps tags behind the voxels; nothing belongs behind those of NIfTI.
    if held == needed or isinstance(image, nib.MGHImage):
        return ()
    return (f"the file holds {held - needed} bytes more than its header declares",)


def _first_line(error: Exception, path: Path | None = None) -> str:
    text = str(error).strip() or type(error).__name__
    return (text if path is None else text.replace(str(path), path.name)).splitlines()[0][:120]


# The values.


def clean_values(data: npt.NDArray[np.generic], path: Path | None) -> tuple[npt.NDArray[np.float32], tuple[str, ...]]:
    """Return the intensities as finite float32, with what was repaired or looks odd.

    Values are weighed by size and place, not only counted:

    - NaN or infinite voxels become 0: up to 5 % anywhere, any number of NaN around the head (a stripped background).
    - MP2RAGE images from -0.5 to 0.5 are shifted by 0.5.
    - Negative values up to 5 % of the bright ones come from interpolation or filtering and stay, as do few others.
    - Negative voxels as far from 0 as the bright ones beside them are integers that have wrapped: refused.

    Raises:
        InputError: If the values are not plain numbers, too many are not finite, or they are empty, constant, beyond
            1e12 or below 1e-12, too close to each other, wrapped, or in good part clearly negative.

    Example:
        >>> values, repaired = clean_values(np.array([1.0, 2.0, np.nan] + 60 * [3.0]), None)
        >>> float(values[2]), repaired
        (0.0, ('1 voxel was NaN or infinite and was set to 0',))
    """
    if data.dtype.kind not in "biuf":
        raise InputError(
            "the image holds color or complex values",
            remedy="give the magnitude image, one number per voxel",
            path=path,
        )
    data, repaired = _finite(data, path)
    low, high = float(data.min()), float(data.max())
    if max(-low, high) > MAX_MAGNITUDE:
        raise InputError(
            f"intensities reach {max(-low, high):.1e}",
            remedy="check the scaling (scl_slope) in the header or convert the scan again",
            path=path,
        )
    if 0 < max(-low, high) < MIN_MAGNITUDE or 0 < high - low < MIN_STEPS * float(
        np.spacing(np.float32(max(-low, high)))
    ):
        raise InputError(
            f"intensities from {low:.6g} to {high:.6g} are too close to each other",
            remedy="check the scaling (scl_slope, scl_inter) in the header or convert the scan again",
            path=path,
        )
    # After the magnitude check, so the cast cannot overflow; always a copy, so the caller's array and
    # memory-mapped files stay out of reach.
    values = np.array(data, dtype=np.float32)
    if not values.any():
        raise InputError("the image is empty, every voxel is 0", remedy="check the conversion", path=path)
    if values.min() == values.max():
        raise InputError(f"the image is constant, every voxel is {low:g}", remedy="check the conversion", path=path)
    if low < 0:
        values, weighed = _negative(values, path)
        repaired = (*repaired, *weighed)
    return values, repaired


def _finite(data: npt.NDArray[np.generic], path: Path | None) -> tuple[npt.NDArray[np.generic], tuple[str, ...]]:
    if data.dtype.kind != "f":
        return data, ()
    bad = ~np.isfinite(data)
    count = int(np.count_nonzero(bad))
    if count == 0:
        return data, ()
    if count <= MAX_NONFINITE * data.size:
        what = "1 voxel was" if count == 1 else f"{count} voxels were"
        verb = "was" if count == 1 else "were"
        return np.where(bad, 0, data), (f"{what} NaN or infinite and {verb} set to 0",)
    share = count / data.size
    nan = np.isnan(data)
    # A background surrounds the head: it fills most of the border, and nearly all NaN are connected with it.
    around = np.mean(nan[border(data.shape)]) > _MOST_OF_BORDER and share < MAX_BACKGROUND
    if not around or np.count_nonzero(touching_border(nan)) < (1 - MAX_NONFINITE) * count:
        raise InputError(
            f"{share:.0%} of the voxels are NaN or infinite",
            remedy="convert the scan again or repair the step that wrote it",
            path=path,
        )
    return np.where(bad, 0, data), (f"the background, {share:.0%} of the voxels, was NaN and was set to 0",)


def touching_border(region: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The part of a region that is connected with the border of the array.

    Example:
        >>> touching_border(np.array([True, False, True, False]))
        array([ True, False, False, False])
    """
    labels, _ = ndimage.label(region)
    at_border = np.unique(labels[border(region.shape)])
    return np.isin(labels, at_border[at_border > 0])


def border(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The outermost voxels of an array.

    Example:
        >>> int(border((4, 4, 4)).sum())
        56
    """
    inner = np.zeros(shape, bool)
    inner[tuple(slice(1, -1) for _ in shape)] = True
    return ~inner


def _negative(values: Float, path: Path | None) -> tuple[Float, tuple[str, ...]]:
    """The values, and what is to be said about those below 0."""
    low, high = float(values.min()), float(values.max())
    below = values < 0
    share = np.count_nonzero(below) / np.count_nonzero(values)
    # Of a few wild voxels neither end should be taken.
    bright = float(np.quantile(values[values > 0], 0.99)) if high > 0 else 0.0
    depth = -float(np.quantile(values[below], 0.01))
    if share > MAX_NEGATIVE and -0.55 <= low < -0.3 and 0.3 < high <= 0.55:
        # A background that was masked away is 0 already.
        outside = (values == 0) & (np.mean(values[border(values.shape)] == 0) > _MOST_OF_BORDER)
        shifted = np.where(outside, np.float32(0), np.maximum(values + np.float32(0.5), 0)).astype(np.float32)
        return shifted, ("values from -0.5 to 0.5, as an MP2RAGE image (UNIT1) has them, were shifted by 0.5",)
    if share <= _MOST_WRAPPED and _wrapped(values, bright):
        raise InputError(
            "bright voxels have wrapped to negative numbers: more than its integers can hold was written to them",
            remedy="convert the scan again from its source, as unsigned integers (uint16) or with a scaling slope",
            path=path,
        )
    # Cubic resampling of a stripped head rings: deep at its edge, everywhere in sign, yet of no weight.
    weight = -float(values[below].sum(dtype=np.float64)) / max(float(values[values > 0].sum(dtype=np.float64)), 1e-30)
    if share > MAX_NEGATIVE and depth > MAX_NEGATIVE * bright and weight > MAX_NEGATIVE:
        wrapped = ", or of integers that have wrapped" if _wrapped(values, bright) else ""
        raise InputError(
            f"{share:.0%} of the image is negative, as in CT, phase or z-scored images{wrapped}",
            remedy="give the MR magnitude image from before any intensity normalization",
            path=path,
        )
    size = f", down to {-depth / bright:.1%} of the bright ones" if bright > 0 else ""
    return values, (f"{share:.2g} of the voxels that are not 0 are negative{size}; they were kept",)


def _wrapped(values: Float, bright: float) -> bool:
    """Whether voxels at the lower end lie beside voxels at the upper end: integers go on at the other end."""
    high, low = float(values.max()), float(values.min())
    if low > -high / 2:
        return False
    deep = values < low / 2
    beside = ndimage.maximum_filter(values, 3) > max(high, bright) / 2
    both = np.count_nonzero(deep & beside)
    # Of a large wrapped region only the rim lies beside bright voxels.
    return bool(both >= max(_FEWEST_WRAPPED, np.count_nonzero(deep) / 100))
