"""The table as files: CSV for spreadsheets, JSON for programs, both of the same rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blindharmony.evidence.markdown import document
from blindharmony.evidence.plan import Plan
from blindharmony.evidence.results import MAIN, Cell, averaged, cell_of, rows
from blindharmony.evidence.run import Benchmark
from blindharmony.evidence.steps import known
from blindharmony.image import write_sidecar, write_text
from blindharmony.version import VERSION


def collected(benchmark: Benchmark) -> list[Cell]:
    """All steps of the plan that were run, failures included, and their means over sources."""
    own: Sequence[Mapping[str, Any]] = ()
    if "real" in benchmark.plan.legs:
        own = benchmark.own_profiles()
    contents = [known(step, benchmark.plan.out) for step in benchmark.steps]
    cells = [cell_of(c, own) for c in contents if c is not None]
    return [*cells, *averaged(cells)]


def results(plan: Plan, cells: Sequence[Cell]) -> dict[str, Any]:
    """Everything that was measured: no voxels, no intensities of anybody."""
    scans = [
        {"leg": c.leg, "source": c.source, "system": c.system, "subject": s, **{k: c.values(k).get(s) for k in m}}
        for c in cells
        for s, m in c.scans.items()
    ]
    return {
        "blindharmony": VERSION,
        "target": {"name": plan.target.info.name, "digest": plan.target.digest, "set": plan.target_set},
        "seed": plan.seed,
        "quick": plan.quick,
        "minutes": plan.minutes,
        "turns": plan.turns,
        "segmenter": plan.segmenter or "included",
        "tested": {name: list(plan.tested(name)) for name in (plan.target_set, *plan.source_sets)},
        "teachers": {"training": list(plan.teachers()[0]), "held out": list(plan.teachers()[1])},
        "main": {leg: measure for leg, (measure, _) in MAIN.items()},
        "rows": rows(cells),
        "scans": scans,
    }


def csv_text(table: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; what a row lacks is empty.

    Example:
        >>> csv_text([{"a": 1, "b": None}, {"a": 2, "c": "x"}]).splitlines()
        ['a,b,c', '1,,', '2,,x']
    """
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in table for name in row))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in table)
    return text.getvalue()


def write_results(out: Path, content: Mapping[str, Any]) -> list[Path]:
    """Write ``table.csv``, ``results.json`` and ``table.md``.

    Raises:
        OutputError: If they cannot be written.
    """
    return [
        write_text(out / "table.csv", csv_text(content["rows"]), overwrite=True),
        write_sidecar(out / "results.json", content, overwrite=True),
        write_text(out / "table.md", document(content) + "\n", overwrite=True),
    ]
