"""The walks of the architecture's page name functions that exist, and its drawing has every room."""

import importlib
import pkgutil
import re
from functools import reduce

import pytest
from blocks import ROOT

import blindharmony

PAGE = (ROOT / "docs/concepts/architecture.md").read_text()
WALKS = PAGE[PAGE.index("## Follow a scan") : PAGE.index("## Where to look")]
ROOMS = {module.name for module in pkgutil.iter_modules(blindharmony.__path__)}
NAMES = sorted({name for name in re.findall(r"`([a-z_]+(?:\.\w+)+)`", WALKS) if name.split(".")[0] in ROOMS})


def resolved(name):
    """What a name below the package stands for."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(["blindharmony", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, parts[count:], module)
    raise ModuleNotFoundError(name)


def test_the_walks_are_found():
    assert len(NAMES) > 40


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_on_a_walk_exists(name):
    assert resolved(name) is not None


def test_a_name_that_is_gone_is_noticed():
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        resolved("harmonization.curve.lifted")


def test_every_room_is_in_the_drawing():
    drawing = PAGE[PAGE.index("```text") : PAGE.index("| room |")]
    drawn = {word for line in drawing.splitlines() if line.startswith("│") for word in line.split("│")[1].split()}
    assert drawn == ROOMS - {"__main__"}
