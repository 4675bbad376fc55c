"""Charts of a benchmark: intensity curves, and every subject against the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from blindharmony.evidence.registry import BASELINE
from blindharmony.image import write_text
from blindharmony.report.chart import Dots, Line, chart
from blindharmony.report.render import asset_text, page_environment

#: Whose curves are drawn, if they were run: the rival to beat dashed, our default solid, the truth dotted.
_DRAWN = {BASELINE: "before", "curve": "after"}


def curve_chart(source: str, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Markup | None:
    """Intensity curves found on one source for its first subject, and the true one; None without any.

    Args:
        source: Domain.
        curves: System → ``x``, ``truth`` and ``found`` (flow units).
    """
    found = {s: curves[s] for s in _DRAWN if s in curves}
    if not found:
        return None
    first = next(iter(found.values()))
    lines = [Line(np.array(c["x"]), np.array(c["found"]), _DRAWN[s]) for s, c in found.items()]
    return chart(
        Line(np.array(first["x"]), np.array(first["truth"]), "target"),
        *lines,
        label=f"Intensity curves on {source}: truth, {', '.join(found)}",
        x_label="Source [flow units]",
        y_label="Harmonized [flow units]",
    )


def scatter_chart(scans: Sequence[Mapping[str, Any]], system: str, measure: str, label: str) -> Markup | None:
    """Every subject of every source: a system against the baseline, and the line where they are equal."""
    own = {(s["source"], s["subject"]): s.get(measure) for s in scans if s["system"] == system}
    base = {(s["source"], s["subject"]): s.get(measure) for s in scans if s["system"] == BASELINE}
    both = [k for k in own if None not in (own[k], base.get(k))]
    if not both:
        return None
    x, y = (np.array([values[k] for k in both], np.float64) for values in (base, own))
    ends = np.array([min(x.min(), y.min()), max(x.max(), y.max())])
    return chart(
        Line(ends, ends, "identity"),
        Dots(x, y, ["after"] * len(both), [f"{source}, {subject}" for source, subject in both]),
        label=f"{label} of every subject: {system} against {BASELINE}",
        x_label=f"{label}: {BASELINE}",
        y_label=f"{label}: {system}",
        x_range=(float(ends[0]), float(ends[1])) if ends[1] > ends[0] else None,
    )


def write_chart(drawn: Markup, file: Path) -> Path:
    """A chart as a picture of its own, with the colours of a light page.

    Raises:
        OutputError: If it cannot be written.
    """
    environment = page_environment()
    style = asset_text(environment, "style.css").split("@media")[0] + asset_text(environment, "charts.css")
    start = '<svg xmlns="http://www.w3.org/2000/svg" width="560" height="331" '
    text = str(drawn).replace("<svg ", start, 1).replace(">", f"><style>{style}</style>", 1)
    return write_text(file, text, overwrite=True)
