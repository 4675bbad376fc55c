"""The group level of ``blindharmony bids``: a table and a page of the cohort."""

from __future__ import annotations

import argparse
import json
from collections import Counter

from blindharmony.cli.console import Screen


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Write table and page and say where they are.

    Raises:
        NothingFoundError: If nothing was ever harmonized into the output folder.
    """
    from blindharmony.errors import NothingFoundError
    from blindharmony.study.ledger import Ledger, read_json
    from blindharmony.study.page import write_cohort_page
    from blindharmony.study.table import cohort_rows, write_table

    ledger = Ledger(arguments.output_dir.resolve())
    rows = cohort_rows(ledger)
    if not rows:
        raise NothingFoundError("no run has been here", remedy="run the participant level first", path=ledger.out)
    title = str((read_json(arguments.bids_dir / "dataset_description.json") or {}).get("Name", arguments.bids_dir.name))
    files = {"table": write_table(ledger, rows), "page": write_cohort_page(ledger, rows, title)}
    if arguments.json:
        states = Counter(str(row["status"]) for row in rows)
        screen.result(json.dumps({**{k: str(v) for k, v in files.items()}, "scans": len(rows), "status": states}))
        return 0
    for file in files.values():
        screen.result(str(file))
    screen.note(f"open {files['page'].as_uri()} in a browser")
    return 0
