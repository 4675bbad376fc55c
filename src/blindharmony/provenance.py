"""From a result on disk back to the run that made it.

:func:`rerun` repeats the run and compares the bytes; :func:`view` shows the harmonized scan beside the scan it was made
from. Both read the sidecar, which names scan, mask, target and settings (:func:`read_record`), and find the files again
by their names and hashes (:func:`find_input`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints, ValidationError, field_validator

from blindharmony.api import harmonize
from blindharmony.errors import InputError, ScannerError, TargetError, UsageError
from blindharmony.files import (
    WRITABLE,
    check_outputs,
    file_sha256,
    mask_name,
    parse_json,
    read_text,
    result_names,
    sidecar_name,
    split_name,
    viewer_name,
)
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.io.volume import Volume, read_volume
from blindharmony.models.card import included_targets
from blindharmony.models.file import load_target
from blindharmony.models.target import Target
from blindharmony.report.viewer import pack, write_viewer
from blindharmony.result import IN_DERIVATIVE, Digest, FileName, NamedScanner, NamedTarget, Parameters, SidecarPart
from blindharmony.version import versions

# In BIDS derivatives: a place in the data set.
BIDS_RAW = "bids:raw:"
Place = Annotated[str, StringConstraints(max_length=1000, pattern=rf"^({BIDS_RAW}[^\\]+|[^/\\]+)$")]


class Named(SidecarPart):
    """A file that must be found again."""

    name: FileName
    sha256: Digest


class Record(SidecarPart):
    """All that repeating a run needs.

    Attributes:
        sources: Name of the scan, or its place in the data set.
        source_sha256: Its SHA-256.
        target: The model.
        method: Name of the method.
        parameters: Its options.
        results: Name of each file written → its SHA-256.
        versions: Of everything that decides a result.
    """

    sources: tuple[Place]
    source_sha256: Digest
    target: NamedTarget
    method: str
    parameters: Parameters
    results: dict[FileName, Digest] = Field(min_length=1)
    versions: dict[str, str]

    @field_validator("parameters")
    @classmethod
    def _mask_is_a_file(cls, parameters: Parameters) -> Parameters:
        for mask in (parameters.mask, parameters.lesion_mask):
            if mask and not (mask.name and mask.sha256):
                raise ValueError("its mask was no file")
        return parameters

    @property
    def source(self) -> Named:
        """The scan."""
        return Named(name=self.sources[0].rpartition("/")[2], sha256=self.source_sha256)


def read_record(path: Path) -> Record:
    """Read the sidecar of a harmonized scan.

    Raises:
        InputError: If it is none, was written before runs could be repeated, or its scan or mask was no file.
    """
    remedy = "give the .json beside a harmonized scan"
    try:
        return Record.model_validate(parse_json(read_text(path)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])[:80]
        raise InputError(
            f"this sidecar cannot be repeated from ({where}: {first['msg'][:80]})", remedy=remedy, path=path
        ) from None
    except ValueError as error:
        raise InputError(f"this is no sidecar ({str(error)[:80]})", remedy=remedy, path=path) from None


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
    if options.steps:
        raise UsageError(
            "this result was made with preparation steps of somebody's own, which a sidecar only names",
            remedy="repeat it from Python, with the same Method",
            path=sidecar,
        )
    places = places_for(sidecar, inputs)
    scan = find_input(record.source, "scan", [*in_study(sidecar, record.sources[0]), *places], sidecar)
    mask, lesions = (
        find_input(Named.model_validate(dict(file)), name, places, sidecar) if file else None
        for name, file in (("mask", options.mask), ("lesion mask", options.lesion_mask))
    )
    model = _target(record, target, places, sidecar)
    scanner = _scanner(options.scanner, model, places, sidecar) if options.scanner else None
    try:
        settings = options.settings_of(record.method)
    except UsageError as error:
        raise InputError(error.what, remedy="use the sidecar as it was written", path=sidecar) from None
    if device:
        settings = settings.updated(device=device)
    # The first run's files are what is compared with.
    first = [sidecar, *(sidecar.with_name(name) for name in record.results)]
    image = next((file for file in record.results if sidecar_name(file) == sidecar.name), None)
    # The user may have given the result a name of its own.
    image = None if image in result_names(scan).values() else image
    outputs = [out / name for name in (*record.results, *result_names(scan, image).values())]
    check_outputs(outputs, [*first, scan, mask, lesions, target])
    result = harmonize(scan, model, settings, mask=mask, lesion_mask=lesions, scanner=scanner, progress=progress)
    files = result.save(
        out,
        name=image,
        report=any(name.endswith(".html") and not name.endswith(".viewer.html") for name in record.results),
        viewer=any(name.endswith(".viewer.html") for name in record.results),
        uncertainty=any("_desc-harmonizedSD" in name for name in record.results),
        overwrite=overwrite,
    )
    written = {file.name: file_sha256(file) for file in files}
    before, now = dict(record.versions), versions()
    if options.settings_digest:
        before["settings"], now["settings"] = options.settings_digest, result.settings.digest
    return Rerun(
        {name: written.get(name) == digest for name, digest in record.results.items()},
        files,
        tuple(f"{k} was {v}, here {now.get(k, 'missing')}" for k, v in before.items() if now.get(k) != v),
    )


def _target(record: Record, named: str | None, places: Sequence[Path], sidecar: Path) -> Target:
    """The model of the first run, known by its digest."""
    recorded = record.target
    if not recorded.digest:
        raise TargetError(
            f"its target model {recorded.name} was never saved", remedy="save it, and harmonize again", path=sidecar
        )
    files = [str(p) for p in places if recorded.file and p.name == recorded.file and p.is_file()]
    names = [named] if named else [n for n in (recorded.name,) if n in included_targets()] + files
    models = []
    for name in names:
        models.append(load_target(name))
        if models[-1].digest == recorded.digest:
            return models[-1]
    if models:
        raise TargetError(
            f"this target model has changed: its digest is {models[0].digest}, that of the run's {recorded.digest}",
            remedy="give the unchanged model with --target",
            path=names[0],
        )
    raise TargetError(
        f"its target model {recorded.file or recorded.name} was not found", remedy="give it with --target", path=sidecar
    )


def _scanner(recorded: NamedScanner, target: Target, places: Sequence[Path], sidecar: Path) -> ScannerModel:
    """The scanner model of the first run: the one in its sidecar, or the file that its study's scans share."""
    if recorded.model is not None:
        with suppress(ValueError):
            scanner = ScannerModel.parse(recorded.model)
            if scanner.digest == recorded.digest and scanner.target == target.digest:
                return scanner
        raise InputError("its scanner model was changed", remedy="use the sidecar as it was written", path=sidecar)
    place = Path((recorded.file or "").removeprefix(IN_DERIVATIVE))
    tops = [] if ".." in place.parts or place.is_absolute() else [folder for folder, _ in _derivatives(sidecar)]
    files = [folder / place for folder in tops] + [file for file in places if file.name == place.name]
    files = [file for file in files if place.name and file.is_file()]
    for file in files:
        scanner = ScannerModel.load(file, target)
        if scanner.digest == recorded.digest:
            return scanner
    if files:
        raise ScannerError(
            f"this scanner model has changed: its digest is not that of the run's, {recorded.digest}",
            remedy="give the unchanged one with --inputs",
            path=files[0],
        )
    raise ScannerError(
        f"its scanner model {place.name or recorded.digest} was not found",
        remedy="name the file or its folder with --inputs",
        path=sidecar,
    )


