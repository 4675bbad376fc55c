"""``blindharmony simulate``: what another scanner would have made of a scan."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from blindharmony.cli.console import Screen
from blindharmony.errors import BlindHarmonyError, OutputError, UsageError

_EPILOG = """\
The result lies on the scan's own grid, with the scan's own header, float32; where the scan is zero it stays zero.
A JSON file beside it says how it was made. Its truth is known: the scan itself.

The seed is the scanner, the scan seed is the scan. A group of scans with one --seed was made on one scanner; the
bias field and the noise of each come from --scan-seed, by default drawn from the scan's own file. If the group
is in one common intensity unit, give one --top too: then its curve is exactly one curve.

examples:
  blindharmony simulate --list
  blindharmony simulate sub-01_T1w.nii.gz --domain gamma1.5 --out sub-01_desc-gamma_T1w.nii.gz
  blindharmony simulate sub-01_T1w.nii.gz --domain tissue --labels sub-01_dseg.nii.gz --out tissue.nii.gz
  blindharmony simulate sub-01_T1w.nii.gz --domain all --seed 7 --out scanner7/sub-01_T1w.nii.gz
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "simulate",
        help="make what another scanner would have made of a scan",
        description="Make what another, simulated scanner would have made of a scan.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("scan", nargs="?", type=Path, metavar="SCAN", help="file (.nii, .nii.gz, .mgz)")
    p.add_argument("--domain", metavar="NAME", help="which scanner; see --list")
    p.add_argument("--out", type=Path, metavar="FILE", help="file for the result (.nii.gz, .nii, .mgz)")
    p.add_argument("--labels", type=Path, metavar="DSEG", help="tissues on the scan's grid: 1 CSF, 2 gray, 3 white")
    p.add_argument("--mask", type=Path, help="brain mask on the scan's grid; found if not given")
    p.add_argument("--seed", type=int, default=0, help="the scanner (default: %(default)s)")
    p.add_argument("--scan-seed", type=int, metavar="N", help="the scan (default: from the scan's file)")
    p.add_argument("--top", type=float, metavar="X", help="intensity a curve calls 1 (default: the brain's maximum)")
    p.add_argument("--list", action="store_true", help="list the domains and stop")
    p.add_argument("--overwrite", action="store_true", help="replace an existing result")
    p.add_argument("-q", "--quiet", action="store_true", help="print only results and problems")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Simulate one scan, or list the scanners."""
    if arguments.list:
        _list(screen)
        return 0
    _check(arguments)
    import hashlib

    from blindharmony.files import check_outputs, sidecar_name, write_sidecar
    from blindharmony.io.volume import read_volume
    from blindharmony.io.write import write_like
    from blindharmony.version import versions
    from blindharmony_benchmark.simulation.domains import DOMAINS
    from blindharmony_benchmark.simulation.simulate import draw_scanner, read_brain, read_labels, simulate_volume

    draw_scanner(arguments.domain, arguments.seed)  # a wrong name or seed should not wait for the scan
    out, sidecar = arguments.out, arguments.out.with_name(sidecar_name(arguments.out))
    check_outputs((out, sidecar), (arguments.scan, arguments.mask, arguments.labels))
    for file in (out, sidecar):
        if file.exists() and not arguments.overwrite:
            raise OutputError("exists already", remedy="pass --overwrite or choose another name", path=file)
    if DOMAINS[arguments.domain].needs_labels and arguments.labels is None:
        raise UsageError(
            f"the domain '{arguments.domain}' changes tissues and needs to know them",
            remedy="give --labels, a file with 1 CSF, 2 gray and 3 white matter on the scan's grid",
        )
    scan = read_volume(arguments.scan)
    digest = hashlib.sha256(arguments.scan.read_bytes()).hexdigest()
    scan_seed = int(digest[:8], 16) if arguments.scan_seed is None else arguments.scan_seed
    try:
        made = simulate_volume(
            scan,
            arguments.domain,
            mask=None if arguments.mask is None else read_brain(arguments.mask, scan),
            labels=None if arguments.labels is None else read_labels(arguments.labels, scan),
            seed=arguments.seed,
            scan_seed=scan_seed,
            top=arguments.top,
        )
    except BlindHarmonyError as error:
        if error.path is None and not isinstance(error, UsageError):
            raise type(error)(error.what, remedy=error.remedy, path=arguments.scan) from error
        raise
    write_like(scan, made.image, out, overwrite=arguments.overwrite)
    domain = DOMAINS[made.domain]
    warnings = list(scan.warnings)
    used = domain.needs_labels or made.found.get("Tissue") is True
    if made.found.get("Tissue") is False:
        warnings.append("No --labels were given: the contrast between tissues was not changed.")
    write_sidecar(
        sidecar,
        {
            "Description": f"Simulated scan, not acquired: {domain.sentence}",
            "Sources": [arguments.scan.name],
            "SourceSHA256": digest,
            "SpatialReference": "orig",
            "Domain": made.domain,
            "Formula": domain.formula,
            "Monotone": domain.monotone,
            "Settings": made.settings,
            "Found": made.found,
            "Seed": arguments.seed,
            "ScanSeed": scan_seed,
            "Labels": arguments.labels.name if arguments.labels and used else None,
            "Mask": None if arguments.mask is None else arguments.mask.name,
            "Warnings": warnings,
            "Versions": versions(),
        },
        overwrite=arguments.overwrite,
    )
    screen.result(str(out))
    for warning in warnings:
        screen.problem(f"{arguments.scan.name}: warning: {warning}")
    screen.note(f"{arguments.scan.name}: {domain.sentence}; settings in {sidecar}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    for value, name in ((arguments.scan, "SCAN"), (arguments.domain, "--domain"), (arguments.out, "--out")):
        if value is None:
            raise UsageError(f"{name} is missing", remedy="see blindharmony simulate --help, or --list for the domains")


def _list(screen: Screen) -> None:
    from blindharmony_benchmark.simulation.domains import DOMAINS

    width = max(map(len, DOMAINS))
    for name, domain in DOMAINS.items():
        notes = [n for n, yes in (("needs --labels", domain.needs_labels), ("monotone", domain.monotone)) if yes]
        screen.result(f"{name:<{width}}  {domain.sentence}{f' ({notes[0]})' if notes else ''}")
        screen.result(f"{'':<{width}}  {domain.formula}")
