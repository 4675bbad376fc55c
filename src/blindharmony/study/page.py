"""The cohort as one HTML page that asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from blindharmony.image import write_text
from blindharmony.report.histogram import distances
from blindharmony.report.render import asset_text, page_environment
from blindharmony.study import plots
from blindharmony.study.cohort import Cohort, cohort
from blindharmony.study.ledger import Ledger
from blindharmony.study.profiles import LEVELS, TargetProfiles, kept_target
from blindharmony.study.table import Row
from blindharmony.version import VERSION

_STYLES = ("style.css", "charts.css", "page.css", "cohort.css")
# A line on the screen shows no more points.
_EVERY = 4


def write_cohort_page(ledger: Ledger, rows: Sequence[Row], title: str) -> Path:
    """Write ``cohort.html``.

    Raises:
        OutputError: If it cannot be written.
    """
    return write_text(ledger.out / "cohort.html", render_cohort(rows, title, kept_target(ledger)), overwrite=True)


def render_cohort(rows: Sequence[Row], title: str, target: TargetProfiles | None) -> str:
    """The page; equal input gives equal text.

    Args:
        rows: Of :func:`~blindharmony.study.table.cohort_rows`.
        title: Name of the data set.
        target: The target's own scans, if they are known.
    """
    found = cohort(rows)
    environment = page_environment()
    environment.filters["link"] = _link
    script = asset_text(environment, "cohort.js")
    limit = _limit(target)
    pictures, lines = _pictures(found.done, target)
    measured = [r for r in found.done if r["distance_after"] is not None]
    return environment.get_template("cohort.html").render(
        title=title,
        cohort=found,
        target=target,
        limit=limit,
        distances=plots.distance_chart(found.done, limit) if measured else None,
        pictures=pictures,
        lines=Markup(json.dumps(lines, separators=(",", ":")).replace("<", "\\u003c")),
        version=VERSION,
        style=Markup("\n").join(asset_text(environment, name) for name in _STYLES),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _limit(target: TargetProfiles | None) -> float | None:
    """About nineteen in twenty of the target's own scans are this close to their median, or closer."""
    if target is None:
        return None
    median = np.median(target.profiles, axis=0)
    return float(np.quantile(distances(median, median, target.profiles, LEVELS).usual, 0.95))


def _pictures(rows: Sequence[Row], target: TargetProfiles | None) -> tuple[dict[str, Markup], dict[str, Any]]:
    """Histograms and profiles before and after, and the numbers to draw any one scan's lines over them."""
    which = [i for i, r in enumerate(rows) if r["profile_before"] is not None and r["profile_after"] is not None]
    if not which:
        return {}, {}
    own = None if target is None else target.profiles
    values = {when: np.array([rows[i][f"profile_{when}"] for i in which]) for when in ("before", "after")}
    every = [*values["before"], *values["after"], *(() if own is None else own)]
    at = plots.axis_of(every)
    drawn = {when: plots.densities(list(rows_), at) for when, rows_ in values.items()}
    band = None if own is None else plots.densities(list(own), at)
    # The air at the left end may hold any share of voxels; it must not flatten the tissue.
    tops = [np.quantile(d[:, at > at[3]].max(1), 0.98) for d in (*drawn.values(), *(() if band is None else (band,)))]
    middle = np.median(values["after"] if own is None else own, axis=0)
    above = {when: rows_ - middle for when, rows_ in values.items()}
    reach = 1.1 * float(np.quantile(np.abs(np.concatenate(list(above.values()))), 0.995)) or 1.0
    pictures = {}
    for when in ("before", "after"):
        pictures[f"histogram {when}"] = plots.histogram_chart(drawn[when], band, at, top=float(max(tops)), when=when)
        pictures[f"profile {when}"] = plots.profile_chart(
            above[when], None if own is None else own - middle, limits=(-reach, reach), when=when
        )
    scale = 1000 / float(max(tops))
    return pictures, {
        "rows": which,
        "at": [round(float(v), 2) for v in at[::2]],
        "ranks": [round(100 * float(v), 2) for v in LEVELS[::_EVERY]],
        "scale": 1 / scale,
        **{f"histogram-{w}": np.round(d[:, ::2] * scale).astype(int).tolist() for w, d in drawn.items()},
        **{f"profile-{w}": a[:, ::_EVERY].round(1).tolist() for w, a in above.items()},
    }


def _link(place: str) -> str:
    return quote(place)


__all__ = ["Cohort", "render_cohort", "write_cohort_page"]
