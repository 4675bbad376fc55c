"""Heads on the template grid, and a study whose scans are prepared already: nothing here takes minutes."""

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from safetensors.numpy import save_file

from blindharmony.preprocessing.recipe import PrepRecipe
from blindharmony.preprocessing.registration import load_template
from blindharmony_benchmark.heads import Files, kept_file
from blindharmony_benchmark.system import Material, Picture
from heads import smooth_field, texture

RECIPE = PrepRecipe(n4=False)


def picture(subject: str, power: float, seed: int) -> Picture:
    """The template as another head: a slow change, another contrast, noise."""
    brain = load_template().data
    mask = brain > 0
    rng = np.random.default_rng(seed)
    field = smooth_field(brain.shape, rng)
    image = (brain / brain.max()) ** power * np.exp(0.05 * field / field[mask].std())
    image = np.where(mask, np.maximum(image + 0.01 * rng.standard_normal(brain.shape), 1e-3), 0)
    image = (image / np.sqrt((image[mask] ** 2).mean())).astype(np.float32)
    share = image / np.quantile(image[mask], 0.99)
    labels = np.where(mask, np.select([share < 0.4, share < 0.78], [1, 2], 3), 0).astype(np.uint8)
    return Picture(subject, image, mask, image, labels=labels)


@pytest.fixture(scope="session")
def pictures() -> list[Picture]:
    return [picture("sub-01", 0.9, 1), picture("sub-02", 1.1, 2)]


@pytest.fixture
def material(tiny_target, pictures, tmp_path) -> Material:
    return Material(tiny_target, tuple(pictures[:1]), tuple(pictures[1:]), (), (), tmp_path / "learnt", 0.01)


@pytest.fixture(scope="session")
def study(pictures, tmp_path_factory) -> Path:
    """A folder with two sets and splits.json, and their prepared scans in ``heads``."""
    root = tmp_path_factory.mktemp("evidence")
    names = {"mine": ("sub-01", "sub-02", "sub-03", "sub-04"), "theirs": ("sub-07", "sub-08")}
    for name, subjects in names.items():
        for index, subject in enumerate(subjects):
            _store(root, name, subject, pictures[index % 2], index)
    (root / "splits.json").write_text(
        '{"mine": {"train": ["sub-03", "sub-04"], "test": ["sub-01", "sub-02"]}, '
        '"theirs": {"test": ["sub-07", "sub-08"]}}'
    )
    return root


def _store(root: Path, name: str, subject: str, head: Picture, index: int) -> None:
    anat = root / name / subject / "anat"
    anat.mkdir(parents=True)
    tiny = np.full((4, 4, 4), index + 1, np.int16)
    nib.save(nib.Nifti1Image(tiny, np.eye(4)), anat / f"{subject}_T1w.nii.gz")
    manual = root / name / "derivatives" / "manual" / subject / "anat"
    if name == "mine":
        manual.mkdir(parents=True)
        nib.save(nib.Nifti1Image(tiny, np.eye(4)), manual / f"{subject}_dseg.nii.gz")
    content = {"image": head.image, "mask": head.mask, "gain": 1.0, "matrix": np.eye(4)}
    content |= {"raw": head.image, "raw_mask": head.mask, "affine": load_template().affine}
    files = Files.of(root / name, subject)
    (root / "heads").mkdir(exist_ok=True)
    kept = kept_file(root / "heads", root / name, subject, files, RECIPE)
    labels = {"labels": head.labels, "raw_labels": head.labels}
    for file, arrays in ((kept, content), (kept.with_suffix(f".{files.labels_key()}.safetensors"), labels)):
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, file)


@pytest.fixture(autouse=True)
def by_brightness(monkeypatch):
    """What a tissue network finds in these heads, at no cost."""

    def labels(image, mask):
        share = image / max(float(np.quantile(image[mask], 0.99)), 1e-6)
        return np.where(mask, np.select([share < 0.4, share < 0.78], [1, 2], 3), 0).astype(np.uint8)

    monkeypatch.setattr("blindharmony_benchmark.heads.network_labels", labels)
    return labels


@pytest.fixture(scope="session")
def small():
    """Three small heads that taught a target of their size."""
    heads = [texture(seed=k) for k in range(3)]
    training = tuple(Picture(f"sub-{k}", x, mask, x) for k, (x, mask) in enumerate(heads))
    levels = (np.arange(64) + 0.5) / 64
    curve = np.mean([np.quantile(p.image[p.mask], levels) for p in training], 0)
    target = SimpleNamespace(fit_region=heads[0][1], levels=levels, mean_curve=curve)
    return Material(target, training, (), (), (), Path("nowhere"), 0.0)
