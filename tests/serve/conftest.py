import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="pip install blindharmony[ui]")

from serve_site import Site


@pytest.fixture(scope="session")
def scan_bytes(tmp_path_factory):
    """A small head-shaped file, compressed."""
    file = tmp_path_factory.mktemp("scan") / "a.nii.gz"
    data = np.random.default_rng(0).integers(0, 900, (20, 21, 22)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, np.diag([2.0, 2, 2, 1])), file)
    return file.read_bytes()


@pytest.fixture
def make_site(tmp_path):
    made = []

    def _make(**how):
        made.append(Site(tmp_path / "jobs", **how))
        return made[-1]

    yield _make
    for site in made:
        site.close()


@pytest.fixture
def site(make_site):
    return make_site()


@pytest.fixture
def diary(tmp_path, monkeypatch):
    """Lines of what fake workers have begun."""
    file = tmp_path / "diary.txt"
    file.touch()
    monkeypatch.setenv("FAKE_DIARY", str(file))
    return lambda: file.read_text().splitlines()
