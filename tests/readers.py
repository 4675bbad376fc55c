"""Every reader under one roof: a good file, ways to damage it, and what may come out."""

import gzip
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

import good_files
import model_mutations as models
import mutations as m
from blindharmony.errors import BlindHarmonyError
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.io.tables import scanner_table
from blindharmony.io.volume import read_volume
from blindharmony.io.write import write_like
from blindharmony.models.file import load_target
from blindharmony.models.target import card_rows
from blindharmony.preprocessing.recipe import PrepRecipe, prepare
from blindharmony.preprocessing.steps import Scan
from blindharmony.provenance import read_record
from blindharmony.training.page import read_log
from plain_nifti import contradiction
from targets import synthetic_target


class Late(BaseException):
    """Time is up; nothing that a reader catches, which TimeoutError is."""


class Outcome(NamedTuple):
    """``accepted`` and ``refused`` are good; ``crash``, ``message`` and ``silent`` are not."""

    name: str
    said: str


@dataclass(frozen=True)
class Kind:
    """A file format under attack.

    Attributes:
        name: File name.
        good: Makes the bytes of a good file.
        mutations: What may happen to them.
        read: Reads the file; gives what is wrong with the result, or nothing.
        share: Share of all cases.
        memory: MiB that reading may take beyond what was there.
    """

    name: str
    good: Callable[[], bytes]
    mutations: tuple[m.Mutation, ...]
    read: Callable[[Path, bytes], str]
    share: float = 1.0
    memory: int = 64


def damaged(kind: str, seed: int) -> bytes:
    """The good file of a kind, damaged as the seed says."""
    entry, rng = KINDS[kind], np.random.default_rng((seed, *kind.encode()))
    return entry.mutations[rng.integers(len(entry.mutations))](_good(kind), rng)


def outcome(kind: str, path: Path, content: bytes) -> Outcome:
    """Read a damaged file and judge what happens."""
    entry = KINDS[kind]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wrong = entry.read(path, content)
    except BlindHarmonyError as error:
        text = str(error)
        fine = text.isprintable() and error.remedy and str(path) in text and len(text) < 600
        return Outcome("refused" if fine else "message", text[:600])
    except Late:
        raise
    except MemoryError as error:
        return Outcome("memory", f"MemoryError {error}")
    except BaseException as error:
        return Outcome("crash", f"{type(error).__name__}: {str(error)[:200]}")
    return Outcome("silent" if wrong else "accepted", wrong)


@cache
def _good(kind: str) -> bytes:
    return KINDS[kind].good()


def _read_scan(path: Path, content: bytes) -> str:
    volume = read_volume(path)
    if not (np.isfinite(volume.data).all() and np.isfinite(volume.affine).all() and volume.data.dtype == np.float32):
        return "not finite"
    again = read_volume(write_like(volume, volume.data, path.with_name("again.nii.gz"), overwrite=True))
    if again.shape != volume.shape or not np.array_equal(again.data, volume.data):
        return "written and read again it has other voxels"
    if not np.allclose(again.affine, volume.affine, rtol=1e-4, atol=1e-3):
        return "written and read again it lies elsewhere"
    if volume.warnings or path.suffix == ".mgz":
        return ""
    return contradiction(gzip.decompress(content) if path.suffix == ".gz" else content, volume)


def _read_pair(path: Path, content: bytes) -> str:
    path.with_suffix(".img").write_bytes(good_files.head().tobytes("F"))
    read_volume(path)
    return ""


def _read_and_prepare(path: Path, content: bytes) -> str:
    volume = read_volume(path)
    mask = volume.data != volume.data[0, 0, 0]
    try:
        prepared = prepare(volume, PrepRecipe(n4=False), mask=Scan(mask.astype(np.float32), volume.affine, mask))
    except BlindHarmonyError as error:  # the pipeline adds the file's name
        raise type(error)(error.what, remedy=error.remedy, path=path) from error
    return "" if np.isfinite(prepared.scan.data).all() else "prepared scan is not finite"


def _read_target(path: Path, content: bytes) -> str:
    found = load_target(path)
    if not (np.isfinite(found.info.unit) and found.info.unit > 0):
        return f"unit {found.info.unit}"
    if not (np.diff(found.levels) > 0).all() or not 0 < found.levels[0] <= found.levels[-1] < 1:
        return "levels are no ranks"
    if not np.isfinite(found.mean_curve).all() or (np.diff(found.quantiles, axis=1) < 0).any():
        return "quantiles fall"
    if any(not all(map(str.strip, row)) for row in card_rows(found)):
        return "an empty line in its card"
    weights = found.pyramid.state_dict() if found.pyramid else {}
    if not all(w.isfinite().all() for w in weights.values()):
        return "weights are no numbers"
    return ""


@cache
def _memory_target():
    return replace(synthetic_target(), digest="0" * 12)


def _read_scanner(path: Path, content: bytes) -> str:
    found = ScannerModel.load(path, _memory_target())
    while found is not None:
        values = found.curve(np.linspace(-1, 10, 50, dtype=np.float32))
        if not np.isfinite(values).all() or np.ptp(values) == 0:
            return "the curve gives no numbers, or always one"
        if not (0 <= found.lift <= 1 and np.isfinite(found.disagreement) and found.scans > 0):
            return f"lift {found.lift}, disagreement {found.disagreement}, scans {found.scans}"
        found = found.next_round
    return ""


