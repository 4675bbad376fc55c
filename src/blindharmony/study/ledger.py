"""The output folder of a study: what is planned and done, and how results get there.

Whatever a run has to know later lies below ``OUT/.blindharmony`` (:class:`Ledger`): the plan, hashes of input files,
summaries and fitted scanners, and one small record for each scan, which is written after its results and makes them
count (:func:`publish`). So a run that was killed at any moment goes on where it was.

Beside that, what makes the folder a BIDS derivative: checks of data set and output folder, the official validator where
it is installed, ``dataset_description.json`` and ``.bidsignore``. And what the size of scans costs in memory and disk.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from math import prod
from pathlib import Path
from typing import Any

from blindharmony.commands import run_command
from blindharmony.errors import FULL, DiskFullError, InputError, OutputError, PreprocessingError, UsageError
from blindharmony.files import parse_json, write_sidecar, write_text
from blindharmony.version import VERSION

_THREADS = 4


def key_of(*parts: Any) -> str:
    """A short name of any JSON content: SHA-256, first 24 digits.

    Example:
        >>> key_of({"a": 1, "b": None}) == key_of({"b": None, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()[:24]


def hashed(paths: Iterable[Path], store: Path) -> dict[Path, str | None]:
    """SHA-256 of files, None for those that cannot be read.

    Hashes are kept with size, inode and times of modification and change; a file whose four are the same is not read
    again. (No program can set the time of change, so an exchanged file is noticed even if it was given the old date.)

    Args:
        paths: The files.
        store: Where hashes are kept.

    Raises:
        OutputError: If they cannot be kept.
    """
    earlier = _kept(store)
    wanted = sorted(set(paths))
    with ThreadPoolExecutor(_THREADS) as pool:
        entries = dict(zip(wanted, pool.map(lambda p: file_state(p, earlier.get(str(p))), wanted), strict=True))
    fresh = {**earlier, **{str(p): entry for p, entry in entries.items() if entry}}
    if fresh != earlier:
        write_text(store, json.dumps(fresh, indent=0, sort_keys=True) + "\n", overwrite=True)
    return {p: entry[-1] if entry else None for p, entry in entries.items()}


def file_state(path: Path, earlier: Sequence[Any] | None = None) -> list[Any] | None:
    """Size, inode, times of modification and change, and SHA-256 of a file; None if it cannot be read.

    Args:
        path: The file.
        earlier: Its state at another time. If all but the hash is as it was then, the file is not read.
    """
    state = _stamp(path)
    if state is None or (earlier and list(earlier[:-1]) == state):
        return list(earlier) if state and earlier else None
    try:
        with path.open("rb") as file:
            return [*state, hashlib.file_digest(file, "sha256").hexdigest()]
    except OSError:
        return None


def _stamp(path: Path) -> list[Any] | None:
    """What tells whether a file was touched; None for what is no regular file."""
    try:
        s = path.stat()
    except OSError:
        return None
    # A pipe would be waited for, a device read for ever. An inode can be larger than a number of JSON.
    return [s.st_size, str(s.st_ino), s.st_mtime_ns, s.st_ctime_ns] if stat.S_ISREG(s.st_mode) else None


def _kept(store: Path) -> dict[str, list[Any]]:
    try:
        content = parse_json(store.read_text())
    except (OSError, ValueError):
        return {}  # a lost or damaged store costs time, nothing else
    return content if isinstance(content, dict) else {}


# Measured: 1.4 GB for 15 million voxels, 3.0 GB for a whole head of 30 million (0.7 mm).
_BASE_GB, _GB_A_VOXEL, _LEAST_GB = 1.0, 7e-8, 2.0
# Kept of a prepared scan: its mask, its bias field, and the fields of two more looks.
_KEPT_BYTES = 1 + 3 * 4


def largest(paths: Iterable[Path]) -> int:
    """Voxels of the largest scan, by the headers; what cannot be read counts nothing here."""
    return max((_voxels(path) for path in paths), default=0)


def memory_gb(voxels: int) -> float:
    """What a worker needs for a scan of so many voxels.

    Example:
        >>> [round(memory_gb(int(millions * 1e6)), 1) for millions in (5, 15, 30, 75)]
        [2.0, 2.0, 3.1, 6.2]
    """
    return max(_LEAST_GB, _BASE_GB + _GB_A_VOXEL * voxels)


def kept_gb(voxels: int) -> float:
    """Disk that a prepared scan takes at most while its group is fitted.

    Example:
        >>> round(kept_gb(256 * 256 * 176), 2)
        0.15
    """
    return _KEPT_BYTES * max(voxels, 1) / 1e9


def _voxels(path: Path) -> int:
    import nibabel as nib  # late: options are checked before anything slow is read

    from blindharmony.io.headers import check_header

    try:
        check_header(path)  # a header of a stranger may ask for any amount of memory
        image: Any = nib.load(path)
        return prod(int(n) for n in image.shape)
    except Exception:  # a damaged scan has its own message when its turn comes
        return 0


FOLDER = ".blindharmony"


@dataclass(frozen=True)
class Ledger:
    """The records of an output folder.

    Attributes:
        out: The output folder.
    """

    out: Path

    @property
    def home(self) -> Path:
        """Where records, intermediate results and the lock are."""
        return self.out / FOLDER

    def scan(self, scan_id: str) -> Path:
        """The folder of one scan's record and summaries."""
        return self.home / "scans" / scan_id

    def summary(self, scan_id: str, stage: int, key: str) -> Path:
        """The summary of a scan in a round of fitting."""
        return self.scan(scan_id) / f"round{stage + 1}.{key}.safetensors"

    def scanner(self, key: str) -> Path:
        """A fitted scanner."""
        return self.home / "scanners" / f"{key}.json"

    def note(self, key: str) -> dict[str, Any] | None:
        """What the fit of a scanner said, if it is finished."""
        return read_json(note_path(self.scanner(key))) if self.scanner(key).exists() else None

    def staging(self, run: str, scan_id: str) -> Path:
        """Where a run writes a scan's results before they get their names."""
        return self.home / "staging" / run / scan_id

    def prepared(self, scan_id: str) -> Path:
        """Where a scan's preparation is kept while its group is fitted."""
        return self.scan(scan_id) / "prepared"

    def record(self, scan_id: str) -> dict[str, Any] | None:
        """A scan's record, None if there is none or it is damaged."""
        return read_json(record_path(self.scan(scan_id)))

    def write(self, scan_id: str, record: Mapping[str, Any]) -> None:
        """Replace a scan's record.

        Raises:
            OutputError: If it cannot be written.
        """
        write_sidecar(record_path(self.scan(scan_id)), record, overwrite=True)

    def spoiled(self, record: Mapping[str, Any], *, read: bool = False) -> dict[str, str]:
        """Results of a record that are not as they were written: place → ``missing`` or ``changed``.

        A result whose size, inode and times are those of the record is not read: a study of a thousand scans has 25 GB
        of results, and what changes a file changes its times. Any other is, and its hash decides: a folder that was
        copied is read once (:meth:`stamp`). What a disk forgets by itself only reading finds. Records of version 0.1
        know sizes only.

        Args:
            record: Of a scan.
            read: Read every result.
        """
        files, problems = _mapping(record, "files"), {}
        for place, size in _mapping(record, "outputs").items():
            file, old = self.out / place, files.get(place)
            if isinstance(old, list) and old:
                state = file_state(file, None if read else old)
                whole = state is not None and state[-1] == old[-1]
            else:
                whole = _size(file) == size
            if not whole:
                problems[place] = "changed" if os.path.lexists(file) else "missing"
        return problems

    def whole(self, record: Mapping[str, Any]) -> bool:
        """Whether all results of a record are as they were written, as far as :meth:`spoiled` looks."""
        return not self.spoiled(record)

    def stamp(self, scan_id: str, record: Mapping[str, Any]) -> None:
        """Note the inodes and times of results that are whole, so that a copied folder is read once.

        Raises:
            OutputError: If the record cannot be written.
        """
        files = _mapping(record, "files")
        now = {place: [*(_stamp(self.out / place) or []), old[-1]] for place, old in files.items()}
        if now != files:
            self.write(scan_id, {**record, "files": now})

    def finished(self, scan_id: str) -> bool:
        """Whether a scan is done and all its results are there."""
        record = self.record(scan_id)
        return record is not None and record.get("status") == "done" and self.whole(record)

    def sweep(self) -> None:
        """Remove what runs that were killed left unfinished. Only for the holder of the lock."""
        shutil.rmtree(self.home / "staging", ignore_errors=True)
        # Only a writer that died leaves its temporary file.
        for left in self.home.rglob(".*.tmp*"):
            left.unlink(missing_ok=True)
        for left in self.out.glob(".*.tmp*"):
            left.unlink(missing_ok=True)


def record_path(folder: Path) -> Path:
    """The record in a scan's folder."""
    return folder / "record.json"


def note_path(scanner: Path) -> Path:
    """What a fit said, beside the scanner it fitted."""
    return scanner.with_suffix(".note.json")


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object of any size (a plan grows with its cohort), None if it is not there or is none.

    Raises:
        InputError: If the disk does not give it: what it says is not to be taken for unsaid.
    """
    try:
        if not path.is_file():
            return None
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise InputError(what, remedy="check the disk and run again, or remove the file", path=path) from None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def planned(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Scan's id → place, group and why, of all runs in this folder."""
    return dict((read_json(ledger.home / "plan.json") or {}).get("scans", {}))


def write_tsv(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    """Write a tab-separated table; what is None or empty is ``n/a``, as BIDS wants it.

    Raises:
        OutputError: If it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
    table.writerow(head)
    for row in rows:
        table.writerow([_cell(value) for value in row])
    return write_text(path, text.getvalue(), overwrite=True)


def _cell(value: object) -> str:
    return " ".join(str(value).split()) or "n/a" if value is not None else "n/a"


def _mapping(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    content = record.get(name)
    return content if isinstance(content, dict) else {}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


_BIDS = "1.10.0"
_NAME = "blindharmony"
_IGNORED = ("*.html", "*.tsv", ".blindharmony/")
_FILE = "dataset_description.json"


def check_input(root: Path) -> dict[str, Any]:
    """A data set's description.

    Raises:
        InputError: If it has none with a name and a BIDS version.
    """
    description = read_json(root / _FILE)
    if description is None or not all(isinstance(description.get(k), str) for k in ("Name", "BIDSVersion")):
        raise InputError(
            f"no {_FILE} with Name and BIDSVersion",
            remedy="write one, or pass --skip-bids-validation",
            path=root,
        )
    return description


def check_output(root: Path, out: Path) -> None:
    """Refuse folders that belong to others.

    Raises:
        UsageError: If results would lie among the scans.
        OutputError: If the folder holds another program's results.
    """
    here, there = out.resolve(), root.resolve()
    if here == there or there.is_relative_to(here):
        raise UsageError(
            "the output folder holds the data set", remedy="choose another, such as derivatives/blindharmony"
        )
    below = here.relative_to(there).parts if here.is_relative_to(there) else ("derivatives",)
    if below[0] not in ("derivatives", "sourcedata", "code"):
        raise UsageError("the output folder lies among the scans", remedy="choose one below derivatives/")
    if (out / _FILE).exists():
        makers = (read_json(out / _FILE) or {}).get("GeneratedBy")
        names = [m.get("Name") for m in makers if isinstance(m, dict)] if isinstance(makers, list) else []
        if _NAME not in names:
            raise OutputError("holds another program's results", remedy="choose an empty folder", path=out)
    elif out.is_dir() and any(out.glob("sub-*")):
        raise OutputError("holds participants of something else", remedy="choose an empty folder", path=out)


def describe(root: Path, out: Path, target: str, suffix: str = "T1w") -> None:
    """Write both files; equal input gives equal bytes.

    Args:
        root: The data set.
        out: The output folder.
        target: Name of the target.
        suffix: BIDS suffix of the contrast.

    Raises:
        OutputError: If they cannot be written.
    """
    description = read_json(root / _FILE) or {}
    # Relative, so that data set and results can be moved together.
    link = os.path.relpath(root.resolve(), out.resolve())
    doi = description.get("DatasetDOI")
    source = {"URL": f"https://doi.org/{_bare(doi)}", "DOI": doi} if isinstance(doi, str) and doi else {"URL": link}
    content = {
        "Name": f"{description.get('Name', root.resolve().name)}: {suffix} scans harmonized to '{target}'",
        "BIDSVersion": _BIDS,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": _NAME, "Version": VERSION, **_home()}],
        "SourceDatasets": [source],
        "DatasetLinks": {"raw": link},
    }
    write_sidecar(out / _FILE, content, overwrite=True)
    write_text(out / ".bidsignore", "\n".join(_IGNORED) + "\n", overwrite=True)


def _bare(doi: str) -> str:
    return doi.removeprefix("https://doi.org/").removeprefix("doi:")


def _home() -> dict[str, str]:
    """Where the code is, if the package says so."""
    try:
        links = metadata(_NAME).get_all("Project-URL") or []
    except PackageNotFoundError:
        return {}
    places = dict(str(link).split(", ", 1) for link in links if ", " in str(link))
    found = next((places[k] for k in ("Source", "Repository", "Homepage") if k in places), "")
    return {"CodeURL": found} if found else {}


_COMMAND, _VALIDATOR_S = "bids-validator-deno", 3600


def check_with_validator(root: Path) -> None:
    """Stop at a data set that the official validator refuses; without a validator nothing is checked.

    Raises:
        InputError: With the first errors.
    """
    errors = validation_errors(root)
    if errors:
        first = "; ".join(sorted({f"{e.get('code')} in {e.get('location')}" for e in errors})[:3])
        raise InputError(
            f"the BIDS validator finds {len(errors)} errors, such as {first}",
            remedy="correct them, or pass --skip-bids-validation",
            path=root,
        )


def validation_errors(root: Path) -> list[dict[str, Any]] | None:
    """The validator's errors, None if there is no validator or it cannot run."""
    command = shutil.which(_COMMAND, path=str(Path(sys.executable).parent)) or shutil.which(_COMMAND)
    if command is None:
        return None
    try:
        words, remedy = [command, str(root), "--json"], "pass --skip-bids-validation"
        ran = run_command(words, called="the BIDS validator", seconds=_VALIDATOR_S, remedy=remedy, check=False)
        issues = json.loads(ran.stdout)["issues"]["issues"]
    except (PreprocessingError, ValueError, KeyError, TypeError):
        return None
    return [issue for issue in issues if issue.get("severity") == "error"]


def publish(staged: Path, out: Path, folder: str, home: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Move all files of a folder to their place and write the scan's record, which makes them count.

    Killed in between, some files are there that the record (none, or that of an earlier run) does not describe: the
    next run sees it by their hashes or by what they were made of, and writes them again. The move itself is atomic, so
    no name ever stands for half a file.

    Args:
        staged: Folder of finished files, on the output's own disk.
        out: The output folder.
        folder: Place of the files below it.
        home: The scan's folder in the ledger.
        record: What the record says besides the outputs.

    Returns:
        The record as written.

    Raises:
        OutputError: If ``folder`` leads out of ``out``, or the disk does not take the files.
    """
    place = inside(out, folder)
    old = read_json(record_path(home)) or {}
    outputs = {}
    try:
        place.mkdir(parents=True, exist_ok=True)
        # JSON last: where the sidecar is, everything is.
        for file in sorted(staged.iterdir(), key=lambda f: (f.suffix == ".json", f.name)):
            outputs[f"{folder}/{file.name}"] = file.stat().st_size
            file.replace(place / file.name)
        _settle(place)
    except OSError as error:
        kind = DiskFullError if error.errno in FULL else OutputError
        what = f"the results cannot be moved to their place ({error.strerror})"
        raise kind(what, remedy="check the output folder and run again", path=place) from error
    files = {name: file_state(out / name) for name in outputs}
    if lost := [name for name, state in files.items() if state is None]:
        what = "this result was written and cannot be read"
        raise OutputError(what, remedy="check the disk and run again", path=out / lost[0])
    whole = {**record, "outputs": outputs, "files": files}
    write_sidecar(record_path(home), whole, overwrite=True)
    remove(out, [p for p in old.get("outputs", {}) if p not in outputs])
    shutil.rmtree(staged, ignore_errors=True)
    return whole


def inside(out: Path, folder: str) -> Path:
    """A place below the output folder, links followed.

    Raises:
        OutputError: If it is not below it.
    """
    place, root = (out / folder).resolve(), out.resolve()
    if not place.is_relative_to(root) or place == root:
        raise OutputError("leads out of the output folder", remedy="remove the link", path=out / folder)
    return out / folder


def remove(out: Path, places: list[str]) -> None:
    """Remove results that no longer belong to their scan; only names below the output folder."""
    for place in places:
        file = out / place
        if file.parent.resolve().is_relative_to(out.resolve()):
            file.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    # After a power cut a record must not stand for moves that the disk has forgotten.
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no such call for folders
            os.fsync(handle)
    finally:
        os.close(handle)
