"""The network that finds the brain: a 3-D LinkNet with the published deepbet weights.

Architecture: Chaurasia & Culurciello, "LinkNet" (2017), in 3-D with instance norm; weights and use: Fisch et
al., "deepbet: Fast brain extraction of T1-weighted MRI", Comput. Biol. Med. 179 (2024), MIT licence (see
NOTICE). They are stored here as safetensors, half precision: no pickle, nothing to download.
"""

from __future__ import annotations

from importlib import resources

import torch
import torch.nn.functional as F
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn


class _Unit(nn.Sequential):
    """Convolution → instance norm → optional ReLU, the unit everything here is made of."""

    def __init__(self, conv: nn.Module, channels: int, *, relu: bool = True) -> None:
        layers = [conv, nn.InstanceNorm3d(channels)]
        super().__init__(*layers, nn.ReLU(inplace=True)) if relu else super().__init__(*layers)


class _Block(nn.Module):
    """Two 3×3×3 convolutions with a shortcut, the first with a stride."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            *_Unit(nn.Conv3d(cin, cout, 3, stride, 1, bias=False), cout),
            *_Unit(nn.Conv3d(cout, cout, 3, 1, 1, bias=False), cout, relu=False),
        )
        self.downsample = _Unit(nn.Conv3d(cin, cout, 1, stride, bias=False), cout, relu=False) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.double_conv(x) + shortcut)


class _Down(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.block1, self.block2 = _Block(cin, cout, stride), _Block(cout, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.block2(self.block1(x))  # type: ignore[no-any-return]


class _Up(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        mid = cin // 4
        self.conv1 = _Unit(nn.Conv3d(cin, mid, 1, bias=False), mid)
        up = nn.ConvTranspose3d(mid, mid, 3, stride, 1, output_padding=stride - 1, bias=False)
        self.tp_conv = _Unit(up, mid)
        self.conv2 = _Unit(nn.Conv3d(mid, cout, 1, bias=False), cout)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.tp_conv(self.conv1(x)))  # type: ignore[no-any-return]


class LinkNet3d(nn.Module):
    """Brain probability of each voxel: ``(B, 1, D, H, W) → (B, 2, D, H, W)``, channel 1 is brain.

    Example:
        >>> LinkNet3d()(torch.zeros(1, 1, 64, 64, 64) + torch.rand(1, 1, 64, 64, 64)).shape
        torch.Size([1, 2, 64, 64, 64])
    """

    def __init__(self) -> None:
        super().__init__()
        self.init = _Unit(nn.Conv3d(1, 16, 7, 2, 3, bias=False), 16)
        self.init.append(nn.MaxPool3d(3, 2, 1))
        self.down0, self.down1 = _Down(16, 16, 1), _Down(16, 32, 2)
        self.down2, self.down3 = _Down(32, 64, 2), _Down(64, 128, 2)
        self.up0, self.up1 = _Up(128, 64, 2), _Up(64, 32, 2)
        self.up2, self.up3 = _Up(32, 16, 2), _Up(16, 16, 1)
        self.tp_conv1 = _Unit(nn.ConvTranspose3d(16, 8, 3, 2, 1, output_padding=1), 8)
        self.conv = _Unit(nn.Conv3d(8, 8, 3, 1, 1), 8)
        self.tp_conv2 = nn.ConvTranspose3d(8, 2, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Brain and background probabilities; every side of ``x`` must be a multiple of 32."""
        x0 = self.init(x)
        x1 = self.down0(x0)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        y = self.up0(self.down3(x3)) + x3
        y = self.up1(y) + x2
        y = self.up2(y) + x1
        y = self.up3(y) + x0
        return torch.softmax(self.tp_conv2(self.conv(self.tp_conv1(y))), 1)


def load_brainnet(name: str) -> LinkNet3d:
    """The stored network ``name``: ``"box"`` finds where the brain is, ``"brain"`` its outline.

    Example:
        >>> sum(p.numel() for p in load_brainnet("box").parameters())
        2126258
    """
    blob = resources.files("blindharmony.prep").joinpath("assets", "deepbet.safetensors").read_bytes()
    tensors = load_safetensors(blob)
    state = {k.removeprefix(f"{name}."): v.float() for k, v in tensors.items() if k.startswith(f"{name}.")}
    net = LinkNet3d()
    net.load_state_dict(state)
    return net.eval().requires_grad_(False)
