r"""The tissue network: how much of each voxel of a prepared scan is fluid, gray and white matter, in any T1w contrast.

.. math:: p(v) = \operatorname{softmax}\bigl(U(h(x, F(x)), b, t, |r|)\bigr)(v)

:math:`x` is the scan on the template's grid and :math:`F(x)` each voxel's rank among all of the brain's, which no
increasing curve changes. :math:`h` halves the resolution by giving every 2×2×2 block eight channels; with them come the
share :math:`b` of brain, the template :math:`t` and the place :math:`r` in it (millimeters from the middle, left and
right alike). :math:`U` is a U-Net of three scales (2, 4, 8 mm) without normalization, which gives four classes at every
1 mm voxel: fluid and whatever else is no brain tissue, cortical gray, deep gray, white.

The network was taught by :mod:`blindharmony.training.tissue` what anatomy looks like through random contrasts, blur and
noise. It is one file of weights in half precision: no pickle, nothing to download.

Source: U-Net, Çiçek et al. 2016 (arXiv 1606.06650); blocks as channels, Zhang et al. 2018 (FFDNet, arXiv 1710.04026);
random contrasts, Billot et al. 2023 (SynthSeg, arXiv 2107.09559).
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from blindharmony.errors import TargetError
from blindharmony.files import write_bytes
from blindharmony.models.file import checked_network
from blindharmony.models.restorer import ResidualBlock, blocks_as_channels, channels_as_blocks
from blindharmony.preprocessing.grid import mask_box
from blindharmony.preprocessing.registration import load_template

#: Classes that the network tells apart, and the tissue of each: 0 fluid and others, 1 gray, 2 white.
CLASSES = ("fluid", "cortical gray", "deep gray", "white")
TISSUE_OF_CLASS = (0, 1, 1, 2)
#: Ranks of the brain's intensities that stand for their distribution.
RANKS = 257

_ANATOMY = 4  # the template, and the place in it
_SCALE_MM = 100.0


Width = Annotated[int, Field(ge=1, le=4096)]


class TissueSpec(BaseModel):
    """Channels at 2, 4 and 8 mm, and residual blocks at the two coarser scales on the way down."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: tuple[Width, Width, Width] = (24, 32, 64)
    blocks: int = Field(default=2, ge=1, le=16)


class TissueNet(nn.Module):
    """Scan, ranks and brain ``(B, 1, X, Y, Z)`` at 1 mm, anatomy ``(B, 4, X/2, …)``, to logits ``(B, 4, X, Y, Z)``.

    Sides are multiples of 8.

    Example:
        >>> x = torch.rand(1, 1, 16, 16, 16)
        >>> TissueNet(TissueSpec(widths=(8, 8, 8)))(x, x, x > 0, torch.rand(1, 4, 8, 8, 8)).shape
        torch.Size([1, 4, 16, 16, 16])
    """

    def __init__(self, spec: TissueSpec) -> None:
        super().__init__()
        self.spec = spec
        fine, middle, coarse = spec.widths
        self.enter = nn.Conv3d(2 * 8 + 1 + _ANATOMY, fine, 3, padding=1)
        self.down = nn.Conv3d(fine, middle, 2, stride=2)
        self.middle = nn.Sequential(*(ResidualBlock(middle, F.relu) for _ in range(spec.blocks)))
        self.down_again = nn.Conv3d(middle, coarse, 2, stride=2)
        self.coarse = nn.Sequential(*(ResidualBlock(coarse, F.relu) for _ in range(spec.blocks)))
        self.up = nn.ConvTranspose3d(coarse, middle, 2, stride=2)
        self.middle_again = ResidualBlock(middle, F.relu)
        self.up_again = nn.ConvTranspose3d(middle, fine, 2, stride=2)
        self.fine = nn.Conv3d(fine, fine, 3, padding=1)
        self.leave = nn.Conv3d(fine, 8 * len(CLASSES), 1)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(self, image: Tensor, ranks: Tensor, brain: Tensor, anatomy: Tensor) -> Tensor:
        """Logits of the four classes; what lies outside the brain does not count."""
        inside = brain.to(image.dtype)
        blocks = blocks_as_channels(torch.cat([image * inside, ranks * inside], 1))
        x = torch.cat([blocks, F.avg_pool3d(inside, 2), anatomy], 1)
        fine: Tensor = self.enter(x.contiguous(memory_format=torch.channels_last_3d))
        middle = self.middle(self.down(F.relu(fine)))
        coarse = self.coarse(self.down_again(F.relu(middle)))
        middle = self.middle_again(middle + self.up(F.relu(coarse)))
        fine = fine + self.up_again(F.relu(middle))
        fine = fine + self.fine(F.relu(fine))
        return channels_as_blocks(self.leave(F.relu(fine)).contiguous())


@lru_cache(maxsize=1)
def anatomy() -> Tensor:
    """The template and the place in it at 2 mm: intensity, ``|x|``, ``y``, ``z``, shape ``(4, 80, 96, 80)``.

    Example:
        >>> anatomy().shape
        torch.Size([4, 80, 96, 80])
    """
    template = load_template()
    image = F.avg_pool3d(torch.from_numpy(template.data / template.data.max())[None], 2)[0]
    index = torch.stack(torch.meshgrid(*(2 * torch.arange(n) + 0.5 for n in image.shape), indexing="ij"))
    place = index + torch.from_numpy(template.affine[:3, 3]).float().view(3, 1, 1, 1)
    place[0] = place[0].abs()
    return torch.cat([image[None], place / _SCALE_MM])


