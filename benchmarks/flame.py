"""Where the seconds of one command go, as a picture: docs/pictures/speed_flame.svg.

    OMP_NUM_THREADS=1 py-spy record --rate 200 --format raw --output stacks.txt -- blindharmony harmonize HEAD --out out
    python benchmarks/flame.py stacks.txt docs/pictures/speed_flame.svg

py-spy is on PyPI; it looks at the program from outside, so that nothing is slower but what it looks at. A line of its
file is a stack of functions and how often it was seen. Every box is a function, as wide as its share of the time, and
stands on the one that called it; what pointed at, it says its share.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

_WIDTH, _ROW, _LETTER = 1200, 17, 6.4
_LEAST = 0.004  # of all: narrower boxes cannot be seen
# How functions are called and modules loaded, not what they do.
_BETWEEN = ("_call_impl", "importlib", "contextlib", "runpy", "_contextlib", "torch/nn/modules/container")
_COLORS = {
    "blindharmony": "#8ecae6",
    "torch": "#f4a261",
    "scipy": "#b5e48c",
    "numpy": "#b5e48c",
    "SimpleITK": "#cdb4db",
}


@dataclass
class Box:
    """A function where it was called from one stack of others."""

    name: str
    count: int = 0
    inner: dict[str, Box] = field(default_factory=dict)


def stacks(text: str) -> Box:
    """All stacks of the thread that works, as one tree."""
    root = Box("all")
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        names = [frame.rpartition(":")[0] + ")" if ":" in frame else frame for frame in frames.split(";")]
        if not names[0].startswith(("<module>", "_run_module_as_main")):
            continue
        box = root
        box.count += int(count)
        for name in (n for n in names if not any(word in n for word in _BETWEEN)):
            box = box.inner.setdefault(name, Box(name))
            box.count += int(count)
    return root


def drawn(root: Box) -> str:
    """The tree as SVG, callers above those they call."""
    boxes, deepest = [], 0

    def draw(box: Box, left: float, depth: int) -> None:
        nonlocal deepest
        share = box.count / root.count
        if share < _LEAST:
            return
        deepest = max(deepest, depth)
        width, y = share * _WIDTH, depth * _ROW
        function, _, file = box.name.partition(" (")
        color = _COLORS.get(file.partition("/")[0], "#dddddd")
        letters = int((width - 4) / _LETTER)
        shown = function if len(function) <= letters else function[: letters - 1] + "…" if letters > 3 else ""
        boxes.append(
            f'<g><title>{escape(box.name)}: {share:.1%}</title><rect x="{left:.1f}" y="{y}" width="{width:.1f}" '
            f'height="{_ROW - 1}" fill="{color}"/><text x="{left + 2:.1f}" y="{y + 12}">{escape(shown)}</text></g>'
        )
        for inner in sorted(box.inner.values(), key=lambda b: -b.count):
            draw(inner, left, depth + 1)
            left += inner.count / root.count * _WIDTH

    draw(root, 0.0, 0)
    height = (deepest + 1) * _ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="monospace" '
        f'font-size="10.5"><title>Where the seconds go</title>{"".join(boxes)}</svg>\n'
    )


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(drawn(stacks(Path(sys.argv[1]).read_text())))
