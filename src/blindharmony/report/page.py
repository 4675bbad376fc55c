"""A plain page of pictures, charts and tables: one HTML file that asks for nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from blindharmony.report.html import asset_text, page_environment
from blindharmony.report.pictures import PLANES, choose, gray, jpeg, slice_of

_STYLES = ("style.css", "charts.css", "page.css")
_LARGER = 3


@dataclass(frozen=True)
class Strip:
    """Three planes of a head side by side: a data URI and what it shows."""

    label: str
    source: str


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page; what is empty is left out.

    Attributes:
        title: Heading.
        notes: Paragraphs.
        charts: Name and SVG.
        legend: Style and words of each kind of line in the charts.
        strips: Pictures.
        head: Column names of the table.
        rows: Its rows.
        facts: Names and values.
    """

    title: str
    notes: Sequence[str] = ()
    charts: Sequence[tuple[str, Markup]] = ()
    legend: Sequence[tuple[str, str]] = ()
    strips: Sequence[Strip] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    facts: Sequence[tuple[str, Any]] = ()


def strip_of(
    label: str, volume: NDArray[np.floating[Any]], mask: NDArray[np.bool_], window: tuple[float, float]
) -> Strip:
    """The middle axial, coronal and sagittal slices of a volume, enlarged.

    Args:
        label: What it is.
        volume: In RAS+ order, shape ``(X, Y, Z)``.
        mask: Where the brain is, same shape: equal masks give equal slices.
        window: Intensities of black and white.
    """
    cuts = []
    for plane in PLANES:
        # The very middle of a sagittal view is the gap between the halves.
        (index,) = choose(mask, plane, 1).indices
        cuts.append(slice_of(volume, plane, index + (5 if plane == "sagittal" else 0)))
    tall = max(len(cut) for cut in cuts)
    pixels = np.concatenate([np.pad(cut, ((tall - len(cut), 0), (2, 2))) for cut in cuts], axis=1)
    picture = Image.fromarray(gray(pixels, window))
    larger = picture.resize((picture.width * _LARGER, picture.height * _LARGER), Image.Resampling.BICUBIC)
    return Strip(label, jpeg(np.asarray(larger)))


def render_page(title: str, kind: str, sections: Sequence[Section]) -> str:
    """The page; equal input gives equal text."""
    template = page_environment().get_template("page.html")
    return template.render(title=title, kind=kind, sections=sections, style=asset_text(*_STYLES))
