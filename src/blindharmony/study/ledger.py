"""The output folder of a study: what is planned and done, and how results get there.

Whatever a run has to know later about a scan is in one small record, ``OUT/.blindharmony/scans/SCAN/record.json``: what
is planned for it, the hash of what was read, and what became of it (:class:`Ledger`). A record that says *done* is
written after its results and makes them count (:func:`publish`), so a run that was killed at any moment goes on where
it was. No file is shared by two scans: a job of an array reads and writes what belongs to its own scans, however many
others there are.

Beside that, what the size of scans costs in memory and disk.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

from blindharmony.errors import FULL, DiskFullError, InputError, OutputError
from blindharmony.files import bytes_there, parse_json, write_bytes, write_sidecar, write_text


def key_of(*parts: Any) -> str:
    """A short name of any JSON content: SHA-256, first 24 digits.

    Example:
        >>> key_of({"a": 1, "b": None}) == key_of({"b": None, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()[:24]


def file_state(path: Path, *earlier: Sequence[Any] | None) -> list[Any] | None:
    """Size, inode, times of modification and change, and SHA-256 of a file; None if it cannot be read.

    Size, inode and times of modification and change tell whether it was read before: a file whose four are those of an
    earlier state is not read again. (No program can set the time of change, so an exchanged file is noticed even if it
    was given the old date.)

    Args:
        path: The file.
        *earlier: Its states at other times, as far as they are known.
    """
    now = _stamp(path)
    if now is None:
        return None
    for state in earlier:
        if isinstance(state, list) and len(state) > len(now) and state[:-1] == now:
            return state
    try:
        with path.open("rb") as file:
            return [*now, hashlib.file_digest(file, "sha256").hexdigest()]
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


# Measured: 1.4 GB for 15 million voxels, 3.0 GB for a whole head of 30 million (0.7 mm).
_BASE_GB, _GB_A_VOXEL, _LEAST_GB = 1.0, 7e-8, 2.0
# Kept of a prepared scan: its mask, its bias field, the fields of two more looks, and its refined brain.
_KEPT_BYTES = 1 + 4 * 4


#: Seconds of one core, about: the first look at a scan of a group, and each later one.
LOOKS = (7.0, 4.0)
#: The same of its harmonization once it lies prepared, and of its preparation if nobody has looked at it before.
HARMONIZED, PREPARED = 9.0, 5.0


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
        0.2
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
#: Where fitted scanners are among the results.
SCANNERS = "scanners"
#: Where BIDS has a place for what a program says of its work: the tables of scans and of failures.
LOGS = "logs"
# Versions before 0.2 laid them at the top, where the validator accepts no table that it does not know.
_AT_THE_TOP = ("cohort.tsv", "cohort.json", "failures.tsv", "failures.json")
_SCANNER = re.compile(r"_[0-9a-f]{12,24}\.json$")


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
        """What the fit of a scanner said, if it is finished and the scanner is as it was fitted.

        Raises:
            InputError: If the disk does not give one of the two.
        """
        file = self.scanner(key)
        note = read_json(note_path(file))
        return note if note is not None and _is_model(file, note.get("digest")) else None

    def fit(self, group: str) -> Path:
        """What the present model of a scanner is fitted to."""
        return self.home / "fits" / f"{group}.json"

    def share(self, key: str, group: str) -> str:
        """Put a fitted scanner among the results, once for all its scans, and say where.

        Its name has the model's digest: results of an earlier fit still find theirs.

        Returns:
            The place below the output folder.

        Raises:
            OutputError: If it cannot be written.
        """
        place = self.shared(key, group)
        try:
            content = self.scanner(key).read_bytes()
        except OSError as error:
            what = f"this fitted scanner cannot be read ({error.strerror})"
            raise OutputError(what, remedy="check the disk and run again", path=self.scanner(key)) from None
        with suppress(OSError):
            if bytes_there(self.out / place) == content:
                return place
        write_bytes(inside(self.out, SCANNERS) / place.rpartition("/")[2], content, overwrite=True)
        return place

    def shared(self, key: str, group: str) -> str:
        """Where a fitted scanner is among the results."""
        return f"{SCANNERS}/{group}_{(self.note(key) or {}).get('digest') or key}.json"

    def spoiled_scanners(self, used: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Fitted scanners among the results that are not as they were written: place → ``missing`` or ``changed``.

        Args:
            used: Key and group of those that results name.
        """
        problems = {}
        for key, group in used:
            digest = (self.note(key) or {}).get("digest")
            file = self.out / (place := self.shared(key, group))
            if digest and not _is_model(file, digest):
                problems[place] = "changed" if os.path.lexists(file) else "missing"
        return problems

    def forget_scanners(self, used: Iterable[str]) -> list[str]:
        """Remove fitted scanners among the results that no result names any more, and say which.

        Args:
            used: Places of those that are named.
        """
        left = {
            f"{SCANNERS}/{file.name}" for file in (self.out / SCANNERS).glob("*.json") if _SCANNER.search(file.name)
        }
        gone = sorted(left - set(used))
        remove(self.out, gone)
        return gone

    def table(self, name: str) -> Path:
        """A table of all scans."""
        return self.out / LOGS / f"{name}.tsv"

    def write_table(
        self, name: str, columns: Mapping[str, Mapping[str, Any]], rows: Iterable[Sequence[object]]
    ) -> Path:
        """Write a table of all scans, and its data dictionary; tables of version 0.1 come to their new place.

        Raises:
            OutputError: If it cannot be written.
        """
        logs = inside(self.out, LOGS)
        table = write_tsv(logs / f"{name}.tsv", columns, rows)
        for old in _AT_THE_TOP:
            with suppress(OSError):  # it is not there, or has to stay
                (self.out / old).unlink() if (logs / old).exists() else (self.out / old).replace(logs / old)
        return table

    def staging(self, run: str, scan_id: str) -> Path:
        """Where a run writes a scan's results before they get their names."""
        return self.home / "staging" / run / scan_id

    def prepared(self, scan_id: str) -> Path:
        """Where a scan's preparation is kept while its group is fitted."""
        return self.scan(scan_id) / "prepared"

    def left_prepared(self) -> list[Path]:
        """Folders of prepared brains that wait for their scanner's fit, or were left by a killed run."""
        return sorted((self.home / "scans").glob("*/prepared"))

    def record(self, scan_id: str) -> dict[str, Any] | None:
        """A scan's record, None if there is none or it is damaged."""
        return read_json(record_path(self.scan(scan_id)))

    def entries(self) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Every scan of every run in this folder, by name: its id, what is planned for it, and its record."""
        old = _old_plan(self)
        try:
            names = {entry.name for entry in os.scandir(self.home / "scans")}
        except FileNotFoundError:
            names = set()
        for name in sorted({*names, *old}):
            record = self.record(name) or {}
            if plan := _mapping(record, "plan") or old.get(name):
                record = {"scan": plan.get("scan", name), "status": "not started", **record}
                yield name, {"group": "", "why": "", "size": 1, **plan}, record

    def write(self, scan_id: str, record: Mapping[str, Any]) -> None:
        """Replace what became of a scan; what is planned for it and the hash of what was read stay.

        Raises:
            OutputError: If it cannot be written.
        """
        old = self.record(scan_id) or {}
        write_sidecar(record_path(self.scan(scan_id)), {**_kept_of(old), **record}, overwrite=True)

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

    def adopt(self) -> None:
        """Take over the plan of version 0.1, which was one file for all scans. Only for the holder of the lock.

        Raises:
            OutputError: If a record cannot be written.
        """
        for scan_id, row in _old_plan(self).items():
            record = self.record(scan_id) or {"scan": row["scan"], "status": "not started"}
            if "plan" not in record:
                self.write(scan_id, {**record, "plan": {k: v for k, v in row.items() if k != "scan"}})
        (self.home / _OLD_PLAN).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what runs that were killed left unfinished. Only for the holder of the lock."""
        shutil.rmtree(self.home / "locks", ignore_errors=True)
        shutil.rmtree(self.home / "staging", ignore_errors=True)
        # Only a writer that died leaves its temporary file.
        elsewhere = (folder.glob(".*.tmp*") for folder in (self.out, self.out / LOGS, self.out / SCANNERS))
        for left in [*self.home.rglob(".*.tmp*"), *chain.from_iterable(elsewhere)]:
            if left.is_dir() and not left.is_symlink():  # results that ``harmonize`` was putting together
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def record_path(folder: Path) -> Path:
    """The record in a scan's folder."""
    return folder / "record.json"


def _is_model(scanner: Path, digest: object) -> bool:
    """Whether a fitted scanner is there, and of this digest if one is known.

    Raises:
        InputError: If the disk does not give it.
    """
    try:
        content = bytes_there(scanner)
    except OSError as error:
        what = f"this fitted scanner cannot be read ({error.strerror})"
        raise InputError(what, remedy="check the disk and run again", path=scanner) from None
    return content is not None and (not digest or hashlib.sha256(content).hexdigest().startswith(str(digest)))


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


_OLD_PLAN, _OLD_HASHES = "plan.json", "hashes.json"


def _old_plan(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Scan's id → its place, group, why it is in that, and how many are, as a run of version 0.1 has planned."""
    rows = _mapping(read_json(ledger.home / _OLD_PLAN) or {}, "scans")
    return {scan_id: row for scan_id, row in rows.items() if isinstance(row, dict) and isinstance(row.get("scan"), str)}


def old_hashes(ledger: Ledger) -> dict[str, Any]:
    """Place of a file → its state, as runs of version 0.1 kept them; empty if there were none."""
    try:
        return read_json(ledger.home / _OLD_HASHES) or {}
    except InputError:
        return {}  # a lost store costs time, nothing else


# What a record has beside what became of its scan.
_ALWAYS = ("plan", "read")


def _kept_of(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in _ALWAYS if name in record}


def write_if_new(path: Path, text: str) -> None:
    """Write a text that many jobs write alike; one that is there already stays as it is.

    Raises:
        OutputError: If it cannot be written.
    """
    with suppress(OSError):
        if bytes_there(path) == text.encode(errors="backslashreplace"):
            return
    write_text(path, text, overwrite=True)


def write_tsv(path: Path, columns: Mapping[str, Mapping[str, Any]], rows: Iterable[Sequence[object]]) -> Path:
    """Write a tab-separated table and its data dictionary; what is None or empty is ``n/a``, as BIDS wants it.

    Args:
        path: The table; the dictionary lies beside it, as JSON.
        columns: Name of each column → what the dictionary says of it.
        rows: The cells.

    Raises:
        OutputError: If it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, escapechar="\\")
    table.writerow(columns)
    for row in rows:
        table.writerow([_cell(value) for value in row])
    write_if_new(path.with_suffix(".json"), json.dumps(columns, indent=2, ensure_ascii=False) + "\n")
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
        # JSON last: where the sidecar is, everything is. A hidden name is a temporary one that could not be removed.
        finished = (file for file in staged.iterdir() if not file.name.startswith("."))
        for file in sorted(finished, key=lambda f: (f.suffix == ".json", f.name)):
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
    whole = {**_kept_of(old), **record, "outputs": outputs, "files": files}
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