def rank_knots(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intensities at evenly spaced ranks, strictly increasing, shape ``(257,)``.

    Example:
        >>> rank_knots(np.arange(257, dtype=np.float32))[[0, 128, 256]].round(2)
        array([  0., 128., 256.], dtype=float32)
    """
    knots = np.quantile(values, np.linspace(0, 1, RANKS)).astype(np.float32)
    rising: NDArray[np.float32] = np.maximum.accumulate(knots) + 1e-6 * np.arange(RANKS, dtype=np.float32)
    return rising


def ranks_of(image: NDArray[np.float32], knots: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each voxel's rank, −0.5 for the darkest to 0.5 for the brightest."""
    return (np.interp(image, knots, np.linspace(-0.5, 0.5, RANKS))).astype(np.float32)


class TissueInfo(BaseModel):
    """What a file of weights says about itself.

    Attributes:
        format: Version of the file format.
        spec: Shape of the network.
        steps: Steps of the training.
        held_out: Loss of held-out heads through random scanners.
        data: Which scans taught it.
        licence: Of the weights.
        made_with: Version of this package that trained it.

    Example:
        >>> TissueInfo(steps=100).spec.widths
        (24, 32, 64)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    spec: TissueSpec = TissueSpec()
    steps: int = Field(ge=0)
    held_out: float | None = None
    data: str = ""
    licence: str = ""
    made_with: str = ""


_KEY = "blindharmony-tissue"
_PART = "tissue"
_MAX_BYTES = 1 << 26


def save_tissue(net: TissueNet, info: TissueInfo, path: Path, *, overwrite: bool = False) -> None:
    """Write the weights in half precision; equal weights give equal bytes.

    Raises:
        OutputError: If the file exists and ``overwrite`` is false, or cannot be written.
    """
    weights = {f"{_PART}.{k}": v.detach().cpu().half().contiguous() for k, v in net.state_dict().items()}
    about = info.model_copy(update={"spec": net.spec})
    write_bytes(path, save_tensors(weights, {_KEY: about.model_dump_json()}), overwrite=overwrite)


def load_tissue(path: Path | None = None) -> TissueNet:
    """The network in a file, the included one by default.

    Raises:
        TargetError: If there is no such file, or it is damaged, foreign, or from a newer version.
    """
    return _included() if path is None else _network(path)


def included_tissue() -> Path:
    """The file of the included network.

    Example:
        >>> included_tissue().name
        'tissue.safetensors'
    """
    return Path(str(resources.files("blindharmony.preprocessing").joinpath("assets", "tissue.safetensors")))


@lru_cache(maxsize=1)
def _included() -> TissueNet:
    return _network(included_tissue())


def _network(path: Path) -> TissueNet:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        with safe_open(path, "pt") as file:
            info = TissueInfo.model_validate_json((file.metadata() or {})[_KEY])
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - not a dict
        net = checked_network(_PART, tensors, lambda: TissueNet(info.spec))
    except OSError as error:
        raise TargetError(f"cannot be read ({error.strerror or error})", remedy="check the path", path=path) from None
    except (SafetensorError, KeyError, ValueError) as error:
        what = f"this is no tissue network ({str(error).splitlines()[0][:100]})"
        raise TargetError(what, remedy="give a file that 'make tissue' wrote", path=path) from None
    return net


def tissue_posterior(
    image: NDArray[np.float32], mask: NDArray[np.bool_], net: TissueNet | None = None
) -> NDArray[np.float32]:
    """Shares of fluid (and all that is no brain tissue), gray and white, ``(3, X, Y, Z)``.

    As :func:`class_posterior`, with cortical and deep gray together.
    """
    classes = class_posterior(image, mask, net)
    posterior = np.zeros((3, *mask.shape), np.float32)
    for kind, tissue in enumerate(TISSUE_OF_CLASS):
        posterior[tissue] += classes[kind]
    return posterior


def class_posterior(
    image: NDArray[np.float32], mask: NDArray[np.bool_], net: TissueNet | None = None
) -> NDArray[np.float32]:
    """How much of each voxel is of each of the :data:`CLASSES`, which tell deep gray matter from the cortex.

    Args:
        image: A prepared scan on the template's grid, any T1w contrast, shape ``(X, Y, Z)``.
        mask: Brain.
        net: The included network by default.

    Returns:
        Shares, ``(4, X, Y, Z)``; they add up to 1 inside the mask and are 0 outside.

    Raises:
        ValueError: If the image is not on the template's grid, or the mask is empty.
    """
    if image.shape != mask.shape or image.shape != load_template().data.shape:
        raise ValueError(f"image {image.shape} and mask {mask.shape} are not on the template's grid")
    if not mask.any():
        raise ValueError("the mask is empty")
    # Whole blocks of the coarsest scale around the brain: the grid's sides are multiples of them.
    box = tuple(slice(s.start // 8 * 8, -(-s.stop // 8) * 8) for s in mask_box(mask, margin=4)[0])
    inside = mask[box]
    values = np.where(inside, np.maximum(image[box], 0), 0).astype(np.float32)
    ranks = ranks_of(values, rank_knots(values[inside]))
    parts = [torch.from_numpy(part)[None, None] for part in (values, ranks, inside)]
    half = tuple(slice(s.start // 2, s.stop // 2) for s in box)
    with torch.inference_mode():
        shares = torch.softmax((net or load_tissue())(*parts, anatomy()[(slice(None), *half)][None]), 1)[0].numpy()
    posterior = np.zeros((len(CLASSES), *mask.shape), np.float32)
    posterior[(slice(None), *box)] = shares / shares.sum(0) * inside
    return posterior
