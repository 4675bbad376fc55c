"""``blindharmony demo``: the main job on the included head, as a simulated scanner would show it."""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from blindharmony.cli import harmonize
from blindharmony.cli.console import Screen
from blindharmony.cli.options import add_shared
from blindharmony.files import check_outputs

_EPILOG = """\
examples:
  blindharmony demo
  blindharmony demo out --viewer --overwrite
  blindharmony demo out --target mysite.safetensors
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "demo",
        help="harmonize an included head, and see what changes",
        description="Harmonize an included head (OpenNeuro ds000011, PDDL), seen through a simulated scanner with "
        "another contrast and an uneven coil, to the included target.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("out", nargs="?", default="blindharmony-demo", help="folder for the results (default: %(default)s)")
    add_shared(p, "--target", "--viewer")
    p.add_argument("--overwrite", action="store_true", help="replace existing results")
    add_shared(p, "--verbose", "--quiet")
    p.set_defaults(run=run)


def demo_scan() -> Path:
    """The included scan.

    Example:
        >>> demo_scan().name
        'sub-01_T1w.nii.gz'
    """
    return Path(str(resources.files("blindharmony").joinpath("assets", "sub-01_T1w.nii.gz")))


def through_a_scanner(image: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
    """What a made-up scanner shows of a head: another contrast, and a coil that sees one side better.

    With ``x`` as a share of the 99th percentile, the result is ``1000 * x ** 1.6 * exp(0.5 * r)``, where ``r`` goes
    from -1 at one corner of the volume to 1 at the opposite one; in whole numbers, as scanners write them.

    Args:
        image: A head, not negative, shape (X, Y, Z).

    Example:
        >>> head = np.full((2, 2, 2), 100.0)
        >>> bent = through_a_scanner(head)
        >>> int(bent[0, 0, 0]), int(bent[1, 1, 1])
        (607, 1649)
    """
    top = float(np.quantile(image[image > 0], 0.99))
    first, second, third = (np.linspace(-1, 1, length, dtype=np.float32) for length in image.shape)
    ramp = (first[:, None, None] + second[:, None] + third) / 3
    bent = 1000 * (np.maximum(image, 0).astype(np.float32) / top) ** 1.6 * np.exp(0.5 * ramp)
    rounded: npt.NDArray[np.float32] = np.round(bent).astype(np.float32)
    return rounded


#: What the demo's scan is called in the output folder.
SCAN = "sub-01_acq-simulated_T1w.nii.gz"

_NEXT = """\
What next, with scans of your own?
  blindharmony assess scan.nii.gz                     how far is it from the target? Nothing is changed
  blindharmony harmonize scan.nii.gz --out out        one scan, or a folder, or a BIDS study
  blindharmony harmonize siteA/ --group --out out     scans of one scanner share a curve
  blindharmony targets                                the included target; 'train' learns your own scanner
"""


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Make the scan of another scanner, harmonize it, and say where to look and what to do next."""
    from blindharmony.io.volume import read_volume
    from blindharmony.io.write import write_like

    scan = Path(arguments.out, SCAN)
    check_outputs([scan], [arguments.target])
    if arguments.overwrite or not scan.exists():
        head = read_volume(demo_scan())
        write_like(head, through_a_scanner(head.data), scan, overwrite=arguments.overwrite)
    screen.note(f"{scan}: an included head (OpenNeuro ds000011), seen through a simulated scanner")
    words = ["harmonize", str(scan), "--out", arguments.out, "--target", arguments.target]
    grammar = argparse.ArgumentParser()
    harmonize.add_parser(grammar.add_subparsers())
    flags = [f"--{name}" for name in ("overwrite", "quiet", "verbose", "viewer") if getattr(arguments, name)]
    # What stands before the verb belongs to all verbs.
    harmonize_arguments = grammar.parse_args([*words, *flags], argparse.Namespace(debug=arguments.debug))
    code = harmonize.run(harmonize_arguments, screen)
    if code == 0:
        report = Path(arguments.out, "sub-01_acq-simulated_desc-harmonized_T1w.html").resolve()
        screen.note(f"open {report.as_uri()} in a browser and press 'Flicker scan and result' to see what changed")
        for line in _NEXT.splitlines():
            screen.note(line)
    return code
