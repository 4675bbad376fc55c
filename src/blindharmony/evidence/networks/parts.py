"""Networks and losses from MONAI, which is imported only when something is learnt.

Source: MONAI, Cardoso et al. 2022 (arXiv 2211.02701).
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import cast

from torch import nn

from blindharmony.errors import UsageError

#: Sides of what a U-Net takes are multiples of this.
MULTIPLE = 16
_WIDTHS = (16, 16, 32, 64, 64, 16)


def monai(module: str) -> ModuleType:
    """A module of MONAI.

    Raises:
        UsageError: If MONAI is not installed.
    """
    try:
        return import_module(f"monai.{module}")
    except ImportError:
        raise UsageError("MONAI is not installed", remedy="pip install 'blindharmony[benchmark]'") from None


def unet(inputs: int, outputs: int, *, widths: tuple[int, ...] = _WIDTHS, silent: bool = True) -> nn.Module:
    """A U-Net of slices with five scales, ``(B, inputs, H, W)`` to ``(B, outputs, H, W)``, without normalisation.

    What a voxel becomes depends on its intensity itself: normalising a slice by its own mean would lose that.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        widths: Channels of each scale, and of the last one.
        silent: Whether it begins with zeros, as a correction that corrects nothing.

    Raises:
        UsageError: If MONAI is not installed.

    Source: Ronneberger et al. 2015 (arXiv 1505.04597).
    """
    made = monai("networks.nets").BasicUNet(
        spatial_dims=2,
        in_channels=inputs,
        out_channels=outputs,
        features=widths,
        norm=None,
        # Transposed convolutions leave a chessboard in what is nearly the image already.
        upsample="nontrainable",
    )
    if silent:
        nn.init.zeros_(made.final_conv.weight)
        nn.init.zeros_(made.final_conv.bias)
    return cast(nn.Module, made)


def critic(inputs: int, *, outputs: int = 1, width: int = 16, layers: int = 2) -> nn.Module:
    """A discriminator of patches; its last output is ``(B, outputs, H', W')``.

    Without normalisation, so that it notices a wrong brightness.

    Raises:
        UsageError: If MONAI is not installed.

    Source: Isola et al. 2017 (arXiv 1611.07004).
    """
    made = monai("networks.nets").PatchDiscriminator(
        spatial_dims=2, channels=width, in_channels=inputs, out_channels=outputs, num_layers_d=layers, norm=None
    )
    # Its own first weights are so small that a short training is over before it notices anything.
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return cast(nn.Module, made)


def least_squares() -> nn.Module:
    """The adversarial loss of squares, called with discriminator outputs and whether they are to be real.

    Raises:
        UsageError: If MONAI is not installed.

    Source: Mao et al. 2017 (arXiv 1611.04076).
    """
    return cast(nn.Module, monai("losses").PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True))


def overlap_and_entropy() -> nn.Module:
    """Cross-entropy plus one minus the mean Dice of all classes; logits and labels ``(B, 1, H, W)``.

    Raises:
        UsageError: If MONAI is not installed.

    Source: Milletari et al. 2016 (arXiv 1606.04797); Isensee et al. 2021.
    """
    made = monai("losses").DiceCELoss(to_onehot_y=True, softmax=True, batch=True)
    return cast(nn.Module, made)


def count(network: nn.Module) -> int:
    """Numbers that a network learns.

    Example:
        >>> count(nn.Linear(2, 3))
        9
    """
    return sum(p.numel() for p in network.parameters())
