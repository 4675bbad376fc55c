"""The estimator against scikit-learn itself: clones, pipelines, parameters; trained in seconds."""

import pickle
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags

from blindharmony.errors import TargetError, UsageError
from blindharmony.integrations import sklearn as module
from blindharmony.integrations.sklearn import Harmonizer
from blindharmony.models.file import load_target, save_target


def test_a_scan_gives_what_the_package_gives(scan_file, plain, tiny_target):
    harmonizer = Harmonizer(tiny_target).fit()
    image = harmonizer.transform(scan_file)
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32), plain.data)
    np.testing.assert_array_equal(image.affine, plain.source.affine)


def test_parameters_and_clones():
    harmonizer = Harmonizer("ds002748", one_scanner=True, options={"refine": False})
    twin = clone(harmonizer.set_params(one_scanner=False))
    assert twin.get_params() == harmonizer.get_params()
    assert set(twin.get_params()) == {"target", "one_scanner", "model_file", "training", "options"}
    assert "one_scanner" in repr(Harmonizer(one_scanner=True))
    with pytest.raises(NotFittedError):
        twin.transform("scan.nii.gz")
    with pytest.raises(UsageError, match="no option 'refined'"):
        Harmonizer("ds002748", options={"refined": True}).fit()


@pytest.fixture
def given(monkeypatch, plain):
    """Options of each harmonization, which is not done."""
    calls = []
    monkeypatch.setattr(module, "harmonize", lambda scan, target, **options: calls.append(options) or plain)
    return calls


def test_it_stands_first_in_a_pipeline(given, scan_file, plain, tiny_target):
    brightness = FunctionTransformer(lambda images: [[float(i.get_fdata().max())] for i in images])
    steps: Pipeline = make_pipeline(Harmonizer(tiny_target), brightness)
    assert steps.fit([scan_file], [0]).transform([scan_file]) == [[pytest.approx(plain.data.max())]]


def test_fit_learns_a_target_from_its_scans(monkeypatch, tiny_target_file, tmp_path):
    asked = []

    def fake(scans, file, **options):
        asked.append((scans, options))
        file.write_bytes(tiny_target_file.read_bytes())

    monkeypatch.setattr(module, "train", fake)
    kept = tmp_path / "mine.safetensors"
    harmonizer = Harmonizer(model_file=kept, training={"minutes": 1}).fit(["a.nii", "b.nii"])
    assert asked == [(["a.nii", "b.nii"], {"minutes": 1})]
    assert harmonizer.target_.info.name == "tiny"
    assert kept.exists()
    assert Harmonizer().fit(["a.nii"]).target_.digest == harmonizer.target_.digest


def test_scans_of_one_scanner_share_its_curve(given, monkeypatch, tiny_target):
    monkeypatch.setattr(module, "learn_scanner", lambda scans, target, **how: (scans, target, how))
    images = (
        Harmonizer(tiny_target, one_scanner=True, options={"seed": 1, "mask_command": "x"})
        .fit()
        .transform(["a.nii", "b.nii"])
    )
    assert (
        given
        == [
            {
                "seed": 1,
                "mask_command": "x",
                "scanner": (["a.nii", "b.nii"], tiny_target, {"seed": 1, "mask_command": "x"}),
            }
        ]
        * 2
    )
    assert all(isinstance(image, nib.Nifti1Image) for image in images)


def test_arrays_of_names_are_lists_of_names(given, monkeypatch, tiny_target):
    asked = []
    monkeypatch.setattr(module, "train", lambda scans, file, **options: asked.append(scans))
    monkeypatch.setattr(module, "load_target", lambda file: tiny_target)
    harmonizer = Harmonizer().fit(np.array(["a.nii", "b.nii"]))
    assert list(asked[0]) == ["a.nii", "b.nii"]
    assert len(harmonizer.transform(np.array(["c.nii", "d.nii"], object))) == 2
    Harmonizer().fit("study")
    assert asked[1] == ["study"]


def test_a_pickle_names_the_target_by_file_and_hash(scan_file, plain, tiny_target, tiny_target_file, tmp_path):
    file = tmp_path / "mine.safetensors"
    file.write_bytes(tiny_target_file.read_bytes())
    content = pickle.dumps(Harmonizer(str(file)).fit())
    assert len(content) < 2000 < file.stat().st_size
    twin = pickle.loads(content)
    assert twin.target_.digest == load_target(file).digest
    np.testing.assert_array_equal(twin.transform(scan_file).get_fdata(dtype=np.float32), plain.data)
    alone = pickle.loads(pickle.dumps(Harmonizer(tiny_target).fit()))
    assert alone.target_.info == tiny_target.info
    assert not hasattr(pickle.loads(pickle.dumps(Harmonizer("ds002748"))), "target_")
    save_target(replace(tiny_target, info=tiny_target.info.model_copy(update={"seed": 9})), file, overwrite=True)
    with pytest.raises(TargetError, match="fitted to another model"):
        pickle.loads(content)


def test_images_stand_in_a_table_where_one_is_asked_for(given, tiny_target, plain):
    harmonizer = Harmonizer(tiny_target).set_output(transform="pandas").fit()
    assert list(harmonizer.get_feature_names_out()) == ["image"]
    table = harmonizer.transform(["a.nii", "b.nii"])
    assert (list(table.columns), table.shape) == (["image"], (2, 1))
    assert all(isinstance(image, nib.Nifti1Image) for image in table["image"])
    images = harmonizer.set_output(transform="default").transform(["a.nii", "b.nii"])
    assert isinstance(images, list)


def test_tags_say_that_files_go_in(tiny_target):
    tags = get_tags(Harmonizer(tiny_target))
    assert (tags.input_tags.two_d_array, tags.input_tags.string, tags.no_validation) == (False, True, True)
    assert tags.transformer_tags is not None
    assert not tags.target_tags.required
