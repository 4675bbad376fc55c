"""``blindharmony harmonize``: scans in, harmonized scans with sidecar and report out."""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from blindharmony.cli import dicom, group
from blindharmony.cli.console import Screen
from blindharmony.cli.inputs import found_scans, given_masks
from blindharmony.cli.numbers import whole
from blindharmony.cli.outcome import Outcomes
from blindharmony.errors import BlindHarmonyError, OutputError, UsageError, reportable
from blindharmony.harmonization.names import METHODS
from blindharmony.image import result_names

_EPILOG = """\
Each scan comes back in its own space, with its own header, float32, in the target scanner's intensity units:
  sub-01_T1w.nii.gz  ->  sub-01_desc-harmonized_T1w.nii.gz, .json (how it was made), .html (the report)
                         sub-01_desc-brain_mask.nii.gz    (the brain that was found)
  scan.nii.gz        ->  scan_desc-harmonized.nii.gz, ...

The brain mask is the one given, or the scan's own if the skull is already removed, or found by a network inside
the package. Outside the brain the same intensity curve is applied; where a scan is zero it stays zero.

A DICOM file or a folder with DICOM (and no other image) is converted with dcm2niix, if that is installed
('pip install blindharmony[dicom]'). The NIfTI file and its JSON are kept in DIR/converted, without patient name and
dates; your files are left alone. Of several series, MR volumes count; those made from others (phase, projections,
reformatted) and those not called T1 or MPRAGE are passed over if others are left. If several remain, they are listed.

examples:
  blindharmony harmonize sub-01_T1w.nii.gz --out out
  blindharmony harmonize scan.mgz --mask brain.mgz --target mysite.safetensors --out out
  blindharmony harmonize study/ --participant-label 01 02 --out out
  blindharmony harmonize siteA/ --group --save-scanner siteA.json --out out
  blindharmony harmonize new.nii.gz --scanner siteA.json --out out
  blindharmony harmonize dicom/ --series 5 --out out
  blindharmony harmonize study/ --group-table scanners.tsv --out out
  blindharmony harmonize scan.nii.gz --mask-command "hd-bet -i {input} -o {output}" --out out
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "harmonize",
        help="harmonize scans to a target scanner",
        description="Harmonize scans of any scanner to a target scanner.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("scans", nargs="+", metavar="SCAN", help="file (.nii, .nii.gz, .mgz), folder, BIDS study, DICOM")
    p.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the results")
    p.add_argument("--target", default="ds002748", help="model file or included name (default: %(default)s)")
    p.add_argument("--mask", type=Path, help="brain mask on the scan's grid (one scan only)")
    p.add_argument("--mask-dir", type=Path, metavar="DIR", help="derivatives with a desc-brain mask of every scan")
    p.add_argument("--mask-command", metavar="CMD", help="brain extractor to call, with {input} and {output} in it")
    p.add_argument(
        "--method",
        default="curve",
        metavar="NAME",
        choices=METHODS,
        help="curve (default), match (histogram matching only), latent (published iteration), latent-published",
    )
    group.add_options(p)
    dicom.add_options(p)
    p.add_argument("--participant-label", "--participant_label", nargs="+", metavar="LABEL", help="BIDS subjects")
    p.add_argument("--suffix", default="T1w", help="BIDS suffix of the contrast (default: %(default)s)")
    p.add_argument("--no-refine", action="store_true", help="only an intensity curve: leave noise and blur alone")
    p.add_argument("--uncertainty", action="store_true", help="also write the error bar of every voxel")
    p.add_argument("--keep-bias", action="store_true", help="leave the scan's own bias field in the result")
    p.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    p.add_argument("--seed", type=whole, default=0, help="equal seeds give equal files (default: %(default)s)")
    p.add_argument("--no-report", action="store_true", help="write no HTML report")
    p.add_argument("--viewer", action="store_true", help="also write a page to scroll through both volumes")
    p.add_argument("--json", action="store_true", help="for machines: one JSON object a scan, a line each")
    p.add_argument("--overwrite", action="store_true", help="replace existing results")
    p.add_argument("-q", "--quiet", action="store_true", help="print only results and problems")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Harmonize every scan; one that fails does not stop the others."""
    group.check(arguments)
    scans, unconverted = dicom.with_dicom_converted(arguments, screen)
    paths, unfound = found_scans(scans, arguments.participant_label, arguments.suffix)
    missing = [*unconverted, *unfound]
    _check(paths)
    masks = given_masks(arguments.mask, arguments.mask_dir, paths, command=arguments.mask_command)
    # Only now the slow imports: a typing error should answer at once.
    from blindharmony.harmonization.scanner import ScannerModel
    from blindharmony.pipeline import harmonize
    from blindharmony.target import load_target

    target = load_target(arguments.target)
    outcomes = Outcomes(screen, json=arguments.json)
    for problem in missing:
        outcomes.fail(problem)
    groups = group.groups_of(arguments, paths)
    if groups:
        # A group takes a minute a scan before its first result would be refused.
        for path in paths:
            _not_there(arguments, path, masks)
    elif arguments.scanner:
        ScannerModel.load(arguments.scanner, target)
    with group.prepared_scans(arguments.out, paths) if groups else nullcontext() as cache:
        scanners = group.fitted_scanners(arguments, groups, masks, target, cache, screen)
        for index, path in enumerate(paths):
            name = path.name if len(paths) == 1 else f"{path.name} ({index + 1} of {len(paths)})"
            screen.note(f"{name}: harmonizing to {target.info.name}")
            try:
                _not_there(arguments, path, masks)
                with screen.progress(name) as stage:
                    result = harmonize(
                        path,
                        target,
                        mask=masks.get(path),
                        mask_command=arguments.mask_command,
                        method=arguments.method,
                        scanner=scanners.get(path, arguments.scanner),
                        refine=not arguments.no_refine,
                        cache=cache,
                        keep_bias=arguments.keep_bias,
                        device=arguments.device,
                        seed=arguments.seed,
                        progress=stage,
                    )
                    stage("writing", 0.5)
                    files = result.save(
                        arguments.out,
                        report=not arguments.no_report,
                        viewer=arguments.viewer,
                        uncertainty=arguments.uncertainty,
                        overwrite=arguments.overwrite,
                    )
            except UsageError:
                raise
            except Exception as error:
                if arguments.debug and not isinstance(error, BlindHarmonyError):
                    raise
                outcomes.fail(reportable(error, path), path)
            else:
                outcomes.done(path, result, files)
                if arguments.uncertainty and result.estimate.error is None:
                    screen.problem(
                        f"{path.name}: warning: no error bar is written, this method or target does not know it"
                    )
    screen.failures(outcomes.failed, len(paths) + len(missing))
    return outcomes.code


def _check(paths: list[Path]) -> None:
    names = Counter(name for p in paths for name in result_names(p.name).values())
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UsageError(
            f"several scans would be written as {twice[0]}", remedy="harmonize them into different folders"
        )


def _not_there(arguments: argparse.Namespace, path: Path, masks: dict[Path, Path]) -> None:
    """Notice an existing result before the work, not after it."""
    for file in (arguments.out / name for name in result_names(path.name).values()):
        if path in masks and file.resolve() == masks[path].resolve():
            raise OutputError("this mask would be replaced by a result", remedy="choose another --out", path=file)
        if file.exists() and not arguments.overwrite:
            raise OutputError("exists already", remedy="pass --overwrite or choose another folder", path=file)
