"""What a run has to do: scans with what is in them, in groups."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blindharmony.image import find_mask, write_sidecar
from blindharmony.lock import locked
from blindharmony.study.hashes import hashed
from blindharmony.study.layout import Scan
from blindharmony.study.ledger import Ledger, read_json
from blindharmony.study.scanners import Group
from blindharmony.study.settings import Item


@dataclass(frozen=True)
class Plan:
    """The work of a run.

    Attributes:
        groups: All scans, in groups.
        items: Scans that can be read, by id.
        unreadable: Scans that cannot, with the reason.
    """

    groups: Sequence[Group]
    items: Mapping[str, Item]
    unreadable: Sequence[tuple[Scan, str]] = ()

    @property
    def without_mask(self) -> int:
        """Scans for which no mask is given."""
        return sum(item.mask is None for item in self.items.values())


def make_plan(groups: Sequence[Group], ledger: Ledger, *, masks: Path | None = None) -> Plan:
    """Read every scan and mask once, and note the plan in the ledger.

    Args:
        groups: The scans.
        ledger: Keeps hashes and the plan.
        masks: Derivatives with brain masks.

    Raises:
        OutputError: If the ledger cannot be written.
    """
    scans = [scan for group in groups for scan in group.scans]
    given = {scan.id: find_mask(masks, scan.path) if masks else None for scan in scans}
    files = [scan.path for scan in scans] + [mask for mask in given.values() if mask]
    found = hashed(files, ledger.home / "hashes.json")
    items, unreadable = {}, []
    for scan in scans:
        mask, sha = given[scan.id], found[scan.path]
        if sha is None:
            unreadable.append((scan, _why(scan.path)))
        elif mask and found[mask] is None:
            unreadable.append((scan, f"its mask cannot be read: {_why(mask)}"))
        else:
            items[scan.id] = Item(scan, sha, mask, found[mask] if mask else None)
    # Of scans that this run leaves out, the earlier plan is still true; of those that left the data set only results.
    rows = {
        s.id: {"scan": s.place, "group": g.name, "why": g.why, "size": len(g.scans)} for g in groups for s in g.scans
    }
    # Jobs of an array add to one plan.
    with locked(ledger.home / "plan.lock", wait=True):
        roots = {s.root for s in scans}
        earlier = {n: r for n, r in planned(ledger).items() if _is_there(r, roots) or _is_done(n, ledger)}
        write_sidecar(ledger.home / "plan.json", {"scans": {**earlier, **rows}}, overwrite=True)
    return Plan(groups, items, unreadable)


def planned(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Scan's id → place, group and why, of all runs in this folder."""
    return dict((read_json(ledger.home / "plan.json") or {}).get("scans", {}))


def _is_there(row: Mapping[str, Any], roots: Collection[Path]) -> bool:
    return not roots or any(os.path.lexists(root / row["scan"]) for root in roots)


def _is_done(name: str, ledger: Ledger) -> bool:
    return (ledger.record(name) or {}).get("status") == "done"


def _why(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return f"{path}: a link to nothing; fetch the file (datalad get, git annex get)"
    return f"{path}: cannot be read; check its permissions"
