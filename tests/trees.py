"""Data sets as people and disks make them, from a seed, and what every command has to do with them.

A tree is a folder of images, a BIDS data set, FreeSurfer subjects or DICOM, with things in it that do not belong there:
pipes, devices, links in circles, empty and damaged files, tables in odd letters, other formats, earlier results. The
law: a command ends in time with an exit code that is documented, says why if it is not 0, shows no traceback, leaves
its input as it was, and every image is done or named with a reason. To ``serve`` they are dropped on its page
(``visitor.py``).
"""

import gzip
import io
import json
import os
import re
import signal
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from functools import cache, lru_cache
from pathlib import Path
from unittest import mock

import numpy as np

import blindharmony.cli.main as command
import blindharmony.models.file
import good_files
from blindharmony.errors import PreprocessingError, one_line
from readers import Late, damaged
from visitor import earlier_jobs, visited

COMMANDS = ("harmonize", "bids", "assess", "train", "view", "serve")
LAYOUTS = ("plain", "bids", "freesurfer", "dicom", "mixed")
_CODES = {0, 1, 2, 66}
_IMAGES = (".nii", ".nii.gz", ".mgz", ".mgh", ".img")
_ENDS_HERE = "the work is cut off here"


@cache
def _good(kind):

    return {"nii": good_files.nifti, "mgz": lambda: gzip.compress(good_files.mgh(), 1)}[kind]()


@contextmanager
def work_cut_off():
    """Scans are read and refused for real; behind reading, preparation ends with an error. Slow parts are read once."""

    def stop(*_, **__):
        raise PreprocessingError(_ENDS_HERE, remedy="nothing is to be done")

    with ExitStack() as stack:
        for place in ("preprocessing.recipe.run_steps", "training.target.training_data"):
            stack.enter_context(mock.patch(f"blindharmony.{place}", stop))
        parser = lru_cache(command.parser)
        stack.enter_context(mock.patch.object(command, "parser", parser))
        load, kept = blindharmony.models.file.load_target, {}

        def load_once(target):
            return (
                kept.setdefault(str(target), None) or kept.__setitem__(str(target), load(target)) or kept[str(target)]
            )

        for place in ("models.file", "api"):
            stack.enter_context(mock.patch(f"blindharmony.{place}.load_target", load_once))
        yield


