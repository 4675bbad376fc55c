"""Work without MR: milliseconds instead of minutes, with a diary of everything that was begun.

A scan file says how it behaves: ``fail`` fails, ``full`` meets a full disk, ``die`` kills its worker every time,
``die once`` the first time. A file ``.starved`` beside it takes the memory of its look.
"""

import hashlib
import os
import signal
import time
from pathlib import Path

from blindharmony.errors import DiskFullError, InputError, UsageError
from blindharmony.files import write_bytes, write_sidecar
from blindharmony.jobs.engine import Answer, Work
from blindharmony.study.ledger import note_path
from blindharmony.study.run import Pieces
from blindharmony.study.work import FitScanner, HarmonizeScan, LookAtScan, ScannerFit, ScanRecord


class FakeLook(LookAtScan):
    def do(self, tell):
        _begin(self)
        if self.earlier and "fails at the second look" in self.item.scan.path.read_text():
            raise InputError("the scan is a fake", remedy="take another", path=self.item.scan.path)
        if self.item.scan.path.with_suffix(".starved").exists():
            raise MemoryError
        write_bytes(self.file, _content(self, self.earlier), overwrite=True)
        return Answer()


class FakeFit(FitScanner):
    def do(self, tell):
        summaries = b"".join(file.read_bytes() for file in self.files)
        content = hashlib.sha256(summaries).hexdigest().encode()
        file = write_bytes(self.ledger.scanner(self.key), content, overwrite=True)
        fit = ScannerFit(
            again=not self.earlier, digest=hashlib.sha256(content).hexdigest()[:12], scans=len(self.summaries)
        )
        write_sidecar(note_path(file), fit.model_dump(), overwrite=True)
        return fit


class FakeHarmonize(HarmonizeScan):
    def do(self, tell):
        _begin(self)
        scan, staged = self.item.scan, self.emptied()
        name = scan.place.rpartition("/")[2].split("_T1w")[0]
        content = _content(self, self.scanner)
        staged.mkdir(parents=True, exist_ok=True)
        for ending in ("desc-harmonized_T1w.nii.gz", "desc-harmonized_T1w.json"):
            with (staged / f"{name}_{ending}").open("wb") as file:
                for part in (content, b"x" * 5000, hashlib.sha256(content).hexdigest().encode()):
                    file.write(part)
                    file.flush()
                    time.sleep(0.001)
        fingerprint = self.item.fingerprint(self.settings, self.scanner)
        record = ScanRecord(
            scan=scan.place,
            group=self.group,
            fingerprint=fingerprint,
            late=self.late,
            status="done",
            headline="done",
            seconds=1.0,
        )
        return self.published(staged, record)


class Number(Answer):
    number: int


class Count(Work):
    """Work that needs no files."""

    answers = Number
    names: tuple[str, ...]

    def do(self, tell):
        return Number(number=len(self.names))


FAKE = Pieces(FakeLook, FakeFit, FakeHarmonize)


def whole(path):
    """Whether a result is complete."""
    content, _, rest = path.read_bytes().partition(b"x" * 5000)
    return rest == hashlib.sha256(content).hexdigest().encode()


def _content(work, scanner):
    text = work.item.scan.path.read_bytes()
    return text + (work.ledger.scanner(scanner).read_bytes() if scanner else b"alone")


def _begin(work):
    scan = work.item.scan.path
    if diary := os.environ.get("FAKE_DIARY"):
        with Path(diary).open("a") as file:
            file.write(f"{work.stage} {scan.name} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    time.sleep(0.002)
    behaviour = scan.read_text().split(":")[0]
    if behaviour == "fail":
        raise InputError("the scan is a fake", remedy="take another", path=scan)
    if behaviour == "usage":
        raise UsageError("there is no method 'curv'", remedy="choose another")
    if behaviour == "full":
        raise DiskFullError("no room is left", remedy="free some space", path=scan)
    mark = scan.with_suffix(".died")
    if behaviour in ("hang once", "stop once") and not mark.exists():
        mark.touch()
        if behaviour == "stop once":  # it hears nothing any more, as one that waits for a dead disk
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1000)
    if behaviour == "die" or (behaviour == "die once" and not mark.exists()):
        mark.touch()
        time.sleep(0.4)  # a Dask nanny that has not yet heard of its worker's start does not start another
        os.kill(os.getpid(), signal.SIGKILL)
