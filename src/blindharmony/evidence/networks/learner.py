"""What the training loop needs to know about whoever learns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer


class Learner(ABC):
    """Networks, and how they take a step.

    Attributes:
        networks: All of them: what is kept.
        optimisers: Of their parameters, at their highest rate; the loop lowers it.
    """

    networks: nn.ModuleDict
    optimisers: Mapping[str, Optimizer]

    @abstractmethod
    def step(self, rng: np.random.Generator, number: int) -> dict[str, float]:
        """One step, everything random in it from ``rng``; its losses, the most telling one first."""

    def score(self) -> float | None:
        """A loss on what nothing is learnt from, or None if there is no such thing: the last weights count then."""
        return None

    def memory(self) -> dict[str, Tensor]:
        """What a step depends on besides weights and ``rng``."""
        return {}

    def recall(self, memory: Mapping[str, Tensor]) -> None:
        """Take up such a memory."""
        if memory:
            raise ValueError("nothing is remembered here")
