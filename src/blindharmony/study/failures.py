"""``failures.tsv``: the scans that have no result of this run, and why."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from blindharmony.image import write_text
from blindharmony.study.ledger import Ledger
from blindharmony.study.planning import Plan, planned


def write_failures(ledger: Ledger, plan: Plan) -> Path:
    """Write the table of this folder's scans that failed or were not started; only its head if there are none.

    ``kept``: the scan cannot be read today, and its earlier result was left as it is.

    Args:
        ledger: What is done.
        plan: What was to be done.

    Raises:
        OutputError: If it cannot be written.
    """
    names = {s.id: s.place for g in plan.groups for s in g.scans} | {n: r["scan"] for n, r in planned(ledger).items()}
    unread = {scan.id: why for scan, why in plan.unreadable}
    rows = []
    for name, place in sorted(names.items()):
        record = ledger.record(name) or {"status": "not started", "reason": "the run ended before it"}
        if record.get("status") != "done":
            rows.append((place, str(record.get("status")), str(record.get("reason", ""))))
        elif name in unread:
            rows.append((place, "kept", unread[name]))
    return write_tsv(ledger.out / "failures.tsv", ("scan", "status", "reason"), rows)


def write_tsv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a tab-separated table; what is None or empty is ``n/a``, as BIDS wants it.

    Raises:
        OutputError: If it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
    table.writerow(head)
    for row in rows:
        table.writerow([_cell(value) for value in row])
    return write_text(path, text.getvalue(), overwrite=True)


def _cell(value: object) -> str:
    return " ".join(str(value).split()) or "n/a" if value is not None else "n/a"
