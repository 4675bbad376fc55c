"""Two targets for tests: a small one made without training, and the included one, quicker at bias fields."""

from dataclasses import replace

import numpy as np
import torch

from blindharmony.flows.pyramid import Pyramid, PyramidSpec
from blindharmony.models.file import load_target
from blindharmony.models.target import HeldOut, Target, TargetInfo, atlas_tensor
from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony.preprocessing.registration import load_template

TINY = PyramidSpec(widths=(4, 4, 4, 4), affine_rounds=1, blocks=0, bins=4, dropout=0.0)


def synthetic_target() -> Target:
    """Five people whose scans are the template through slightly different curves."""
    brain = load_template().data
    inside = brain > 0
    levels = (np.arange(128) + 0.5) / 128
    values = brain[inside] / np.sqrt((brain[inside] ** 2).mean())
    curves = np.array([np.quantile(values**g, levels) for g in (0.9, 0.95, 1.0, 1.05, 1.1)])
    torch.manual_seed(0)
    flow = Pyramid(TINY, atlas_tensor()).eval().requires_grad_(False)
    info = TargetInfo(
        name="tiny",
        scans=5,
        recipe=PrepRecipe(n4=False),
        unit=1000.0,
        pyramid=TINY,
        held_out=HeldOut(scans=3, bits_per_dim=(9.0, 9.5, 10.0), level_bits=((9.0,) * 5,) * 3, latent_sd=(1.0,) * 5),
        data="synthetic",
        licence="CC0-1.0",
    )
    coverage = inside.reshape(80, 2, 96, 2, 80, 2).mean((1, 3, 5)).astype(np.float32)
    mean = (brain / brain[inside].mean()).reshape(80, 2, 96, 2, 80, 2).mean((1, 3, 5)).astype(np.float32)
    return Target(info=info, levels=levels, quantiles=curves, coverage=coverage, mean_image=mean, pyramid=flow)


def quick_included_target() -> Target:
    """The included target, all of it, but for the voxels in which bias fields are fitted: 12 mm instead of 4.

    On a scan of 3 mm N4 then takes one second and not twenty.
    """
    target = load_target("ds002748")
    recipe = target.info.recipe.model_copy(update={"n4_shrink_mm": 12.0})
    return replace(target, info=target.info.model_copy(update={"recipe": recipe}))
