"""A small good file of every kind that the package reads."""

import json
import tempfile
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np

from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.models.file import save_target
from heads import head_grid, synthetic_brain
from targets import synthetic_target


def head() -> np.ndarray:
    data = np.random.default_rng(0).integers(1, 900, (19, 18, 17)).astype(np.int16)
    data[:3] = 0
    return data


AFFINE = np.array([[0.0, 1.1, 0, -9], [-1.0, 0, 0.1, 8], [0, 0.1, 1.5, -12], [0, 0, 0, 1]])


def nifti(kind: type = nib.Nifti1Image, order: str = "<", dtype: str = "i2") -> bytes:
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    image = kind(head().astype(dtype), None, header)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    return image.to_bytes()


def mgh() -> bytes:
    return nib.MGHImage(head().astype(np.float32), AFFINE).to_bytes()


def pair_header() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        nib.save(nib.Nifti1Pair(head(), AFFINE), Path(folder, "a.img"))
        return Path(folder, "a.hdr").read_bytes()


def brain() -> bytes:
    made = synthetic_brain(*head_grid(3, mm=5.0, axes="PIR"), seed=3)
    return nib.Nifti1Image(np.round(made.data).astype(np.int16), made.affine).to_bytes()


@cache
def target() -> bytes:
    # Coarse pictures compress to nothing: what is tested is the description and the shapes.
    with tempfile.TemporaryDirectory() as folder:
        save_target(synthetic_target(), Path(folder, "t.safetensors"))
        return Path(folder, "t.safetensors").read_bytes()


def scanner() -> bytes:
    x = np.linspace(0, 2, 40)
    with tempfile.TemporaryDirectory() as folder:
        later = ScannerModel(CurveMap(x, np.sqrt(x)), 4, "0" * 12, 0.02)
        model = ScannerModel(CurveMap(x, x**1.3), 4, "0" * 12, 0.1, 0.5, later)
        return model.save(Path(folder, "s.json")).read_bytes()


def log() -> bytes:
    rows = [{"level": 3, "step": s, "train": 2.0 - s, "held_out": 3.0 - s, "seconds": 5.0 + s} for s in range(4)]
    part = {"spread": 1.0, "means": [0.1] * 7, "spreads": [1.1] * 7}
    rows.append({"level": 3, "calibration": {"before": part, "after": part}})
    return "\n".join(map(json.dumps, rows)).encode()


TABLE = b"scan\tscanner\tage\n" + b"".join(b"sub-%02d_T1w.nii.gz\tA\t3\n" % i for i in range(9))


def sidecar() -> bytes:
    mask = {"Name": "brain.nii.gz", "SHA256": "1" * 64}
    model = {"Scans": 4, "Digest": "0" * 12, "Model": json.loads(scanner())}
    about = {
        "Sources": ["sub-01_T1w.nii.gz"],
        "SourceSHA256": "a" * 64,
        "Target": {"Name": "tiny", "File": "tiny.safetensors", "Digest": "0" * 12, "Preparation": "1" * 12},
        "Method": "curve",
        "Parameters": {
            **{"Seed": 0, "Device": "cpu", "KeepBias": False, "Refine": True},
            **{"Mask": mask, "MaskCommand": None, "Scanner": model},
        },
        "Results": {"sub-01_desc-harmonized_T1w.nii.gz": "b" * 64},
        "Versions": {"torch": "2.13.0", "numpy": "2.0.0"},
    }
    return json.dumps(about).encode()
