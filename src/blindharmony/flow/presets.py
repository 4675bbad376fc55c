"""Ready-made specifications."""

from __future__ import annotations

from blindharmony.flow.spec import MultiScaleSpec


def published_2d() -> MultiScaleSpec:
    """Return the flow of the published BlindHarmony: 14,486,534 parameters, for 1×144×176 slices.

    Four levels of seven steps (activation norm, 1×1 mixing, spline coupling) and a closing mixing;
    conditioners of three residual blocks of 96 channels with batch norm; images in [0, 1], shifted
    to [−0.5, 0.5], 4080 grey levels (12 bits). It is a reconstruction from the reported settings and
    the number of parameters, which it meets exactly. Known or possible differences, by name:

    * *capped slopes*: raw spline slopes go through 5·tanh(r/5);
    * *capped scales*: log-scales of activation norm within ±5, of the mixing's diagonal within ±2;
    * *mixing with bias, closing mixing*: inferred from the number of parameters;
    * *halves*: even steps transform the first half of the channels, odd ones the second;
    * *zero start*: a new coupling is the identity, and the mixing a random shuffle;
    * *last activation*: conditioners apply a ReLU before the closing 1×1 convolution.

    Source: Jeong et al. 2023 (BlindHarmony), section 4; Durkan et al. 2019, section 5.2.

    Example:
        >>> published_2d().factor
        16
    """
    return MultiScaleSpec(
        ndim=2,
        levels=4,
        steps=7,
        coupling="spline",
        bins=8,
        tail_bound=3.0,
        minimum=1e-3,
        conditioner="residual",
        width=96,
        blocks=3,
        norm="batch",
        closing_mixing=True,
        centre=0.5,
        grey_levels=255 * 16,
    )


def small_2d() -> MultiScaleSpec:
    """Return a spline flow for slices that trains and runs on two CPU cores.

    Example:
        >>> small_2d().factor
        8
    """
    return MultiScaleSpec(
        ndim=2, levels=3, steps=4, coupling="spline", bins=6, width=32, blocks=1, split_prior=True, centre=0.5
    )


def glow_3d() -> MultiScaleSpec:
    """Return a small affine flow for volumes, for comparisons.

    Source: Kingma & Dhariwal 2018 (Glow), in three dimensions.

    Example:
        >>> glow_3d().coupling
        'affine'
    """
    return MultiScaleSpec(
        ndim=3,
        levels=2,
        steps=4,
        coupling="affine",
        conditioner="bottleneck",
        width=24,
        split_prior=True,
        centre=0.5,
    )
