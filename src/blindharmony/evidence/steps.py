"""Finished steps: one small file for each, named by all that went in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindharmony.image import write_sidecar
from blindharmony.study.hashes import key_of
from blindharmony.study.ledger import read_json
from blindharmony.version import VERSION

#: Raised when what a step measures changes, so that old files are not taken for new ones.
_FORMAT = 1


@dataclass(frozen=True)
class Step:
    """One leg of one system on one source.

    Attributes:
        leg: ``simulated``, ``real`` or ``segmentation``.
        source: Domain or set.
        system: Row.
        key: Of all that went in.
    """

    leg: str
    source: str
    system: str
    key: str

    @classmethod
    def of(cls, leg: str, source: str, system: str, **what: Any) -> Step:
        """With a key made of the names, the package's version and ``what`` (JSON content)."""
        return cls(leg, source, system, key_of(_FORMAT, VERSION, leg, source, system, what))

    def file(self, out: Path) -> Path:
        """Where its result is."""
        return out / "steps" / self.leg / plain(self.source) / f"{plain(self.system)}.{self.key[:16]}.json"


def finished(step: Step, out: Path) -> dict[str, Any] | None:
    """Its result, None if it is not there, damaged, or a failure: that is tried again."""
    found = read_json(step.file(out))
    return found if found and "failed" not in found else None


def known(step: Step, out: Path) -> dict[str, Any] | None:
    """Its result, failures included."""
    return read_json(step.file(out))


def keep(step: Step, out: Path, content: Mapping[str, Any]) -> None:
    """Write its result, or nothing.

    Raises:
        OutputError: If it cannot be written.
    """
    words = {"leg": step.leg, "source": step.source, "system": step.system}
    write_sidecar(step.file(out), {**words, **content}, overwrite=True)


def plain(name: str) -> str:
    """A name as a part of a path."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)