def _image(path, rng):
    """An image, good or not, under a name that ends as images do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = path.name.lower().endswith(".gz")
    choice = rng.integers(12)
    if os.path.lexists(path):
        return
    if choice < 4:
        content = _good("mgz" if path.suffix.lower() == ".mgz" else "nii")
        path.write_bytes(gzip.compress(content, 1, mtime=0) if packed else content)
    elif choice == 4:
        path.write_bytes(damaged("nifti1-gz" if packed else "nifti1", int(rng.integers(10_000))))
    elif choice == 5:
        path.touch()
    elif choice == 6:
        os.mkfifo(path)
    elif choice == 7:
        path.symlink_to(rng.choice(["/dev/zero", "/dev/null", "/dev/tty"]))
    elif choice == 8:
        path.symlink_to(rng.choice([path.name, "../../.git/annex/objects/gone", "/nowhere/a.nii.gz", "."]))
    elif choice == 9:
        texts = ["/annex/objects/MD5E-s9--x.nii.gz", "version https://git-lfs.github.com/spec/v1\n", "<!DOCTYPE html>"]
        path.write_text(str(rng.choice(texts)))
    elif choice == 10:
        path.write_bytes(bytes(128) + b"DICM" + rng.bytes(300))
    else:
        path.mkdir()


_NAMES = (
    *("a", "b_T1", "scan 1", "mask_T1", "x_mask", "b_dseg", "a_desc-harmonized", "-dash", "ümlaut", "line\nbreak"),
    *("tab\there", "quote'\"", "sub-01_T1w", "sub-1_part-phase_T1w", "sub-1_echo-1_T1w", "sub-1_echo-2_T1w", "\udcff"),
    *("$(touch x)", "a" * 120, "c.d.e", "<script>"),
)
_ENDINGS = (".nii.gz", ".nii", ".mgz", ".NII.GZ", ".Nii", ".img", ".hdr", ".mnc", ".HEAD", ".PAR", ".dcm", ".txt", "")
_TABLES = (
    b"participant_id\tsite\nsub-01\tGE\nsub-02\tGE\n",
    b"participant_id\tsite\nsub-01\tGE\nsub-01\tPhilips\n",
    "\ufeffparticipant_id\tsite\r\nsub-01 \tn/a\r\n".encode(),
    "participant_id\tsite\nsub-01\tK\u00f6ln\n".encode("latin-1"),
    "participant_id\tsite\nsub-01\tGE\n".encode("utf-16"),
    *(b"", b"\x00\x01\x02", b"participant_id\n\n\n", b"participant_id\tsite\nsub-01\n", b"a,b\n1,2\n"),
)
_TEXTS = (b"", b"{", b"[]", b"[" * 50_000, b'{"a": NaN}', b"\xff\xfe{\x00", b'{"Manufacturer": 3, "EchoTime": "x"}')


def _text(path, rng, contents):
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        return
    if (choice := rng.integers(8)) == 0:
        os.mkfifo(path)
    elif choice == 1:
        path.symlink_to("/dev/zero")
    elif choice == 2:
        path.mkdir()
    else:
        path.write_bytes(contents[rng.integers(len(contents))])


def grown(root: Path, seed: int) -> str:
    """Make the tree of a seed; its layout."""
    rng = np.random.default_rng((seed, 25))
    layout = LAYOUTS[rng.integers(len(LAYOUTS))]
    root.mkdir()
    if layout in ("bids", "mixed"):
        _bids(root, rng)
    if layout in ("plain", "mixed"):
        for _ in range(rng.integers(1, 7)):
            name = _NAMES[rng.integers(len(_NAMES))] + _ENDINGS[rng.integers(len(_ENDINGS))]
            _image(root / name, rng)
    if layout == "freesurfer":
        for i in range(rng.integers(1, 4)):
            _image(root / f"s{i}/mri/orig.mgz", rng)
    if layout == "dicom" or rng.random() < 0.15:
        below = root / ("visit" if rng.random() < 0.5 else "")
        below.mkdir(exist_ok=True)
        for i in range(rng.integers(1, 4)):
            file = below / f"IM{i:04d}{rng.choice(['', '.dcm', '.img'])}"
            if not os.path.lexists(file):
                file.write_bytes(bytes(128) + b"DICM" + rng.bytes(200))
    for _ in range(rng.integers(3)):
        _odd(root, rng)
    return layout


def _bids(root, rng):
    good = json.dumps({"Name": "s", "BIDSVersion": "1.10.0"}).encode()
    if rng.random() < 0.75:
        (root / "dataset_description.json").write_bytes(good)
    else:
        _text(root / "dataset_description.json", rng, _TEXTS)
    for i in range(1, rng.integers(2, 5)):
        session = f"ses-{rng.integers(1, 3)}/" if rng.random() < 0.3 else ""
        anat = root / f"sub-0{i}" / session / "anat"
        words = f"sub-0{i}_{session.replace('/', '_')}"
        for more in rng.choice(["", "part-phase_", "echo-1_", "echo-2_", "run-1_", "acq-a!b_"], rng.integers(1, 3)):
            _image(anat / f"{words}{more}T1w{rng.choice(['.nii.gz', '.nii', '.NII.GZ'])}", rng)
        if rng.random() < 0.4:
            _text(anat / f"{words}T1w.json", rng, _TEXTS)
        if rng.random() < 0.3:
            _image(root / f"derivatives/fmriprep/sub-0{i}/anat/{words}desc-brain_mask.nii.gz", rng)
    if rng.random() < 0.5:
        _text(root / "participants.tsv", rng, _TABLES)


def _odd(root, rng):
    place = root / rng.choice(["loop", "sub-09", "extra", "derivatives", "more"])
    if os.path.lexists(place):
        return
    choice = rng.integers(5)
    if choice == 0:
        place.symlink_to(root)
    elif choice == 1:
        place.symlink_to(place.name)
    elif choice == 2:
        _image(place / "x.nii.gz", rng)
    elif choice == 3:
        os.mkfifo(place)
    else:
        place.touch()


def words_for(root: Path, out: Path, target: Path, seed: int) -> list[str]:
    """A command line for a tree."""
    rng = np.random.default_rng((seed, 26))
    verb = COMMANDS[rng.integers(len(COMMANDS))]
    images = sorted(
        path for path in root.rglob("*") if path.name.lower().endswith(_IMAGES) and "\udcff" not in str(path)
    )
    one = str(images[rng.integers(len(images))]) if images else str(root / "none.nii.gz")
    scans = [str(root)] if rng.random() < 0.75 else [one] if rng.random() < 0.5 else [one, str(root)]
    if verb == "view":
        return ["view", one, "--out", str(out / "page.html"), *(["--scan", one] if rng.random() < 0.6 else [])]
    if verb == "serve":
        folder = root if rng.random() < 0.1 else out / "page"
        if folder != root and rng.random() < 0.4:
            earlier_jobs(folder, rng)
        return ["serve", "--folder", str(folder), "--port", "0", *(["--target", one] if rng.random() < 0.1 else [])]
    if verb == "bids":
        words = ["bids", str(root), str(out), "participant", "--n-procs", "0", "--json", "--target", str(target)]
        words += ["--skip-bids-validation"]
        words += ["--scanner-column", "site"] if rng.random() < 0.4 else []
        return words + (["--mask-dir", str(root / "derivatives/fmriprep")] if rng.random() < 0.3 else [])
    if verb == "train":
        return ["train", *scans, "--out", str(out / "m.safetensors")]
    words = [verb, *scans, "--target", str(target), "--json"]
    words += ["--mask", one] if rng.random() < 0.1 else []
    if verb == "assess":
        return words
    words += ["--out", str(out)]
    if rng.random() < 0.3:
        table = root.with_name("table.tsv")
        table.write_bytes(b"scan\tscanner\na.nii.gz\tGE\nscan 1.nii.gz\tGE\nb_T1.nii.gz\tn/a\n")
        words += ["--group-table", str(table)]
    elif rng.random() < 0.3:
        words += ["--group"]
    return words


def _state(root):
    """Names, kinds, sizes and dates of all that is in a tree; links are not followed."""
    return {
        str(p): (s.st_mode, s.st_size, s.st_mtime_ns) for p in sorted(root.rglob("*")) if (s := p.lstat()) is not None
    }


def broken_law(root: Path, out: Path, words: list[str], seed: int, seconds: int = 20) -> list[str]:
    """Run a command on a tree: what the law is broken by, with the exit code before it."""
    before, broken = _state(root), []
    said, err = io.StringIO(), io.StringIO()
    visit = visited(root, said.getvalue, seed) if words[0] == "serve" else nullcontext()

    def late(*_):
        raise Late

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        with visit as visitor, redirect_stdout(said), redirect_stderr(err):
            code = command.main(words)
    except SystemExit as end:
        code = end.code
    except Late:
        return ["late", f"more than {seconds} s"]
    except BaseException as error:
        return ["crash", f"{type(error).__name__}: {error}"]
    finally:
        signal.alarm(0)
    text = err.getvalue()
    if visitor:
        broken += visitor.broken
        if visitor.came and not text.splitlines()[-1].startswith("stopped"):
            broken.append(f"no last line: {text.splitlines()[-1:]}")
    if code not in _CODES:
        broken.append(f"exit code {code}: {text.strip().splitlines()[-1:]}")
    if "Traceback" in text or "internal error" in text:
        broken.append(f"an internal error: {text.strip()[-300:]}")
    if code and "blindharmony: " not in text and "usage: " not in text:
        broken.append(f"exit code {code} without a word")
    if _state(root) != before:
        broken.append("the input was changed")
    lines = (
        [json.loads(line) for line in said.getvalue().splitlines() if line.startswith("{")] if "bids" in words else []
    )
    # An object with an exit code is about the whole command, which no scan has survived.
    lines = [line for line in lines if "exit_code" not in line]
    if words[0] in ("harmonize", "assess", "bids") and code in (0, 1) and (f"{_ENDS_HERE}" in text or lines):
        broken += _forgotten(root, out, words, said.getvalue() + text)
    return [str(code), *broken]


def _forgotten(root, out, words, text):
    """Images that were neither done nor named."""
    if not any(word == str(root) for word in words):
        return []
    if (table := out / "logs/failures.tsv").is_file():
        text += table.read_text()
    if (
        words[0] == "bids"
        or (root / "dataset_description.json").is_file()
        or any(p.is_dir() for p in root.glob("sub-*"))
    ):
        places = [p for p in root.glob("sub-*/**/anat/sub-*") if re.search(r"_T1w\.nii(\.gz)?$", p.name, re.IGNORECASE)]
    elif any((p / "mri/orig.mgz").is_file() for p in root.iterdir() if p.is_dir()):
        places = [p for p in root.glob("*/mri/orig.mgz") if p.is_file()]
    else:
        places = [p for p in root.iterdir() if p.name.lower().endswith(_IMAGES) and not p.name.startswith(".")]
    missing = []
    for place in places:
        if place.is_dir():
            continue
        stem = re.sub(r"\.(nii|mgz|mgh|img)(\.gz)?$", "", place.name, flags=re.IGNORECASE)
        spellings = {one_line(stem), json.dumps(stem)[1:-1], stem, stem.replace("\udcff", "\\udcff")}
        if not any(spelling in text for spelling in spellings):
            missing.append(place.name)
    return [f"neither done nor named: {missing}"] if missing else []
