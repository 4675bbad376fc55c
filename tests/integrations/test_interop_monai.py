"""The dictionary transform against MONAI itself: files, meta data, data sets, and a bundle that MONAI runs."""

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai import bundle
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, FlipD, Invertd, LoadImage, LoadImaged, ScaleIntensityd
from monai.utils import MetaKeys, SpaceKeys

from blindharmony.cli.main import main
from blindharmony.errors import InputError, OutputError, UsageError
from blindharmony.integrations import monai as module
from blindharmony.integrations.bundle import MODEL, write_bundle
from blindharmony.integrations.monai import BlindHarmonize, BlindHarmonizeD


class FakeResult:
    """A result without the work."""

    class verdict:  # noqa: N801
        level, headline, warnings = "good", "fine", ("none",)

    def __init__(self, scan):
        self.data = scan.get_fdata(dtype=np.float32) + 1


@pytest.fixture
def asked(monkeypatch):
    """What the transform asks of the pipeline."""
    calls = []

    def fake(scan, target, **options):
        calls.append((scan, target, options))
        return FakeResult(scan)

    monkeypatch.setattr(module, "harmonize", fake)
    return calls


def scan(space=None, shape=(1, 4, 5, 6)):
    meta = {} if space is None else {MetaKeys.SPACE: space}
    return MetaTensor(torch.ones(shape), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])), meta=meta)


def test_a_file_through_compose_keeps_its_meta_data(asked, scan_file):
    load = LoadImaged(["image"], ensure_channel_first=True)
    loaded = load({"image": scan_file})["image"]
    out = Compose([load, BlindHarmonizeD(["image"])])({"image": scan_file})["image"]
    np.testing.assert_array_equal(out, loaded + 1)
    np.testing.assert_array_equal(out.affine, loaded.affine)
    assert out.meta["filename_or_obj"] == loaded.meta["filename_or_obj"]
    assert out.dtype == torch.float32
    np.testing.assert_allclose(asked[0][0].affine, nib.load(scan_file).affine, atol=1e-4)


def test_data_loaders_collate_it(asked):
    data = Dataset([{"image": scan()}, {"image": scan()}], Compose([BlindHarmonizeD("image", verdict_postfix="said")]))
    (batch,) = DataLoader(data, batch_size=2)
    assert batch["image"].shape == (2, 1, 4, 5, 6)
    assert batch["image_said"]["level"] == ["good", "good"]


def test_the_original_stays_and_later_transforms_go_on(asked):
    data = {"image": scan(), "age": 3}
    out = Compose([BlindHarmonizeD("image"), ScaleIntensityd("image")])(data)
    assert float(data["image"].max()) == 1
    assert out["age"] == 3
    assert isinstance(out["image"], MetaTensor)


def test_options_scanner_and_mask_reach_the_method(asked):
    transform = BlindHarmonizeD("image", "mine", scanner="a.json", mask_key="brain", refine=False)
    mask = torch.zeros(1, 4, 5, 6)
    mask[0, 1] = 1
    transform({"image": scan(), "brain": mask})
    ((image, target, options),) = asked
    assert (target, options["scanner"], options["refine"]) == ("mine", "a.json", False)
    np.testing.assert_array_equal(options["mask"], mask[0] > 0)
    np.testing.assert_array_equal(image.affine, np.diag([2, 3, 4, 1]))


def test_left_and_right_of_lps_images_are_not_mixed_up(asked):
    BlindHarmonizeD("image")({"image": scan(SpaceKeys.LPS)})
    np.testing.assert_array_equal(asked[0][0].affine, np.diag([-2, -3, 4, 1]))


def test_wrong_use_is_said_in_one_line(asked):
    with pytest.raises(UsageError, match="no option 'refined'"):
        BlindHarmonizeD("image", refined=True)
    with pytest.raises(InputError, match="no MetaTensor; load it with LoadImaged"):
        BlindHarmonizeD("image")({"image": torch.ones(1, 4, 5, 6)})
    with pytest.raises(InputError, match="one channel"):
        BlindHarmonizeD("image")({"image": scan(shape=(2, 4, 5, 6))})
    with pytest.raises(KeyError):
        BlindHarmonizeD("image")({})
    assert BlindHarmonizeD("image", allow_missing_keys=True)({"age": 3}) == {"age": 3}


