r"""CycleGAN: two translators between unpaired scans that must undo each other.

.. math:: \min_{G, F}\; (D_t(G s) - 1)^2 + (D_s(F t) - 1)^2 + \lambda \bigl(|F G s - s| + |G F t - t|\bigr)
          + \tfrac\lambda2 \bigl(|G t - t| + |F s - s|\bigr)

:math:`s, t` are patches of axial slices of source and target, :math:`\lambda = 10`, and the discriminators
:math:`D` tell real from made patches by least squares, shown older made ones too. The translators are U-Nets that
correct the slice and start as the identity: those of the paper, trained for hours, would in minutes not give back the
slice they got.

Source: Zhu et al. 2017 (arXiv 1703.10593), section 3 and 4.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blindharmony.training.loop import Row, Task, Tensors, Update
from blindharmony_benchmark.networks.learning import OPTIMIZER, Trained, centred, critic, least_squares, unet
from blindharmony_benchmark.networks.unpaired import Buffer, Domain, away, axial, both_domains, judged
from blindharmony_benchmark.system import Material, Picture, Sees

_BATCH = 2
# Weights of the two translations that must give back the slice, and of what is of the scanner already.
_CYCLE = 10.0
_IDENTITY = 5.0
_WIDTHS = (8, 16, 32, 32, 32, 8)


class Translator(nn.Module):
    """Image and mask, both ``(B, 1, H, W)``, to the image in the other contrast, zero outside the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.correction = unet(2, 1, widths=_WIDTHS)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """The corrected image."""
        change: Tensor = self.correction(torch.cat([centred(image), mask], 1))
        return mask * (image + change)


class Cycle(Task):
    """Two translators, two discriminators.

    Args:
        source: Scans of the source scanner.
        target: Scans of the target scanner.
        side: Of a patch.
        device: Where it learns.
    """

    def __init__(self, source: Domain, target: Domain, side: int, device: str) -> None:
        self._source, self._target, self._side = source, target, side
        nets: dict[str, nn.Module] = {"to_target": Translator(), "to_source": Translator()}
        nets |= {"target_critic": critic(2), "source_critic": critic(2)}
        self.networks = nn.ModuleDict(nets).to(device)
        self.to_target, self._to_source = self.networks["to_target"], self.networks["to_source"]
        self._critics = self.networks["target_critic"], self.networks["source_critic"]
        self._adversarial = least_squares()
        self._buffers = {"target": Buffer(), "source": Buffer()}

    def parameters(self) -> dict[str, list[nn.Parameter]]:
        """Translators and discriminators play against each other."""
        translators = itertools.chain(self.to_target.parameters(), self._to_source.parameters())
        critics = itertools.chain(*(c.parameters() for c in self._critics))
        return {"translators": list(translators), "critics": list(critics)}

    def step(self, number: int, update: Update) -> Row:
        """Translators first, then discriminators."""
        rng = self.generator(number)
        s, t = (d.patches(rng, _BATCH, self._side) for d in (self._source, self._target))
        for c in self._critics:
            c.requires_grad_(False)
        as_target, as_source = self.to_target(*s), self._to_source(*t)
        pairs = (as_target, s.mask, self._critics[0]), (as_source, t.mask, self._critics[1])
        fooled = torch.stack([self._says(c, x, m, real=True, critic_learns=False) for x, m, c in pairs]).sum()
        back = away(self._to_source(as_target, s.mask), s) + away(self.to_target(as_source, t.mask), t)
        same = away(self.to_target(*t), t) + away(self._to_source(*s), s)
        update.descend([fooled + _CYCLE * back + _IDENTITY * same], "translators")
        for c in self._critics:
            c.requires_grad_(True)
        told = torch.zeros(())
        for real, made, mask, name, c in (
            (t, as_target, s.mask, "target", self._critics[0]),
            (s, as_source, t.mask, "source", self._critics[1]),
        ):
            shown = self._buffers[name].mixed(torch.cat([made, mask], 1), rng)
            wrong = self._says(c, shown[:, :1], shown[:, 1:], real=False, critic_learns=True)
            told = told + (wrong + self._says(c, *real, real=True, critic_learns=True)).cpu() / 2
        update.descend([told], "critics")
        return {"train": float(back.item()), "fooled": fooled.item(), "told": float(told.item()), "same": same.item()}

    def memory(self) -> Tensors:
        """The images that were made lately."""
        return {name: torch.stack(b.kept) for name, b in self._buffers.items() if b.kept}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Take them up again."""
        device = next(self.networks.parameters()).device
        for name, buffer in self._buffers.items():
            buffer.kept = list(memory[name].to(device)) if name in memory else []

    def _says(self, critic: nn.Module, image: Tensor, mask: Tensor, *, real: bool, critic_learns: bool) -> Tensor:
        loss: Tensor = self._adversarial(judged(critic, image, mask), real, critic_learns)
        return loss


class CycleGAN(Trained):
    """Nothing can be held out: no scan has a truth. The mean of the last weights is taken."""

    name: ClassVar[str] = "cyclegan"
    sees: ClassVar[Sees] = "target and source scans, unpaired"
    optimizer = OPTIMIZER.model_copy(update={"rate": 1e-3, "betas": (0.5, 0.999)})

    def task(self, material: Material) -> Cycle:
        """Translators, discriminators, and the scans of both scanners.

        Raises:
            UsageError: If there are no scans of one of them.
        """
        return Cycle(*both_domains(material, self.device, self.name), self.device)

    def apply(self, task: Cycle, scan: Picture, material: Material) -> NDArray[np.float32]:
        """The translator to the target, slice by slice."""
        image = np.where(scan.mask, scan.image, 0).astype(np.float32)
        return axial(image, scan.mask, task.to_target, self.device)
