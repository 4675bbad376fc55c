"""What a cohort is harmonized with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blindharmony.study.hashes import key_of
from blindharmony.study.layout import Scan
from blindharmony.version import VERSION

#: Of the default method: raised when it gives other results.
METHOD = 2


@dataclass(frozen=True)
class Settings:
    """Everything besides the scans that decides the results.

    Attributes:
        target: Model file or included name.
        digest: The model's hash.
        mask_command: External brain extractor.
        refine: As for :func:`~blindharmony.pipeline.harmonize`, like the rest.
        keep_bias: Leave the bias field in.
        uncertainty: Also write error bars.
        report: Also write reports.
        device: Where it is computed.
        seed: Equal seeds give equal bytes.
        version: Of this package.
        method: Raised when the same scans get other results: a run goes on with what it has only if that is equal.
    """

    target: str
    digest: str
    mask_command: str | None = None
    refine: bool = True
    keep_bias: bool = False
    uncertainty: bool = False
    report: bool = True
    device: str = "cpu"
    seed: int = 0
    version: str = VERSION
    method: int = METHOD

    def all(self) -> dict[str, Any]:
        """What a result depends on; not where the model lies."""
        return {k: v for k, v in asdict(self).items() if k != "target"}

    def look(self) -> dict[str, Any]:
        """What a summary depends on."""
        return {k: self.all()[k] for k in ("digest", "mask_command", "device", "version", "method")}


@dataclass(frozen=True)
class Item:
    """A scan that is to be harmonized, and what it is harmonized from.

    Attributes:
        scan: The scan.
        sha: Hash of the file.
        mask: Given brain mask.
        mask_sha: Hash of that.
    """

    scan: Scan
    sha: str
    mask: Path | None = None
    mask_sha: str | None = None

    def look_key(self, settings: Settings, first: str | None) -> str:
        """Name of its summary, made with the scanner model ``first`` if any."""
        return key_of("summary", self.sha, self.mask_sha, settings.look(), first)

    def fingerprint(self, settings: Settings, scanner: str | None) -> dict[str, Any]:
        """All that its result depends on."""
        return {"input": self.sha, "mask": self.mask_sha, "settings": settings.all(), "scanner": scanner}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What has changed between two fingerprints, in words.

    Example:
        >>> differences({"input": "a", "settings": {"seed": 0}}, {"input": "b", "settings": {"seed": 1}})
        ['the scan is another file', 'seed is 1, was 0']
    """
    found = []
    for name, words in (("input", "the scan is another file"), ("mask", "the mask is another")):
        if old.get(name) != new.get(name):
            found.append(words)
    before, now = old.get("settings", {}), new.get("settings", {})
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            called = {"digest": "target"}.get(name, name)
            found.append(f"{called} is {now.get(name)}, was {before.get(name)}")
    if old.get("scanner") != new.get("scanner"):
        found.append("its scanner is fitted to other scans")
    return found