@dataclass(frozen=True, eq=False)
class Pair:
    """Before and after on one grid.

    Attributes:
        before: The scan.
        after: The harmonized scan.
        mask: Brain, shape of both.
        unit: Name of the intensity unit of ``after``.
    """

    before: Volume
    after: Volume
    mask: NDArray[np.bool_]
    unit: str


def view(
    result: Path,
    *,
    scan: Path | None = None,
    inputs: Sequence[Path] = (),
    out: Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the viewer page of a result; beside it, if ``out`` does not say another place.

    Args:
        result: The harmonized scan, or its sidecar or report.
        scan: The scan it was made from; looked for if not given.
        inputs: Files and folders to look in first.
        out: The HTML file.
        overwrite: Whether it may exist already.

    Raises:
        InputError: If result or scan is missing, damaged, or not of the other's shape.
        OutputError: If the page exists already, or cannot be written.
    """
    image = _image(result)
    pair = read_pair(image, scan=scan, inputs=inputs)
    packed = pack(pair.before.data, pair.after.data, pair.mask, pair.after.affine)
    page = out or image.with_name(viewer_name(image))
    sidecar = image.with_name(sidecar_name(image))
    mask = image.with_name(mask_name(split_name(image)[0] + ".nii.gz"))
    check_outputs([page], [image, sidecar, mask, scan, pair.before.path])
    name = pair.before.path.name if pair.before.path else image.name
    return write_viewer(*packed, page, name=name, unit=pair.unit, overwrite=overwrite)


def read_pair(image: Path, *, scan: Path | None = None, inputs: Sequence[Path] = ()) -> Pair:
    """Read a harmonized scan, the scan it was made from, and the mask beside it.

    Raises:
        InputError: As for :func:`view`.
    """
    after = read_volume(image)
    sidecar = _sidecar(image)
    before = read_volume(_scan(image, sidecar, scan, inputs))
    if before.shape != after.shape:
        raise InputError(
            f"the scan has shape {before.shape}, the result {after.shape}",
            remedy="give the scan it was made from with --scan",
            path=before.path,
        )
    target = sidecar.get("Target")
    name = target.get("Name") if isinstance(target, dict) else None
    return Pair(before, after, _mask(image, after), f"{name} units" if isinstance(name, str) else "its units")


def _image(result: Path) -> Path:
    """The harmonized scan that a sidecar or report belongs to."""
    if not result.exists():
        raise InputError("no such file", remedy="give a harmonized scan", path=result)
    if result.suffix not in (".json", ".html"):
        return result
    stem = result.name.removesuffix(result.suffix).removesuffix(".viewer")
    for extension in WRITABLE:
        if (image := result.with_name(stem + extension)).exists():
            return image
    raise InputError("no harmonized scan lies beside this file", remedy="give the scan itself", path=result)


def _sidecar(image: Path) -> dict[str, Any]:
    file = image.with_name(sidecar_name(image))
    if not file.exists():
        return {}
    try:
        content = parse_json(read_text(file))
    except ValueError as error:
        raise InputError(f"this is no sidecar ({str(error)[:80]})", remedy="remove it", path=file) from None
    return content if isinstance(content, dict) else {}


def _scan(image: Path, content: dict[str, Any], scan: Path | None, inputs: Sequence[Path]) -> Path:
    digest, sources = content.get("SourceSHA256"), content.get("Sources")
    if scan is not None:
        if isinstance(digest, str) and scan.is_file() and file_sha256(scan) != digest:
            raise InputError(
                f"this is not the scan that {image.name} was made from: its hash is another",
                remedy="give the unchanged scan",
                path=scan,
            )
        return scan
    if not (isinstance(digest, str) and isinstance(sources, list) and sources and isinstance(sources[0], str)):
        raise InputError(
            "which scan this was made from is not recorded beside it", remedy="name the scan with --scan", path=image
        )
    sidecar = image.with_name(sidecar_name(image))
    try:
        recorded = Named(name=Path(sources[0]).name, sha256=digest)
    except ValidationError:
        raise InputError("this is no sidecar", remedy="name the scan with --scan", path=sidecar) from None
    return find_input(recorded, "scan", [*in_study(image, sources[0]), *places_for(sidecar, inputs)], sidecar)


def _mask(image: Path, after: Volume) -> NDArray[np.bool_]:
    file = image.with_name(mask_name(split_name(image)[0] + ".nii.gz"))
    if file.exists():
        inside = np.asarray(read_volume(file).data > 0)  # our own: a mask of somebody else would be checked
        if inside.shape == after.shape and inside.any():
            return inside
    # Without a mask the window comes from whatever is not dark.
    return np.asarray(after.data > 0.2 * np.quantile(after.data, 0.99))


def places_for(sidecar: Path, inputs: Sequence[Path]) -> list[Path]:
    """Files that may belong to a run: in ``inputs`` with their subfolders, then near its sidecar.

    Raises:
        InputError: If one of ``inputs`` does not exist.
    """
    return [*(f for item in inputs for f in _files(item)), *_near(sidecar)]


def find_input(recorded: Named, what: str, places: Sequence[Path], sidecar: Path) -> Path:
    """The file with this name and hash.

    Raises:
        InputError: If there is none of this name, or none of them has the hash.
    """
    namesakes = [place for place in places if place.name == recorded.name and place.is_file()]
    for file in namesakes:
        if file_sha256(file) == recorded.sha256:
            return file
    included = Path(__file__).parent / "assets" / recorded.name  # the demo's scan, wherever its result is
    if not namesakes and included.is_file() and file_sha256(included) == recorded.sha256:
        return included
    if namesakes:
        raise InputError(
            f"this {what} has changed: its SHA-256 begins with {file_sha256(namesakes[0])[:12]}, "
            f"that of the run's {what} with {recorded.sha256[:12]}",
            remedy=f"give the unchanged {what} with --inputs",
            path=namesakes[0],
        )
    raise InputError(
        f"its {what} {recorded.name} was not found", remedy="name the file or its folder with --inputs", path=sidecar
    )


_FOLDERS_UP = 4


def in_study(result: Path, source: str) -> list[Path]:
    """Where BIDS derivatives say that a result's scan is; empty if they do not, or it is not there.

    Args:
        result: A file among the derivatives.
        source: What its sidecar names as its source.
    """
    place = source.removeprefix(BIDS_RAW)
    if ".." in Path(place).parts:
        return []
    for folder, description in _derivatives(result):
        links = description.get("DatasetLinks")
        link = links.get("raw") if isinstance(links, dict) else None
        if isinstance(link, str) and (file := folder / link / place).is_file():
            return [file]
    return []


def _derivatives(result: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The data sets that a file is in, the innermost first, with what each says of itself."""
    for folder in list(result.resolve().parents)[:_FOLDERS_UP]:
        try:
            description = parse_json(read_text(folder / "dataset_description.json"))
        except (InputError, ValueError):
            continue
        if isinstance(description, dict):
            yield folder, description


def _near(sidecar: Path) -> Iterator[Path]:
    for folder in (sidecar.parent, sidecar.parent / "converted", sidecar.parent.parent, Path()):
        if folder.is_dir():
            yield from folder.iterdir()


def _files(item: Path) -> Iterator[Path]:
    if not item.exists():
        raise InputError("no such file or folder", remedy="check --inputs", path=item)
    if item.is_file():
        yield item
    for folder, _, names in os.walk(item):
        yield from (Path(folder, name) for name in sorted(names))
