"""Repeat a run from its sidecar, and say whether the same bytes come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindharmony.errors import InputError, TargetError, UsageError
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.image import file_sha256
from blindharmony.lookup import find_input, in_study, places_for
from blindharmony.pipeline import harmonize
from blindharmony.record import Record, read_record
from blindharmony.target import Target, included_targets, load_target
from blindharmony.version import versions


@dataclass(frozen=True)
class Rerun:
    """A repeated run beside the first.

    Attributes:
        equal: Name of each result of the first run → whether its bytes came out again.
        files: What was written this time.
        changed: Software whose version is not that of the first run, one sentence each.
    """

    equal: dict[str, bool]
    files: tuple[Path, ...]
    changed: tuple[str, ...]


def rerun(
    sidecar: Path,
    out: Path,
    *,
    inputs: Sequence[Path] = (),
    target: str | None = None,
    mask_command: str | None = None,
    device: str | None = None,
    overwrite: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Rerun:
    """Repeat the run that a sidecar describes.

    Scan, mask and target are looked for by name and must have the hashes the sidecar gives: in ``inputs`` with their
    subfolders, where the data set of a BIDS derivative is, then beside the sidecar, in the folder above, and in the
    current folder.

    Args:
        sidecar: The JSON file of a harmonized scan.
        out: Folder for the results.
        inputs: Files and folders to look in first.
        target: Model file or included name, if it is not found by itself.
        mask_command: Brain extractor of the first run; a file is not trusted to name a program.
        device: Another device than that of the first run.
        overwrite: Whether results in ``out`` may be replaced.
        progress: Called with a stage and the share of it that is done.

    Raises:
        BlindHarmonyError: If the sidecar is none, or an input is missing or has changed.
    """
    record = read_record(sidecar)
    options = record.parameters
    if options.mask_command != mask_command:
        raise UsageError(
            f"this result was made with the mask command {options.mask_command!r}",
            remedy="a file is not trusted to start a program: give the same with --mask-command"
            if options.mask_command
            else "leave --mask-command out",
            path=sidecar,
        )
    places = places_for(sidecar, inputs)
    scan = find_input(record.source, "scan", [*in_study(sidecar, record.sources[0]), *places], sidecar)
    mask = None if options.mask is None else find_input(options.mask, "mask", places, sidecar)
    model = _target(record, target, places, sidecar)
    scanner = None
    if options.scanner is not None:
        try:
            scanner = ScannerModel.parse(options.scanner.model)
        except (ValueError, KeyError, TypeError):
            scanner = None
        if scanner is None or scanner.digest != options.scanner.digest or scanner.target != model.digest:
            raise InputError("its scanner model was changed", remedy="use the sidecar as it was written", path=sidecar)
    result = harmonize(
        scan,
        model,
        mask=mask,
        mask_command=mask_command,
        method=record.method,
        scanner=scanner,
        refine=options.refine,
        keep_bias=options.keep_bias,
        device=device or options.device,
        seed=options.seed,
        progress=progress,
    )
    files = result.save(
        out,
        report=any(name.endswith(".html") and not name.endswith(".viewer.html") for name in record.results),
        viewer=any(name.endswith(".viewer.html") for name in record.results),
        uncertainty=any("_desc-harmonizedSD" in name for name in record.results),
        overwrite=overwrite,
    )
    found = {file.name: file_sha256(file) for file in files}
    now = versions()
    return Rerun(
        {name: found.get(name) == digest for name, digest in record.results.items()},
        files,
        tuple(f"{k} was {v}, here {now.get(k, 'missing')}" for k, v in record.versions.items() if now.get(k) != v),
    )


def _target(record: Record, given: str | None, places: Sequence[Path], sidecar: Path) -> Target:
    """The model of the first run, known by its digest."""
    wanted = record.target
    own = [str(p) for p in places if wanted.file and p.name == wanted.file and p.is_file()]
    names = [given] if given else [n for n in (wanted.name,) if n in included_targets()] + own
    models = []
    for name in names:
        models.append(load_target(name))
        if models[-1].digest == wanted.digest:
            return models[-1]
    if models:
        raise TargetError(
            f"this target model has changed: its digest is {models[0].digest}, that of the run's {wanted.digest}",
            remedy="give the unchanged model with --target",
            path=names[0],
        )
    raise TargetError(
        f"its target model {wanted.file or wanted.name} was not found", remedy="give it with --target", path=sidecar
    )
