"""What all trained systems share: a folder, a budget, a device, and the network run through the slices of a scan."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from blindharmony.evidence.networks.learner import Learner
from blindharmony.evidence.networks.loop import Limits, train
from blindharmony.evidence.system import Material, Picture, Say, System


class Trained(System):
    """A system that learns networks; :meth:`fit` before :meth:`harmonize`.

    Args:
        steps: Steps instead of minutes.
        device: Where it learns; a GPU if there is one.

    Attributes:
        version: Of what is learnt; a change of it is a reason to learn again.
    """

    version: ClassVar[int] = 1

    def __init__(self, steps: int | None = None, device: str | None = None) -> None:
        self.steps = steps
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._learner: Learner | None = None

    def fit(self, material: Material, say: Say) -> None:
        """Learn, or take what was learnt from the same scans already."""
        torch.manual_seed(material.seed)
        learner = self.learner(material)
        plan: dict[str, Any] = {"system": self.name, "version": self.version, "scans": digest(_seen(material))}
        limits = Limits(material.minutes, self.steps, material.seed)
        train(learner, material.folder, plan, limits, say, f"training {self.name}")
        self._learner = learner

    def harmonize(self, scans: Sequence[Picture], material: Material) -> list[NDArray[np.float32]]:
        """Every scan through the network; nothing darker than nothing or brighter than any scan it learnt from."""
        if self._learner is None:
            self.fit(material, lambda stage, share: None)
        learner = self._learner
        assert learner is not None  # fit has set it
        # A slice with a handful of voxels can send a normalising layer anywhere.
        brightest = max(float(p.image.max()) for p in material.training)
        return [np.clip(self.apply(learner, s, material), 0, brightest) for s in scans]

    @abstractmethod
    def learner(self, material: Material) -> Any:
        """Networks with their first weights and what they learn from."""

    @abstractmethod
    def apply(self, learner: Any, scan: Picture, material: Material) -> NDArray[np.float32]:
        """One scan through the networks, zero outside its mask."""


def _seen(material: Material) -> Iterable[Picture]:
    yield from (*material.training, *material.held_out, *material.source)
    for pair in material.pairs:
        yield from pair


def digest(pictures: Iterable[Picture]) -> str:
    """What scans are, in sixteen letters."""
    found = hashlib.blake2b(digest_size=8)
    for picture in pictures:
        found.update(np.ascontiguousarray(picture.image).tobytes())
        found.update(b"" if picture.labels is None else picture.labels.tobytes())
    return found.hexdigest()
