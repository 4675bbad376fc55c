"""Two volumes and a viewer in one HTML file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from blindharmony.image import write_text
from blindharmony.report.numbers import number
from blindharmony.report.render import asset_text, page_environment
from blindharmony.viewer.niivue import VERSION, licences, niivue
from blindharmony.viewer.packing import Packed


def render_viewer(before: Packed, after: Packed, *, name: str, unit: str) -> str:
    """The page; equal input gives equal text.

    Args:
        before: The scan.
        after: The harmonized scan.
        name: File name to show.
        unit: Name of the target's intensity unit.
    """
    environment = _environment()
    program, script = Markup(niivue()), asset_text(environment, "viewer.js")
    facts = {
        which: {"low": packed.low, "high": packed.high, "step": packed.step}
        for which, packed in (("before", before), ("after", after))
    }
    return environment.get_template("viewer.html").render(
        name=name,
        unit=unit,
        before=before,
        after=after,
        facts=_inert(facts),
        program=program,
        program_hash=_hash(program),
        program_version=VERSION,
        licences=licences(),
        script=script,
        script_hash=_hash(script),
        style=_style(environment),
    )


def write_viewer(
    before: Packed, after: Packed, path: str | os.PathLike[str], *, name: str, unit: str, overwrite: bool = False
) -> Path:
    """Write the page, or nothing.

    Raises:
        OutputError: If it exists already, or the folder or disk does not take it.
    """
    return write_text(path, render_viewer(before, after, name=name, unit=unit), overwrite=overwrite)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("blindharmony.viewer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment


def _style(environment: Environment) -> Markup:
    reports = asset_text(page_environment(), "style.css")
    return Markup("\n").join([reports, asset_text(environment, "viewer.css")])


def _inert(content: object) -> Markup:
    # Inside a script element only this character could end it.
    return Markup(json.dumps(content, sort_keys=True).replace("<", "\\u003c"))


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
