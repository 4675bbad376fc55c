"""The cohort as a table: a row a scan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blindharmony.image import entities
from blindharmony.study.failures import write_tsv
from blindharmony.study.ledger import Ledger
from blindharmony.study.planning import planned
from blindharmony.study.profiles import profile_of

COLUMNS = (
    "participant_id",
    "session_id",
    "scan",
    "status",
    "scanner",
    "scanner_scans",
    "verdict",
    "distance_before",
    "distance_after",
    "excess_before",
    "excess_after",
    "bits_before",
    "bits_after",
    "mean_change_percent",
    "correlation",
    "warnings",
    "seconds",
    "reason",
)

_KEPT = (
    "distance_before",
    "distance_after",
    "excess_before",
    "excess_after",
    "bits_before",
    "bits_after",
    "seconds",
    "reason",
)

Row = dict[str, Any]


def cohort_rows(ledger: Ledger) -> list[Row]:
    """What is known about every scan of every run in this folder, by name.

    ``distance`` is how far an average brain voxel's intensity is from that of the target's median scan, target units.
    ``excess`` is the distance from the target's own unseen scans in their spreads, of the least probable level; 0 is
    typical.
    """
    return [_row(name, plan, ledger) for name, plan in sorted(planned(ledger).items())]


def write_table(ledger: Ledger, rows: list[Row]) -> Path:
    """Write ``cohort.tsv``.

    Raises:
        OutputError: If it cannot be written.
    """
    cells = [[" | ".join(r[c]) if c == "warnings" else r[c] for c in COLUMNS] for r in rows]
    return write_tsv(ledger.out / "cohort.tsv", COLUMNS, cells)


def _row(name: str, plan: Mapping[str, Any], ledger: Ledger) -> Row:
    record = ledger.record(name) or {"status": "not started"}
    status = str(record.get("status"))
    if status == "done" and not ledger.whole(record):
        status, record = "results missing", {**record, "reason": "the results were removed or changed; run again"}
    words, figures = entities(name), record.get("figures", {})
    return {
        "participant_id": f"sub-{words.get('sub', name)}",
        "session_id": f"ses-{words['ses']}" if "ses" in words else None,
        "scan": plan["scan"],
        "status": status,
        "scanner": plan["group"],
        "scanner_scans": plan["size"],
        "why": plan["why"],
        "verdict": record.get("verdict"),
        **{k: record.get(k) for k in _KEPT},
        "mean_change_percent": figures.get("mean change (%)"),
        "correlation": figures.get("correlation with the scan"),
        "warnings": record.get("warnings", []),
        "report": next((p for p in record.get("outputs", {}) if p.endswith(".html")), None),
        "profile_before": profile_of(record, "profile_before"),
        "profile_after": profile_of(record, "profile_after"),
    }