def _one_line(mutation: m.Mutation) -> m.Mutation:
    def mutate(content: bytes, rng: np.random.Generator) -> bytes:
        lines = content.splitlines()
        at = int(rng.integers(len(lines)))
        lines[at] = mutation(lines[at], rng)
        return b"\n".join(lines)

    return mutate


def _read_sidecar(path: Path, content: bytes) -> str:
    found = read_record(path)
    names = (found.source.name, *found.results)
    return "" if all(Path(name).name == name for name in names) else "a name leads to another folder"


def _read_log(path: Path, content: bytes) -> str:
    found = read_log(path)
    numbers = [n for rows in found.curves.values() for row in rows for n in row]
    return "" if np.isfinite([*numbers, found.seconds]).all() else "curves are no numbers"


def _read_table(path: Path, content: bytes) -> str:
    found = scanner_table(path)
    return "" if all(isinstance(v, str) for v in (*found, *found.values())) else "not words"


def _wild_text(content: bytes, rng: np.random.Generator) -> bytes:
    wild = (
        b"\x00",
        b"\t" * 3,
        b'"',
        b"a" * 200_000,
        "é".encode("latin-1"),
        b"\r",
        b"\n\n",
        "\ufeff".encode(),
        b"\x1b[2J",
    )
    at = int(rng.integers(len(content)))
    return content[:at] + wild[rng.integers(len(wild))] + content[at:]


_RAW = (m.bit_flips, m.header_flips, m.truncated, m.garbage_behind, m.spliced)
_JSON = (m.json_edit, m.json_edit, m.json_edit, m.deep_json, m.long_number, m.bit_flips, m.truncated, m.spliced)
_EDIT1, _EDIT2 = (m.field_edit(f, "<", count=3) for f in (m.NIFTI1, m.NIFTI2))
_EDIT_BIG, _EDIT_MGH = m.field_edit(m.NIFTI1, ">", count=3), m.field_edit(m.MGH, ">", count=3)
_PACKED1 = tuple(map(m.packed, (_EDIT1, _EDIT1, m.header_flips, m.spliced, m.garbage_behind, m.truncated)))


def _after_packing(mutation: m.Mutation) -> m.Mutation:
    return lambda content, rng: mutation(gzip.compress(content, 1, mtime=0), rng)


_PACK = (*map(_after_packing, (m.bit_flips, m.truncated, m.garbage_behind)), m.bomb)
KINDS = {
    "nifti1": Kind(
        "scan.nii", good_files.nifti, (*_RAW, _EDIT1, _EDIT1, _EDIT1, _EDIT1, m.swapped(348)), _read_scan, 20
    ),
    "nifti1-gz": Kind("scan.nii.gz", good_files.nifti, (*_PACKED1, *_PACK, m.extension_bomb), _read_scan, 16),
    "nifti1-big": Kind(
        "scan.nii", partial(good_files.nifti, order=">"), (*_RAW, _EDIT_BIG, _EDIT_BIG, _EDIT_BIG), _read_scan, 7
    ),
    "nifti1-f4": Kind(
        "scan.nii", partial(good_files.nifti, dtype="f4"), (*_RAW, _EDIT1, _EDIT1, _EDIT1), _read_scan, 8
    ),
    "nifti2": Kind(
        "scan.nii", partial(good_files.nifti, nib.Nifti2Image), (*_RAW, _EDIT2, _EDIT2, _EDIT2), _read_scan, 10
    ),
    "mgz": Kind(
        "scan.mgz", good_files.mgh, (*map(m.packed, (*_RAW, _EDIT_MGH, _EDIT_MGH, _EDIT_MGH)), *_PACK), _read_scan, 12
    ),
    "pair": Kind("scan.hdr", good_files.pair_header, (*_RAW, _EDIT1, _EDIT1, _EDIT1), _read_pair, 4),
    "prepare": Kind("scan.nii", good_files.brain, (_EDIT1,), _read_and_prepare, 2, 1024),
    "scanner": Kind("scanner.json", good_files.scanner, _JSON, _read_scanner, 8),
    "target": Kind(
        "target.safetensors",
        good_files.target,
        (
            *map(models.description_edit, (m.json_edit, m.deep_json, m.long_number)),
            *(
                models.table_edit,
                models.wild_values,
                m.bit_flips,
                m.truncated,
                m.header_flips,
                m.spliced,
                m.garbage_behind,
            ),
        ),
        _read_target,
        6,
        256,
    ),
    "sidecar": Kind("scan.json", good_files.sidecar, _JSON, _read_sidecar, 6),
    "log": Kind("run.log.jsonl", good_files.log, (*map(_one_line, _JSON), m.spliced), _read_log, 5),
    "table": Kind(
        "scanners.tsv", lambda: good_files.TABLE, (_wild_text, m.bit_flips, m.spliced, m.truncated), _read_table, 2
    ),
}
