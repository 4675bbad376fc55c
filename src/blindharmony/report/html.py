"""The one Jinja environment of all pages, and numbers as people read them.

Report, viewer, cohort page and the page's server take their templates from here, so that every value is escaped
everywhere by the same rule. Nothing here needs numpy: the server's process stays small.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from functools import cache
from numbers import Real
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup


@cache
def page_environment() -> Environment:
    """Templates of the reports, and of the server's page under ``serve/``; every value is escaped.

    Example:
        >>> page_environment().from_string("{{ name }}: {{ 0.0123456|number }}").render(name="<b>")
        '&lt;b&gt;: 0.01235'
    """
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("blindharmony.report"), PrefixLoader({"serve": PackageLoader("blindharmony.serve")})]
        ),
        # Every template is HTML and every name may come from a stranger's file.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["plain"] = plain
    environment.filters["limit"] = limit_text
    return environment


def asset_text(*names: str) -> Markup:
    """Styles or scripts of the package as they are, one after the other.

    Raises:
        jinja2.TemplateNotFound: If there is no such file.

    Example:
        >>> "@media" in asset_text("style.css", "charts.css")
        True
    """
    environment = page_environment()
    assert environment.loader is not None  # it was made with one
    # Style and script are the package's own and stand in raw-text elements: escaped, they would break.
    return Markup("\n").join(Markup(environment.loader.get_source(environment, name)[0]) for name in names)


def script_hash(script: str) -> str:
    """What a page's content security policy says to allow this one script: its SHA-256, base64.

    Example:
        >>> script_hash("")
        '47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
    """
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def number(value: float, digits: int = 4) -> str:
    """So many significant digits, all of a large whole number; a minus sign proper, thousands apart.

    Example:
        >>> number(12345.678).split(), number(-0.012346), number(3.0), number(2e-9)
        (['12', '346'], '−0.01235', '3', '2e−09')
    """
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "−∞" if value < 0 else "∞"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        text = f"{value:.3g}"
    elif digits <= 4 and abs(value) >= 1000:
        text = f"{value:,.0f}".replace(",", "\u202f")  # narrow, and no line breaks at it
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", "−")


def limit_text(limit: tuple[float | None, float | None], digits: int = 4) -> str:
    """The values that are good, in words; an end of None is open.

    Example:
        >>> limit_text((0.9, None)), limit_text((None, 3.0)), limit_text((850, 2100)).split()[0]
        ('at least 0.9', 'at most 3', '850')
    """
    low, high = (end if end is None else number(end, digits) for end in limit)
    if low is None or high is None:
        return f"at least {low}" if low is not None else f"at most {high}" if high is not None else "any"
    return f"{low} to {high}"


def plain(value: Any) -> str:
    """Any recorded value as one short text; arrays and their numbers too.

    Example:
        >>> plain([1.0, 2.5]), plain({"a": 1}), plain(True), plain("N4")
        ('1, 2.5', 'a 1', 'yes', 'N4')
    """
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Real):
        return number(float(value))
    if isinstance(value, dict):
        return "; ".join(f"{key} {plain(entry)}" for key, entry in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        # Rows of a matrix stay apart from each other.
        nested = any(isinstance(entry, list | tuple) for entry in value)
        return (" | " if nested else ", ").join(plain(entry) for entry in value)
    return "none" if value is None else str(value)
