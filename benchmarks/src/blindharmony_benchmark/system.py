"""What every system under comparison is: taught by what it may see, then given scans of one source scanner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from blindharmony.models.target import Target
from blindharmony.preprocessing.recipe import Prepared

Sees = Literal["nothing", "target scans", "target and source scans, unpaired", "target and source scans, paired"]
Say = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class Picture:
    """A scan on the 1 mm template grid, as all systems get it.

    Attributes:
        subject: Whose head it is.
        image: Prepared, flow units, zero outside the mask, float32, shape ``(X, Y, Z)``.
        mask: Brain, bool, same shape.
        plain: The same without bias correction; equal to ``image`` where the recipe has none.
        prepared: How it was prepared from the scan as it came, where it was.
        labels: Manual tissues (1 CSF, 2 grey, 3 white), where there are any; no system but a segmenter may look.
    """

    subject: str
    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    plain: NDArray[np.float32]
    prepared: Prepared | None = None
    labels: NDArray[np.uint8] | None = None


@dataclass(frozen=True, eq=False)
class Material:
    """What a system may be taught with; never a test subject.

    Attributes:
        target: The target model, trained on ``training``.
        training: Target scans.
        held_out: Target scans for early stopping; part of nobody's training.
        source: Scans of the source scanner, of other people than ``training``'s where there are any.
        pairs: The same heads on both scanners, source first.
        folder: For checkpoints: what was learnt is kept there and not learnt again.
        minutes: Time that a network may train.
        seed: Of everything random.
        turns: Of an iteration; None: as many as it wants.
    """

    target: Target
    training: tuple[Picture, ...]
    held_out: tuple[Picture, ...]
    source: tuple[Picture, ...]
    pairs: tuple[tuple[Picture, Picture], ...]
    folder: Path
    minutes: float
    seed: int = 0
    turns: int | None = None


class System(ABC):
    """One row of the table.

    Attributes:
        name: As in the table.
        sees: What it is allowed to see before the scan itself.
        together: Whether scans of one scanner are harmonized together.
    """

    name: ClassVar[str]
    sees: ClassVar[Sees]
    together: ClassVar[bool] = False

    def fit(self, material: Material, say: Say) -> None:  # noqa: B027
        """Learn; calls ``say`` with a stage and the share of it that is done. Nothing to learn by default."""

    @abstractmethod
    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Scans of one source scanner as the target would have made them, flow units, zero outside their masks."""
