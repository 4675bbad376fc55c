"""Evidence in, one HTML file out that asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from blindharmony.image import write_text
from blindharmony.report import viewers
from blindharmony.report.charts import curve_chart, error_chart, histogram_chart, short, trace_charts
from blindharmony.report.colour import gradient
from blindharmony.report.evidence import ScanEvidence
from blindharmony.report.gauges import distance_gauge, level_gauges, tissue_gauges
from blindharmony.report.histogram import distances, quantiles
from blindharmony.report.numbers import number, plain

_STYLES = ("style.css", "pictures.css", "charts.css")
_LEVELS = {"good": ("✓", "Good"), "caution": ("!", "Check"), "poor": ("✕", "Poor")}


def render_report(evidence: ScanEvidence) -> str:
    """The report as one HTML page; equal evidence gives equal text.

    Args:
        evidence: What is known about one harmonized scan.

    Returns:
        HTML with every picture, style and script inside.
    """
    levels, target = evidence.levels, evidence.target_quantiles
    before = quantiles(evidence.before, evidence.mask, levels)
    after = quantiles(evidence.after, evidence.mask, levels)
    distance = distances(before, after, target, levels)
    difference, difference_limit = viewers.difference(evidence)
    bias, bias_limit = viewers.bias(evidence) if evidence.log_bias is not None else ([], 0.0)
    environment = page_environment()
    script = asset_text(environment, "script.js")
    icon, word = _LEVELS[evidence.verdict.level]
    return environment.get_template("report.html").render(
        evidence=evidence,
        icon=icon,
        word=word,
        unit=short(evidence.unit),
        distance=distance,
        distance_gauge=distance_gauge(distance),
        window=viewers.window(evidence),
        comparison=viewers.comparison(evidence),
        difference=difference,
        difference_limit=difference_limit,
        bias=bias,
        bias_limit=bias_limit,
        registration=viewers.registration(evidence),
        scale=gradient(),
        histogram=histogram_chart(evidence, before, after),
        curve=curve_chart(evidence.curve, evidence.unit) if evidence.curve else None,
        tissues=tissue_gauges(before, after, target, levels),
        levels=level_gauges(evidence.confidence) if evidence.confidence else [],
        errors=error_chart(evidence),
        trace=trace_charts(evidence),
        style=Markup("\n").join(asset_text(environment, name) for name in _STYLES),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def write_report(evidence: ScanEvidence, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the report, or nothing.

    Args:
        evidence: What is known about one harmonized scan.
        path: The HTML file.
        overwrite: Whether it may exist already.

    Raises:
        OutputError: If it exists already, or the folder or disk does not take it.
    """
    return write_text(path, render_report(evidence), overwrite=overwrite)


def page_environment() -> Environment:
    """Templates of the package, every value escaped."""
    environment = Environment(
        loader=PackageLoader("blindharmony.report"),
        # Every template is HTML and every name may come from a stranger's file.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["plain"] = plain
    return environment


def asset_text(environment: Environment, name: str) -> Markup:
    """A style or script of the package as it is."""
    # Style and script are the package's own and stand in raw-text elements: escaped, they would break.
    loader = environment.loader
    if loader is None:
        raise LookupError(name)
    return Markup(loader.get_source(environment, name)[0])
