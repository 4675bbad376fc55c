"""Synthetic heads for every test; ``heads`` is importable because this file lies beside it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings

from blindharmony.io.volume import Volume, read_volume
from blindharmony.models.file import save_target
from blindharmony.models.target import Target
from blindharmony.preprocessing import registration as register
from heads import Head, head_grid, synthetic_brain
from labelled import labelled_brain
from targets import synthetic_target

# Time on a shared machine says nothing about a law.
settings.register_profile("laws", deadline=None)
settings.load_profile("laws")


# Where registration itself is tested, half a head has to be placed, or other processes do the same.
_PLACED_IN_EARNEST = (
    "tests/preprocessing/test_prep_place.py",
    "tests/preprocessing/test_prep_recipe.py",
    "tests/cli/test_cli_assess.py::test_several_scans_as_json",
    "tests/study/test_study_bytes.py",
)


_running = {"in earnest": False}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    # Real scans, but for pages read with a small model.
    slow = item.get_closest_marker("slow") is not None and "-small]" not in item.nodeid
    _running["in earnest"] = slow or item.nodeid.startswith(_PLACED_IN_EARNEST)


@pytest.fixture(scope="session", autouse=True)
def _placed_by_moments():
    """Synthetic brains are placed by their moments alone, which is near enough and takes no six seconds a scan."""
    climb = register._climb

    def start_only(fixed, moving, around, start, *, share):
        if _running["in earnest"]:
            return climb(fixed, moving, around, start, share=share)
        return start

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(register, "_climb", start_only)
        yield


@pytest.fixture(scope="session")
def stripped_head() -> Head:
    """A brain without skull on an oblique PIR grid of about 2.5 mm."""
    return synthetic_brain(*head_grid(3, axes="PIR"), seed=3)


@pytest.fixture(scope="session")
def whole_head() -> Head:
    """A brain with skull and scalp on an oblique LAS grid of about 3 mm."""
    return synthetic_brain(*head_grid(4, mm=3.0, axes="LAS"), seed=4, skull=True)


@pytest.fixture(scope="session")
def stripped_volume(stripped_head: Head) -> Volume:
    return read_volume(stripped_head.data, affine=stripped_head.affine)


@pytest.fixture(scope="session")
def tiny_target() -> Target:
    """A target that knows five synthetic people and a small untrained flow; no N4, so that curves are exact."""
    return synthetic_target()


@pytest.fixture(scope="session")
def tiny_target_file(tiny_target: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("target") / "tiny.safetensors"
    save_target(tiny_target, path)
    return path


@pytest.fixture(scope="session")
def labelled_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``scan``, ``dseg`` and ``mask`` (``.nii.gz``) on an oblique LAS grid, with codes and units."""
    image, labels, _ = labelled_brain()
    folder = tmp_path_factory.mktemp("labelled")
    affine = np.array([[-2.0, 0.1, 0, 40], [0.1, 2.0, 0, -50], [0, 0, 2.0, -30], [0, 0, 0, 1]])
    for name, data in {"scan": np.round(image), "dseg": labels, "mask": labels > 0}.items():
        nifti = nib.Nifti1Image(data.astype(np.int16), affine)
        nifti.set_qform(affine, 1)
        nifti.set_sform(affine, 4)
        nifti.header.set_xyzt_units("mm", "sec")
        nib.save(nifti, folder / f"{name}.nii.gz")
    return folder
