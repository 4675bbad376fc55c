import base64
import gzip
import hashlib
import re
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blindharmony.errors import OutputError
from blindharmony.report.viewer import SHA256, niivue, pack, render_viewer, write_viewer
from blindharmony.report.viewer import pack as _pack

AFFINE = np.array([[-1.0, 0.1, 0, 30], [0.1, 1.2, 0, -20], [0, 0, 2.0, -10], [0, 0, 0, 1]])


def opened(packed):
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(packed.data)))


def block(shape=(30, 28, 26), low=10):
    mask = np.zeros(shape, bool)
    mask[low:-low, low:-low, low:-low] = True
    return mask


@settings(max_examples=25)
@given(
    hnp.arrays(np.float32, (4, 6, 5), elements=st.floats(-500, 5000, width=32)),
    st.floats(0.01, 100.0),
    hnp.arrays(bool, (4, 6, 5)),
)
def test_values_come_back_within_half_a_step(before, gain, mask):
    mask[2, 5, 4] = True
    for volume, packed in zip((before, gain * before), pack(before, gain * before, mask, np.eye(4)), strict=True):
        limit = 32767 * packed.step
        found = opened(packed).get_fdata()
        assert np.abs(found - np.clip(volume, -limit - packed.step, limit)).max() <= 0.502 * packed.step + 1e-6 * limit


def test_what_is_cut_off_is_far_from_the_brain_and_the_rest_keeps_its_place():
    rng, mask = np.random.default_rng(0), block((60, 50, 40), 17)
    volume = rng.uniform(1, 1000, mask.shape)
    packed, _ = pack(volume, volume, mask, AFFINE)
    image = opened(packed)
    whole = np.argwhere(mask)
    for corner in (whole.min(0), whole.max(0)):
        voxel = nib.affines.apply_affine(np.linalg.inv(image.affine) @ AFFINE, corner)
        spacing = np.sqrt((AFFINE[:3, :3] ** 2).sum(0))
        margin = np.minimum(voxel, np.array(packed.shape) - 1 - voxel) * spacing
        assert np.allclose(voxel, np.round(voxel), atol=1e-4)
        assert margin.min() > 11.9 or (margin >= np.minimum(corner, np.array(mask.shape) - 1 - corner) - 0.01).all()
        assert image.get_fdata()[tuple(np.rint(voxel).astype(int))] == pytest.approx(
            volume[tuple(corner)], abs=packed.step
        )


def test_a_large_volume_is_thinned_out_in_place(monkeypatch):
    monkeypatch.setattr("blindharmony.report.viewer._MOST_VOXELS", 2000)
    mask = np.ones((30, 28, 26), bool)
    ramp = np.broadcast_to(np.arange(30.0)[:, None, None], mask.shape) + 100
    packed, _ = pack(ramp, ramp, mask, AFFINE)
    image = opened(packed)
    assert packed.thinned == 3
    assert np.prod(packed.shape) <= 2000
    first = nib.affines.apply_affine(np.linalg.inv(AFFINE) @ image.affine, (4, 2, 1))
    assert first.tolist() == pytest.approx([13, 7, 4])
    assert image.get_fdata()[4, 2, 1] == pytest.approx(113, abs=packed.step)


def test_both_windows_differ_by_the_brains_brightness_alone():
    rng, mask = np.random.default_rng(0), block()
    volume = rng.uniform(100, 1000, mask.shape)
    for gain in (0.01, 1.0, 37.0):
        before, after = pack(volume, gain * volume, mask, AFFINE)
        assert after.high / before.high == pytest.approx(gain)
    with pytest.raises(ValueError, match="empty"):
        pack(volume, volume, ~np.ones_like(mask), AFFINE)
    with pytest.raises(ValueError, match="shapes"):
        pack(volume, volume[1:], mask, AFFINE)


def test_a_dark_or_broken_scan_is_packed_all_the_same():
    mask = block()
    for volume in (np.zeros(mask.shape), np.full(mask.shape, np.nan), -np.ones(mask.shape)):
        for packed in pack(volume, volume, mask, AFFINE):
            assert packed.high > 0
            assert np.isfinite(opened(packed).get_fdata()).all()


@pytest.fixture(scope="module")
def pair():
    volume = np.random.default_rng(0).uniform(0, 1000, (30, 28, 26))
    return _pack(volume, 2 * volume, block(), AFFINE)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_page_runs_only_its_own_scripts_and_asks_for_nothing(pair):
    text = render_viewer(*pair, name="scan.nii.gz", unit="target units")
    policy = next(a["content"] for _, a in Tags(text).found if a.get("http-equiv"))
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.S)
    assert [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts] == allowed
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    for tag, attributes in Tags(text).found:
        assert "src" not in attributes, tag
        assert attributes.get("href", "data:").startswith("data:")


def test_a_name_like_a_script_stays_a_name(pair):
    wild = "</script><script>alert(1)</script>\"'&.nii.gz"
    plain, hostile = (render_viewer(*pair, name=name, unit=name) for name in ("a", wild))
    assert [tag for tag, _ in Tags(hostile).found] == [tag for tag, _ in Tags(plain).found]


def test_equal_volumes_give_equal_bytes_and_nothing_is_overwritten(pair, tmp_path):
    again = _pack(*(np.random.default_rng(0).uniform(0, 1000, (30, 28, 26)) * g for g in (1, 2)), block(), AFFINE)
    assert again == pair
    path = write_viewer(*pair, tmp_path / "a.html", name="a", unit="u")
    with pytest.raises(OutputError, match="exists already"):
        write_viewer(*pair, path, name="a", unit="u")


def test_the_viewer_program_is_the_one_that_was_checked(monkeypatch):
    assert hashlib.sha256(niivue().encode()).hexdigest() == SHA256
    # In a script element, only these end it or begin another state of the parser.
    assert not re.search(r"</script|<!--", niivue(), re.I)
    monkeypatch.setattr("blindharmony.report.viewer.SHA256", "0" * 64)
    with pytest.raises(RuntimeError, match="install"):
        niivue()


def test_its_licences_are_in_the_page(pair):
    text = render_viewer(*pair, name="a", unit="u")
    for words in ("Copyright (c) 2021, Niivue", "Redistributions in binary form", "fflate", "gl-matrix"):
        assert words in text
