r"""How style transfer learns.

.. math:: \min_{G, E}\; (D_r(\hat x) - 1)^2 + |E(\hat x) - E(r)| + \lambda |G(\hat x, E(x)) - x|
          + \tfrac\lambda2 |G(x, E(x)) - x|, \qquad \hat x = G(x, E(r))

:math:`x` a patch of one scanner, :math:`r` a reference patch of the other, :math:`D_r` the discriminator's output for
the reference's scanner, :math:`\lambda = 10`.

Source: StarGAN v2, Choi et al. 2020 (arXiv 1912.01865), section 2.2, with the least squares of the other networks here.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from blindharmony.evidence.networks.learner import Learner
from blindharmony.evidence.networks.parts import critic, least_squares
from blindharmony.evidence.networks.style_nets import Generator, StyleEncoder
from blindharmony.evidence.networks.unpaired import Domain, Patches, away, judged

_RATE, _BATCH, _CYCLE, _IDENTITY, _STYLE = 1e-3, 2, 10.0, 5.0, 1.0
_REFERENCES, _TARGET = 32, 1


class StyleLearner(Learner):
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
        self.generator, self._encoder, self._critic = (self.networks[k] for k in nets)
        made = itertools.chain(self.generator.parameters(), self._encoder.parameters())
        groups = {"generator": list(made), "critic": list(self._critic.parameters())}
        self.optimisers = {k: torch.optim.Adam(p, lr=_RATE, betas=(0.5, 0.99)) for k, p in groups.items()}
        self._adversarial = least_squares()

    def step(self, rng: np.random.Generator, number: int) -> dict[str, float]:
        """Source in the target's style and target in the source's, then the discriminator."""
        both = [d.patches(rng, _BATCH, self._side) for d in self._domains]
        self._critic.requires_grad_(False)
        whole = torch.zeros((), device=both[0].image.device)
        sums = np.zeros(3)
        made = []
        for k, x in enumerate(both):
            own, wanted = self._encoder(*x, k), self._encoder(*both[1 - k], 1 - k)
            new = self.generator(*x, wanted)
            made.append(new)
            fooled = self._says(1 - k, new, x.mask, real=True, critic_learns=False)
            style = (self._encoder(new, x.mask, 1 - k) - wanted.detach()).abs().mean()
            back, same = away(self.generator(new, x.mask, own), x), away(self.generator(*x, own), x)
            whole = whole + fooled + _STYLE * style + _CYCLE * back + _IDENTITY * same
            sums += [back.item(), fooled.item(), style.item()]
        self._descend("generator", whole)
        self._critic.requires_grad_(True)
        told = torch.zeros_like(whole)
        for k, (x, new) in enumerate(zip(both, made, strict=True)):
            told = told + self._says(k, *x, real=True, critic_learns=True) / 2
            told = told + self._says(1 - k, new.detach(), x.mask, real=False, critic_learns=True) / 2
        self._descend("critic", told)
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

    def _descend(self, name: str, loss: Tensor) -> None:
        self.optimisers[name].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimisers[name].step()
