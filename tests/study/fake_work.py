"""Work without MR: milliseconds instead of minutes, with a diary of everything that was begun.

A scan file says how it behaves: ``fail`` fails, ``full`` meets a full disk, ``die`` kills its worker every time,
``die once`` the first time.
"""

import hashlib
import os
import signal
import time
from pathlib import Path

from blindharmony.errors import InputError, OutputError
from blindharmony.files import write_bytes, write_sidecar
from blindharmony.study.ledger import note_path, publish


def look(asked):
    _begin("look", asked)
    if asked["first"] and "fails at the second look" in Path(asked["scan"]).read_text():
        raise InputError("the scan is a fake", remedy="take another", path=asked["scan"])
    write_bytes(Path(asked["file"]), _content(asked["scan"], asked["first"]), overwrite=True)
    return {}


def fit(asked):
    summaries = b"".join(Path(p).read_bytes() for p in asked["summaries"])
    file = write_bytes(Path(asked["file"]), hashlib.sha256(summaries).hexdigest().encode(), overwrite=True)
    note = {"again": not asked["first"], "scans": len(asked["summaries"])}
    write_sidecar(note_path(file), note, overwrite=True)
    return note


def harmonize(asked):
    _begin("harmonize", asked)
    staged, name = Path(asked["staging"]), asked["place"].rpartition("/")[2].split("_T1w")[0]
    content = _content(asked["scan"], asked["scanner"])
    staged.mkdir(parents=True, exist_ok=True)
    for ending in ("desc-harmonized_T1w.nii.gz", "desc-harmonized_T1w.json"):
        with (staged / f"{name}_{ending}").open("wb") as file:
            for part in (content, b"x" * 5000, hashlib.sha256(content).hexdigest().encode()):
                file.write(part)
                file.flush()
                time.sleep(0.001)
    record = {**asked["record"], "status": "done", "seconds": 1.0, "seed": asked["seed"]}
    return publish(staged, Path(asked["out"]), asked["folder"], Path(asked["home"]), record)


def whole(path):
    """Whether a result is complete."""
    content, _, rest = path.read_bytes().partition(b"x" * 5000)
    return rest == hashlib.sha256(content).hexdigest().encode()


def _content(scan, model):
    text = Path(scan).read_bytes()
    return text + (Path(model).read_bytes() if model else b"alone")


def _begin(stage, asked):
    if diary := os.environ.get("FAKE_DIARY"):
        with Path(diary).open("a") as file:
            file.write(f"{stage} {Path(asked['scan']).name} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\n")
    time.sleep(0.002)
    behaviour = Path(asked["scan"]).read_text().split(":")[0]
    if behaviour == "fail":
        raise InputError("the scan is a fake", remedy="take another", path=asked["scan"])
    if behaviour == "full":
        raise OutputError("the disk is full", remedy="free some space", path=asked["scan"])
    mark = Path(asked["scan"]).with_suffix(".died")
    if behaviour == "die" or (behaviour == "die once" and not mark.exists()):
        mark.touch()
        time.sleep(0.4)  # a Dask nanny that has not yet heard of its worker's start does not start another
        os.kill(os.getpid(), signal.SIGKILL)
