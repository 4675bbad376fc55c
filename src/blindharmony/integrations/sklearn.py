"""scikit-learn: an estimator, to stand first in a ``Pipeline``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from blindharmony.api import harmonize, learn_scanner
from blindharmony.errors import TargetError
from blindharmony.integrations.common import MissingLibraryError, checked_options
from blindharmony.io.volume import Source, Volume
from blindharmony.models.file import load_target
from blindharmony.models.target import Target
from blindharmony.settings import HarmonizeSettings
from blindharmony.training.target import train

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils.validation import check_is_fitted
except ImportError as error:
    raise MissingLibraryError("scikit-learn", extra="sklearn") from error

_ONE = (str, PathLike, nib.spatialimages.SpatialImage, np.ndarray, Volume)


class Harmonizer(TransformerMixin, BaseEstimator):
    """Learns a target scanner from its scans (or takes a model that exists), and harmonizes scans to it.

    Warning:
        Without ``target``, ``fit`` trains on whatever it is given, half an hour by default. In a pipeline that is
        fitted on scans of many scanners, give a ``target``: ``fit`` then only loads it.

    Args:
        target: A model, its file, or an included name; None to learn one in ``fit``.
        one_scanner: Whether the scans of one call of ``transform`` are of one scanner, and share its curve.
        model_file: Where ``fit`` writes what it has learnt; nowhere if None.
        training: Options of :func:`~blindharmony.training.target.train`, such as ``{"minutes": 10}``.
        options: Options of :func:`~blindharmony.api.harmonize`, such as ``{"refine": False}``.

    Attributes:
        target_: The target model, after ``fit``.

    Example:
        >>> from sklearn.base import clone
        >>> clone(Harmonizer(target="ds002748")).get_params()["target"]
        'ds002748'
        >>> images = Harmonizer("ds002748").fit().transform(["a.nii.gz", "b.nii.gz"])  # doctest: +SKIP

    A pickle names the target by its file and hash, and has none of its 18 MB; where it is loaded the same file, or an
    included model of the same hash, has to be there. A target that lies in no file goes with the pickle.
    """

    def __init__(
        self,
        target: str | PathLike[str] | Target | None = None,
        *,
        one_scanner: bool = False,
        model_file: str | PathLike[str] | None = None,
        training: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        # scikit-learn wants arguments kept as they came, so that clones are equal.
        self.target, self.one_scanner, self.model_file = target, one_scanner, model_file
        self.training, self.options = training, options

    def fit(self, X: Sequence[str | PathLike[str]] | None = None, y: object = None) -> Harmonizer:
        """Learn the target scanner, or load it.

        Args:
            X: Files of at least five scans of the target scanner; not looked at if ``target`` is given.
            y: Nothing; scikit-learn's pipelines pass it.
        """
        checked_options(self.options or {})
        self._file: str | None = None
        if self.target is not None:
            self.target_ = load_target(self.target if isinstance(self.target, Target) else str(self.target))
            self._file = None if isinstance(self.target, Target) else str(self.target)
            return self
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "target.safetensors") if self.model_file is None else Path(self.model_file)
            train(_listed(() if X is None else X), file, **(self.training or {}))
            self.target_ = load_target(file)
            self._file = None if self.model_file is None else str(file)
        return self

    def transform(self, X: Source | Sequence[Source]) -> nib.Nifti1Image | list[nib.Nifti1Image]:
        """Harmonize one scan or several: an image for a scan, a list for a list.

        Raises:
            NotFittedError: Before ``fit``.
            BlindHarmonyError: If a scan cannot be harmonized.
        """
        check_is_fitted(self)
        alone = isinstance(X, _ONE) and not _names(X)
        scans: list[Any] = [X] if alone else _listed(X)
        options = checked_options(self.options or {})
        if self.one_scanner:
            options["scanner"] = learn_scanner(scans, self.target_, **_of_all_scans(options))
        images = [harmonize(scan, self.target_, **options).image for scan in scans]
        return images[0] if alone else images

    def get_feature_names_out(self, _input_features: object = None) -> NDArray[np.object_]:
        """The one column of what comes out: images.

        With ``set_output(transform="pandas")`` or ``"polars"`` the images of a list stand in a table with this column.
        """
        return np.array(["image"], dtype=object)

    def __sklearn_tags__(self) -> Any:
        """Not a table: files or images go in, one at a time, and nothing has to be fitted if there is a target."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        tags.no_validation = True
        tags.target_tags.required = False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        if state.get("_file") is not None:
            target: Target = state.pop("target_")
            state["_digest"] = target.digest
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        digest = state.pop("_digest", None)
        super().__setstate__(state)
        if digest is None:
            return
        target = load_target(str(self._file))
        if target.digest != digest:
            raise TargetError(
                f"the pickled estimator was fitted to another model ({digest}, here {target.digest})",
                remedy="put that model there, or fit again",
                path=self._file,
            )
        self.target_ = target


def _of_all_scans(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that learning a scanner has too: all settings but the method, which is the curve."""
    shared = {"settings", "cache", *HarmonizeSettings.model_fields} - {"method"}
    return {name: value for name, value in options.items() if name in shared}


def _names(X: object) -> bool:
    """Whether this is an array of names or images, as scikit-learn's own splitters hand them out."""
    return isinstance(X, np.ndarray) and X.dtype.kind in "OUS"


def _listed(X: Any) -> list[Any]:
    return [X] if isinstance(X, str | PathLike) else list(X)