def test_a_bundle_that_monai_runs_gives_what_the_package_gives(scan_file, plain, tiny_target_file, tmp_path, capsys):
    folder = tmp_path / "bundle"
    assert main(["export", str(tiny_target_file), "--monai-bundle", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    assert (folder / MODEL).read_bytes() == tiny_target_file.read_bytes()
    bundle.run(
        config_file=str(folder / "configs/inference.json"),
        meta_file=str(folder / "configs/metadata.json"),
        bundle_root=str(folder),
        dataset_dir=str(scan_file.parent),
        output_dir=str(tmp_path / "out"),
    )
    (made,) = (tmp_path / "out").glob("*.nii.gz")
    assert made.name == "sub-01_T1w_desc-harmonized.nii.gz"
    written = nib.load(made)
    np.testing.assert_array_equal(written.get_fdata(dtype=np.float32), plain.data)
    np.testing.assert_allclose(written.affine, nib.load(scan_file).affine, atol=1e-4)


def test_a_bundle_says_what_it_is_and_overwrites_nothing(tiny_target_file, tmp_path):
    folder = write_bundle(tiny_target_file, tmp_path / "bundle")
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    assert files == ["LICENSE", "configs/inference.json", "configs/metadata.json", "docs/README.md", MODEL]
    meta = json.loads((folder / "configs/metadata.json").read_text())
    required = {"version", "changelog", "monai_version", "pytorch_version", "numpy_version", "task", "description"}
    assert required | {"required_packages_version", "authors", "copyright", "network_data_format"} <= set(meta)
    assert meta["copyright"] == "CC0-1.0"
    assert "+" not in meta["pytorch_version"]
    assert "| training scans | 5 |" in (folder / "docs/README.md").read_text()
    with pytest.raises(OutputError, match="overwrite"):
        write_bundle(tiny_target_file, folder)
    write_bundle(tiny_target_file, folder, overwrite=True)


def test_an_image_alone_gives_what_the_package_gives_and_goes_back(scan_file, plain, tiny_target):
    loaded = LoadImage(ensure_channel_first=True)(scan_file)
    harmonizer = BlindHarmonize(tiny_target, restore=True)
    made = harmonizer(loaded)
    np.testing.assert_array_equal(made[0], plain.data)
    assert made.applied_operations[-1]["class"] == "BlindHarmonize"
    assert harmonizer.verdict.level == plain.verdict.level
    back = harmonizer.inverse(made)
    torch.testing.assert_close(back.as_tensor(), loaded.as_tensor())
    assert not back.applied_operations
    np.testing.assert_array_equal(back.affine, loaded.affine)


def test_a_pipeline_is_inverted_with_the_scan_restored_or_with_a_segmentation_left_alone(asked):
    flip = FlipD("image", spatial_axis=0)
    scan_in = scan()
    scan_in[0, 0] = 5
    steps = Compose([flip, BlindHarmonizeD("image", restore=True)])
    back = steps.inverse(steps({"image": scan_in}))["image"]
    torch.testing.assert_close(back.as_tensor(), scan_in.as_tensor())
    steps = Compose([flip, BlindHarmonizeD("image")])
    done = steps({"image": scan_in})
    labels = MetaTensor(torch.arange(120.0).reshape(1, 4, 5, 6), meta=done["image"].meta)
    inverted = Invertd("labels", steps, orig_keys="image")({**done, "labels": labels})["labels"]
    torch.testing.assert_close(inverted.as_tensor(), labels.as_tensor().flip(1))
    (batch,) = DataLoader(Dataset([{"image": scan_in}], steps), batch_size=1)
    assert batch["image"].shape == (1, 1, 4, 5, 6)
