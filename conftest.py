"""Synthetic heads for every test; ``heads`` is importable because this file lies beside it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings

from blindharmony.api import harmonize
from blindharmony.io.volume import Volume, read_volume
from blindharmony.models.file import load_target, save_target
from blindharmony.models.target import Target
from blindharmony.preprocessing import registration
from blindharmony.result import HarmonizeResult
from heads import Head, head_grid, synthetic_brain, written
from labelled import labelled_brain
from targets import quick_included_target, synthetic_target

# Time on a shared machine says nothing about a law.
settings.register_profile("laws", deadline=None)
settings.load_profile("laws")


# Registration takes six seconds a head and hardly moves a synthetic one from where it starts, the moments of the masks.
# It stays there in tests with the small target, whose untrained flow knows no anatomy, and in those about training and
# keeping, which ask nothing about the place. Everywhere else, and always with the real target, it is run to its end.
_SMALL_TARGETS = {"tiny_target", "tiny_target_file"}
_STAYS_AT_THE_START = (
    "tests/training/",
    "tests/preprocessing/test_cache.py",
    "tests/preprocessing/test_contrast.py",
)
# Half a head has to be placed, or other processes do the same.
_RUNS_TO_ITS_END = (
    "tests/cli/test_cli_assess.py::test_several_scans_as_json",
    "tests/cli/test_cli_again.py::test_several_scans_at_a_time",
    "tests/cli/test_cli_again.py::test_a_group_in_several_processes",
    "tests/study/test_study_bytes.py",
)

_registration = {"stays at its start": False}


def stays_at_the_start(item: pytest.Item) -> bool:
    """Whether registration is only its start in a test."""
    names = set(getattr(item, "fixturenames", ()))
    # Real scans, but for pages read with a small model.
    slow = item.get_closest_marker("slow") is not None and "-small]" not in item.nodeid
    if slow or "real_target_file" in names or item.nodeid.startswith(_RUNS_TO_ITS_END):
        return False
    return bool(names & _SMALL_TARGETS) or item.nodeid.startswith(_STAYS_AT_THE_START)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    _registration["stays at its start"] = stays_at_the_start(item)


@pytest.fixture(scope="session", autouse=True)
def _start_of_registration():
    """Registration is its start alone where :func:`stays_at_the_start` says so."""
    climb = registration._climb

    def climb_or_stay(fixed, moving, around, start, **how):
        return start if _registration["stays at its start"] else climb(fixed, moving, around, start, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration, "_climb", climb_or_stay)
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
def real_target_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The included target with everything that users have: N4, person model, trained flow and restorer."""
    path = tmp_path_factory.mktemp("real") / "ds002748.safetensors"
    save_target(quick_included_target(), path)
    return path


@pytest.fixture(scope="session")
def real_target(real_target_file: Path) -> Target:
    return load_target(real_target_file)


@pytest.fixture(scope="session")
def noisy_head() -> Head:
    """A brain of about 3 mm, more noise than the target's scans have, and a coil's bias field."""
    return synthetic_brain(*head_grid(3, mm=3.0, axes="PIR"), seed=3, noise=0.06)


@pytest.fixture(scope="session")
def real_scan(noisy_head: Head, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The noisy head as a scanner with another contrast, a gamma, writes it."""
    folder = tmp_path_factory.mktemp("scanner")
    return written(folder / "sub-07_T1w.nii.gz", noisy_head.data**1.4, noisy_head.affine)


@pytest.fixture(scope="session")
def kept_preparation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the preparation of the real scan is kept for those who need it again."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="session")
def real_result(real_scan: Path, real_target: Target, kept_preparation: Path) -> HarmonizeResult:
    """What a user gets who gives nothing but a scan: the whole default method, registration run to its end."""
    return harmonize(real_scan, real_target, cache=kept_preparation)


@pytest.fixture(scope="session")
def labelled_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``scan``, ``dseg`` and ``mask`` (``.nii.gz``) on an oblique LAS grid, with codes and units."""
    image, labels, _ = labelled_brain()
    folder = tmp_path_factory.mktemp("labelled")
    # Voxels of 2.2 mm: the brain of the arrays is then as large as that of a small child, which is a brain.
    affine = np.array([[-2.2, 0.1, 0, 40], [0.1, 2.2, 0, -50], [0, 0, 2.2, -30], [0, 0, 0, 1]])
    for name, data in {"scan": np.round(image), "dseg": labels, "mask": labels > 0}.items():
        nifti = nib.Nifti1Image(data.astype(np.int16), affine)
        nifti.set_qform(affine, 1)
        nifti.set_sform(affine, 4)
        nifti.header.set_xyzt_units("mm", "sec")
        nib.save(nifti, folder / f"{name}.nii.gz")
    return folder
