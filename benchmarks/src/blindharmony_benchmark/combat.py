r"""ComBat: the shift and spread that a site gives each feature, shrunk towards what it gives them all, taken out.

For subject :math:`j` of site :math:`i` and feature :math:`v`, with covariates :math:`X` that are to be kept (age, sex),

.. math:: y_{ijv} = \alpha_v + X_j \beta_v + \gamma_{iv} + \delta_{iv}\, \varepsilon_{ijv}, \qquad
          \varepsilon_{ijv} \sim N(0, \sigma_v^2)

:math:`\alpha, \beta, \sigma` by least squares give standardized data :math:`z`. The features of one site share priors
:math:`\gamma_{iv} \sim N(\bar\gamma_i, \tau_i^2)` and :math:`\delta_{iv}^2 \sim \Gamma^{-1}(\lambda_i, \theta_i)`,
whose numbers are the moments of the site's estimates. The posterior means solve

.. math:: \gamma^* = \frac{n \tau^2 \hat\gamma + \delta^{*2} \bar\gamma}{n \tau^2 + \delta^{*2}}, \qquad
          \delta^{*2} = \frac{\theta + \tfrac12 \sum_j (z_j - \gamma^*)^2}{n / 2 + \lambda - 1}

and the result is :math:`\sigma (z - \gamma^*) / \delta^* + \alpha + X \beta`.

Source: Johnson, Li & Rabinovic 2007, Biostatistics 8, 118-127; for MR images Fortin et al. 2017 and 2018.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from blindharmony.errors import UsageError

Array = NDArray[np.floating[Any]]

_CLOSE, _TURNS = 1e-4, 200
_CONSTANT = 1e-6  # spread of a feature that is the same for all, relative to its size


def combat(
    features: Array, site: NDArray[Any], covariates: Array | None = None, reference: object | None = None
) -> Array:
    """Features without the effects of their sites.

    Args:
        features: Shape ``(subjects, features)``, finite; a feature that is the same for all stays as it is.
        site: Of each subject, shape ``(subjects,)``.
        covariates: Numbers whose effect is kept, shape ``(subjects, covariates)``.
        reference: The site to which all others are brought, whose own subjects stay as they are; the mean of all
            subjects if not given.

    Returns:
        Shape and type of ``features``; float64 if they are whole numbers.

    Raises:
        UsageError: If shapes do not fit, a number is not finite, there is no such reference, too few subjects are
            there to tell people from sites, or a covariate cannot be told from the sites.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> people, site = rng.normal(10, 1, (80, 5)), np.repeat(["a", "b"], 40)
        >>> scanned = np.where(site[:, None] == "b", 1.5 * people + 3, people)
        >>> found = combat(scanned, site, reference="a")
        >>> bool(np.array_equal(found[:40], people[:40])), bool(np.abs(found - people).mean() < 0.3)
        (True, True)
    """
    y = np.asarray(features)
    y = y if np.issubdtype(y.dtype, np.floating) else y.astype(np.float64)
    kept = np.empty((len(y), 0)) if covariates is None else np.asarray(covariates, np.float64).reshape(len(y), -1)
    _check(y, np.asarray(site), kept, reference)
    sites, place = np.unique(np.asarray(site), return_inverse=True)
    home = None if reference is None else int(np.flatnonzero(sites == reference)[0])
    count = len(sites)
    design = _design(place, count, kept - kept.mean(0))
    # Everything as large as the features has their type: voxels of many scans are gigabytes.
    effects = np.linalg.pinv(design).astype(y.dtype) @ y
    level = (np.bincount(place) / len(y)).astype(y.dtype) @ effects[:count] if home is None else effects[home]
    common = level + design[:, count:].astype(y.dtype) @ effects[count:]
    judged = slice(None) if home is None else place == home
    spread = np.sqrt(np.mean(np.square(y[judged] - design[judged].astype(y.dtype) @ effects), 0))
    varies = spread > _CONSTANT * np.abs(y).max(0)
    out = y.copy()
    for k in range(count):
        if k != home:
            where = np.ix_(place == k, varies)
            shift, scale = site_effect((y[where] - common[where]) / spread[varies])
            out[where] = common[where] + ((y[where] - common[where]) - spread[varies] * shift) / scale
    return out


def _check(y: Array, site: NDArray[Any], kept: Array, reference: object | None) -> None:
    if y.ndim != 2 or site.shape != (len(y),):
        raise UsageError(f"{y.shape} features and {site.shape} sites", remedy="give a row and a site for each subject")
    if not (np.isfinite(y).all() and np.isfinite(kept).all()):
        raise UsageError("a feature or covariate is no finite number", remedy="leave such subjects or features out")
    if reference is not None and np.count_nonzero(site == reference) < 2:
        raise UsageError(f"hardly anybody is of the reference '{reference}'", remedy="choose a site with two or more")


def _design(place: NDArray[np.intp], sites: int, kept: Array) -> NDArray[np.float64]:
    design = np.hstack([np.eye(sites)[place], kept])
    if len(design) <= design.shape[1]:
        raise UsageError(
            f"{len(design)} subjects cannot tell people from {sites} sites and {kept.shape[1]} covariates",
            remedy="add subjects, or leave sites with one subject out",
        )
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise UsageError("a covariate cannot be told from the sites or the others", remedy="leave it out")
    return design


def site_effect(z: Array) -> tuple[Array, Array]:
    """The shift and the spread that one site gives standardized features, each shrunk towards all features' own.

    Args:
        z: Standardized features of the site's subjects, shape ``(subjects, features)``.

    Returns:
        Shift and spread, both ``(features,)``. One subject tells no spread: it is 1. A single feature has no others
        to learn from, and both are as measured.

    Example:
        >>> shift, scale = site_effect(np.random.default_rng(0).normal(2, 3, (50, 200)))
        >>> round(float(shift.mean()), 1), round(float(scale.mean()), 1)
        (2.0, 3.0)
    """
    n, features = z.shape
    measured = z.mean(0)
    variance = z.var(0, ddof=1) if n > 1 else np.ones_like(measured)
    if features < 2:
        return measured, np.sqrt(np.maximum(variance, _CONSTANT))
    prior, width = measured.mean(), measured.var(ddof=1)
    mean, between = variance.mean(), variance.var(ddof=1)
    shift, square = measured, variance
    for _ in range(_TURNS):
        before = shift, square
        shift = (n * width * measured + square * prior) / (n * width + square)
        if between > 0:
            # Multiplied by the variance between features, since with none the prior is a point.
            shape, rate = mean**2 + 2 * between, mean**3 + mean * between
            squares = (n - 1) * variance + n * np.square(measured - shift)
            square = (rate + between * squares / 2) / (between * (n / 2 - 1) + shape)
        moved = max(float(np.abs(now - then).max()) for now, then in zip((shift, square), before, strict=True))
        if moved < _CLOSE * float(mean):
            break
    return shift, np.sqrt(np.maximum(square, _CONSTANT))
