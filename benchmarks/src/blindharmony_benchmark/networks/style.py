r"""Style transfer: a generator gives a slice's content the style of a reference slice, by adaptive normalisation.

.. math:: \min_{G, E}\; (D_r(\hat x) - 1)^2 + |E(\hat x) - E(r)| + \lambda |G(\hat x, E(x)) - x|
          + \tfrac\lambda2 |G(x, E(x)) - x|, \qquad \hat x = G(x, E(r))

:math:`x` is a patch of one scanner, :math:`r` a reference patch of the other, :math:`D_r` the discriminator's output
for the reference's scanner, :math:`\lambda = 10`. Axial slices of both scanners, unpaired; the reference at test time
is one target scan. Styles always come from a reference image: the random styles of the published system serve many
scanners, here are two. The generator corrects the slice and starts as the identity.

Source: Liu et al. 2021, "Style transfer using generative adversarial networks for multi-site MRI harmonization"
(MICCAI 2021); StarGAN v2, Choi et al. 2020 (arXiv 1912.01865), section 2.2, with the least squares of the other
networks here; adaptive instance normalisation, Huang & Belongie 2017 (arXiv 1703.06868).
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from blindharmony.training.loop import Row, Task, Update
from blindharmony_benchmark.networks.learning import OPTIMIZER, Trained, centred, critic, least_squares
from blindharmony_benchmark.networks.unpaired import Domain, Patches, away, axial, both_domains, judged
from blindharmony_benchmark.system import Material, Picture, Sees

#: Numbers of a style.
STYLE = 16
_WIDTHS, _SLOPE = (8, 24, 48), 0.2


class AdaptiveNorm(nn.Module):
    r"""Normalised inside the mask, then with the style's own spread and level.

    .. math:: (1 + \gamma(s)) \frac{h - \mu}{\sigma} + \beta(s)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.affine = nn.Linear(STYLE, 2 * width)

    def forward(self, h: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        """Features ``(B, C, H, W)``, mask ``(B, 1, H, W)``, style ``(B, 16)``."""
        count = mask.sum((2, 3), keepdim=True).clamp_min(1)
        mean = (h * mask).sum((2, 3), keepdim=True) / count
        spread = ((h - mean).square() * mask).sum((2, 3), keepdim=True) / count
        gamma, beta = self.affine(style)[:, :, None, None].chunk(2, 1)
        out: Tensor = (1 + gamma) * (h - mean) * torch.rsqrt(spread + 1e-5) + beta
        return out


class Generator(nn.Module):
    """Image, mask and style to the image in that style, zero outside the mask.

    The content comes from an encoder of three scales, the style enters at every scale of the decoder.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c = _WIDTHS
        self.enter = _convolution(2, a)
        self.down = nn.ModuleList([_convolution(a, b, stride=2), _convolution(b, c, stride=2)])
        self.deep = nn.ModuleList([_convolution(c, c), _convolution(c, c)])
        self.up = nn.ModuleList([_convolution(c + b, b), _convolution(b + a, a)])
        self.norms = nn.ModuleList(AdaptiveNorm(w) for w in (c, c, b, a))
        self.leave = nn.Conv2d(a, 1, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor, mask: Tensor, style: Tensor) -> Tensor:
        """The image in the style; one style may serve all slices."""
        style = style.expand(len(image), -1)
        masks = [mask, F.max_pool2d(mask, 2), F.max_pool2d(mask, 4)]
        found = [_bent(self.enter(torch.cat([centred(image), mask], 1)))]
        for layer in self.down:
            found.append(_bent(layer(found[-1])))
        h = found[2]
        for layer, norm in zip(self.deep, self.norms, strict=False):
            h = h + _bent(norm(layer(h), masks[2], style))
        for k, layer in enumerate(self.up):
            h = F.interpolate(h, scale_factor=2.0, mode="bilinear", align_corners=False)
            h = _bent(self.norms[2 + k](layer(torch.cat([h, found[1 - k]], 1)), masks[1 - k], style))
        change: Tensor = self.leave(h)
        return mask * (image + change)


class StyleEncoder(nn.Module):
    """Image and mask to the style, ``(B, 16)``: means of features inside the mask.

    Either scanner has an output of its own, as in StarGAN v2, and a style has mean 0 and spread 1: the loss that asks
    for the same style back would otherwise be happiest with no style at all.
    """

    def __init__(self) -> None:
        super().__init__()
        a, b, c = _WIDTHS
        inputs = ((2, a), (a, b), (b, c))
        self.layers = nn.ModuleList(_convolution(*pair, stride=2) for pair in inputs)
        self.codes = nn.ModuleList([nn.Linear(c, STYLE), nn.Linear(c, STYLE)])

    def forward(self, image: Tensor, mask: Tensor, scanner: int) -> Tensor:
        """The style of each slice, taken for one of the scanner."""
        h = torch.cat([centred(image), mask], 1)
        for layer in self.layers:
            h = _bent(layer(h))
        inside = F.max_pool2d(mask, 8)
        means = (h * inside).sum((2, 3)) / inside.sum((2, 3)).clamp_min(1)
        return F.layer_norm(self.codes[scanner](means), (STYLE,))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def _bent(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)


_BATCH = 2
# Weights of giving back the slice, of what is of the scanner already, and of the style.
_CYCLE = 10.0
_IDENTITY = 5.0
_STYLE = 1.0
# Slices of a scan that its style is the mean of, and which of the two scanners is the target.
_REFERENCES = 32
_TARGET = 1


class StyleTask(Task):
    """A generator, a style encoder, a discriminator with an output for either scanner.

    Args:
        source: Scans of the source scanner.
        target: Scans of the target scanner.
        side: Of a patch.
        device: Where it learns.
    """

    def __init__(self, source: Domain, target: Domain, side: int, device: str) -> None:
        self._domains, self._side = (source, target), side
        nets = {"generator": Generator(), "encoder": StyleEncoder(), "critic": critic(2, outputs=2)}
        self.networks = nn.ModuleDict(nets).to(device)
        self.translator, self._encoder, self._critic = (self.networks[k] for k in nets)
        self._adversarial = least_squares()

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """Generator and encoder play against the discriminator."""
        generator = itertools.chain(self.translator.parameters(), self._encoder.parameters())
        return {"generator": list(generator), "critic": list(self._critic.parameters())}

    def step(self, number: int, update: Update) -> Row:
        """Source in the target's style and target in the source's, then the discriminator."""
        rng = self.generator(number)
        both = [d.patches(rng, _BATCH, self._side) for d in self._domains]
        self._critic.requires_grad_(False)
        whole = torch.zeros((), device=both[0].image.device)
        sums = np.zeros(3)
        made = []
        for k, x in enumerate(both):
            own, wanted = self._encoder(*x, k), self._encoder(*both[1 - k], 1 - k)
            new = self.translator(*x, wanted)
            made.append(new)
            fooled = self._says(1 - k, new, x.mask, real=True, critic_learns=False)
            style = (self._encoder(new, x.mask, 1 - k) - wanted.detach()).abs().mean()
            back, same = away(self.translator(new, x.mask, own), x), away(self.translator(*x, own), x)
            whole = whole + fooled + _STYLE * style + _CYCLE * back + _IDENTITY * same
            sums += [back.item(), fooled.item(), style.item()]
        update.descend([whole], "generator")
        self._critic.requires_grad_(True)
        told = torch.zeros_like(whole)
        for k, (x, new) in enumerate(zip(both, made, strict=True)):
            told = told + self._says(k, *x, real=True, critic_learns=True) / 2
            told = told + self._says(1 - k, new.detach(), x.mask, real=False, critic_learns=True) / 2
        update.descend([told], "critic")
        return {"train": sums[0], "fooled": sums[1], "style": sums[2], "told": told.item()}

    def reference_style(self) -> Tensor:
        """The style of the target scan that is nearest to the mean style of all, ``(1, 16)``."""
        with torch.no_grad():
            styles = torch.stack([self._encoder(*p, _TARGET).mean(0) for p in self._references()])
        away = (styles - styles.mean(0)).norm(dim=1)
        return styles[int(away.argmin())][None]

    def _references(self) -> list[Patches]:
        target = self._domains[_TARGET]
        return [target.patches(np.random.default_rng(k), _REFERENCES, self._side, scan=k) for k in range(len(target))]

    def _says(self, domain: int, image: Tensor, mask: Tensor, *, real: bool, critic_learns: bool) -> Tensor:
        found = judged(self._critic, image, mask)[:, domain : domain + 1]
        loss: Tensor = self._adversarial(found, real, critic_learns)
        return loss


class StyleTransfer(Trained):
    """The reference is the training scan whose style is nearest to the mean of all."""

    name: ClassVar[str] = "style-gan"
    sees: ClassVar[Sees] = "target and source scans, unpaired"
    optimizer = OPTIMIZER.model_copy(update={"rate": 1e-3, "betas": (0.5, 0.99)})
    _style: Tensor | None = None

    def task(self, material: Material) -> StyleTask:
        """Generator, style encoder, discriminator, and the scans of both scanners.

        Raises:
            UsageError: If there are no scans of one of them.
        """
        self._style = None
        return StyleTask(*both_domains(material, self.device, self.name), self.device)

    def apply(self, task: StyleTask, scan: Picture, material: Material) -> NDArray[np.float32]:
        """Every slice in the style of the reference."""
        image = np.where(scan.mask, scan.image, 0).astype(np.float32)
        if self._style is None:
            self._style = task.reference_style()
        return axial(image, scan.mask, task.translator, self.device, self._style)
