"""The page itself: one template, one style, one script, all from inside the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from blindharmony.serve.names import EXTENSIONS
from blindharmony.serve.targets import Choice
from blindharmony.version import VERSION


@dataclass(frozen=True)
class Page:
    """What the page says about itself.

    Attributes:
        targets: Models to choose from.
        folder: Where results lie, to be told.
        most_bytes: Of one scan.
        most_scans: Of one job.
        shared: Whether other computers can reach it.
    """

    targets: Sequence[Choice]
    folder: str
    most_bytes: int
    most_scans: int
    shared: bool = False

    def html(self) -> str:
        """The page."""
        return (
            _environment()
            .get_template("page.html")
            .render(page=self, extensions=EXTENSIONS, version=VERSION, most_mb=self.most_bytes >> 20)
        )


def refused_html() -> str:
    """What a browser without the link sees."""
    return _environment().get_template("refused.html").render()


def style() -> str:
    """The reports' style and this page's own."""
    # Read as files: the report package brings numpy and its pictures with it.
    inside = resources.files("blindharmony")
    places = (("report", "templates", "style.css"), ("serve", "templates", "serve.css"))
    return "\n".join(inside.joinpath(*place).read_text(encoding="utf-8") for place in places)


def script() -> str:
    """The page's script: what its parts share, adding scans, and the jobs."""
    folder = resources.files("blindharmony").joinpath("serve", "templates")
    return "\n".join(folder.joinpath(f"{part}.js").read_text(encoding="utf-8") for part in ("common", "add", "jobs"))


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("blindharmony.serve"),
        # Every template is HTML and every name may come from a stranger's file.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
