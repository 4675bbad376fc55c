r"""Several processes that train one flow: each takes its share of a step's patches, and gradients are added up.

.. math:: g = \frac1B \sum_{j=0}^{B-1} g_j, \qquad g_j \text{ computed by process } j \bmod W

Patch j is the same whoever computes it, so W processes do what one does with the same batch B, up to rounding.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from blindharmony.errors import UsageError

T = TypeVar("T")

# The first process goes on alone after the flow is learnt; the others wait for it.
_PATIENCE = timedelta(days=7)


class Team:
    """The processes that work together; on its own, a process is a team of one.

    Attributes:
        rank: Which of them this is; the first one, 0, alone writes files.
        size: How many there are.

    Example:
        >>> alone = Team()
        >>> alone.first, list(alone.share(3)), alone.agree([4, 5])
        (True, [0, 1, 2], [4, 5])
    """

    def __init__(self, rank: int = 0, size: int = 1, device: str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, device

    @classmethod
    def from_environment(cls, device: str = "cpu") -> Team:
        """The team that ``torchrun`` has started, each process with its own GPU if there are any.

        Raises:
            UsageError: If the processes cannot find each other.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(device=device)
        rank = int(os.environ["RANK"])
        if device.startswith("cuda"):
            device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
            torch.cuda.set_device(device)
        try:
            dist.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            raise UsageError(
                f"the {size} processes cannot find each other ({error})", remedy="start them with torchrun"
            ) from error
        return cls(rank, size, device)

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, count: int) -> Iterable[int]:
        """This process's part of ``count`` pieces of work."""
        return range(self.rank, count, self.size)

    def after_first(self, work: Callable[[], T]) -> T:
        """What the first process does, and the others repeat once its files are there."""
        if not self.first:
            self.wait()
        done = work()
        if self.first:
            self.wait()
        return done

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()

    def add_gradients(self, module: nn.Module) -> None:
        """Every gradient becomes the sum over the team."""
        if self.size > 1:
            found = [p.grad for p in module.parameters() if p.grad is not None]
            flat = torch.cat([g.flatten() for g in found])
            dist.all_reduce(flat)
            for gradient, part in zip(found, torch.split(flat, [g.numel() for g in found]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def total(self, value: float) -> float:
        """The sum of a number over the team."""
        if self.size == 1:
            return value
        number = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(number)
        return number.item()

    def agree(self, values: Sequence[int]) -> list[int]:
        """The first process's numbers."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, device=self.device)
        dist.broadcast(numbers, 0)
        return [int(v) for v in numbers.tolist()]

    def same_weights(self, module: nn.Module) -> None:
        """Every process takes the first one's weights."""
        if self.size > 1:
            with torch.no_grad():
                for value in module.state_dict().values():
                    dist.broadcast(value, 0)

    def leave(self) -> None:
        """The work is done: all come here, then the group's threads end before the interpreter does.

        Left to the interpreter's end, a thread that is still running there aborts the process.
        """
        if self.size > 1:
            self.wait()
            dist.destroy_process_group()
            gc.collect()


@dataclass(frozen=True)
class Compute:
    """Where and how a flow trains.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        batch: Patches a step; a multiple of the team's size.
        mixed: Whether convolutions compute in bfloat16; couplings and log-dets never do.
        team: The processes that share the patches of each step.

    Raises:
        UsageError: If the batch cannot be shared evenly.

    Example:
        >>> Compute().device
        'cpu'
    """

    device: str = "cpu"
    batch: int = 1
    mixed: bool = False
    team: Team = field(default_factory=Team)

    def __post_init__(self) -> None:
        if self.batch < 1 or self.batch % self.team.size:
            raise UsageError(
                f"a batch of {self.batch} cannot be shared by {self.team.size} processes",
                remedy="give a batch that is a multiple of their number",
            )

    def precision(self) -> torch.autocast:
        """The context in which a loss is computed."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.mixed)
