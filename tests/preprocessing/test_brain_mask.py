"""Four ways to a brain mask, and what happens when one goes wrong."""

import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from nibabel.processing import resample_to_output

from blindharmony.errors import InputError, PreprocessingError
from blindharmony.io.volume import read_volume
from blindharmony.io.write import write_like
from blindharmony.preprocessing.brain import ExtractBrain, check_grid, extract_brain, foreground_brain, read_mask
from blindharmony.preprocessing.steps import Scan
from heads import head_grid, scans, synthetic_brain

HEADER = "import sys, nibabel as nib, numpy as np\nhead = nib.load(sys.argv[1])\ndata = head.get_fdata()\n"


@pytest.fixture
def command(tmp_path):
    """A way to make a mask command out of a few lines of Python; the folder has a space in its name."""

    def make(*lines: str, arguments: str = "{input} {output}") -> str:
        script = tmp_path / "my tools" / "brain.py"
        script.parent.mkdir(exist_ok=True)
        script.write_text(HEADER + "\n".join(lines))
        return f"{sys.executable} '{script}' {arguments}"

    return make


def save(mask: str) -> str:
    return f"nib.save(nib.Nifti1Image(({mask}).astype(np.uint8), head.affine), sys.argv[2])"


class TestGiven:
    @given(scans())
    def test_is_used_as_it_is(self, scan):
        brain = ExtractBrain(given=scan.mask).estimate(replace(scan, mask=None))
        assert brain.source == "given"
        np.testing.assert_array_equal(brain.mask, scan.mask)

    def test_wins_over_everything_else(self, stripped_head, command):
        step = ExtractBrain(given=stripped_head.brain, command=command("sys.exit(3)"))
        assert step.estimate(stripped_head.scan).source == "given"

    def test_of_another_size_is_refused(self, whole_head):
        with pytest.raises(InputError, match="the scan's own grid"):
            ExtractBrain(given=whole_head.brain[1:]).estimate(whole_head.scan)

    def test_on_the_background_is_refused(self, stripped_head):
        corner = np.zeros(stripped_head.data.shape, bool)
        corner[:2, :2, :2] = True
        with pytest.raises(InputError, match="do not overlap"):
            ExtractBrain(given=corner).estimate(stripped_head.scan)

    @given(scans())
    def test_lies_on_the_scans_grid(self, scan):
        check_grid(scan, scan)
        moved = scan.affine.copy()
        moved[0, 3] += 0.6 * min(scan.spacing)
        with pytest.raises(InputError, match="elsewhere"):
            check_grid(replace(scan, affine=moved), scan)

    def test_is_read_from_a_file(self, whole_head, tmp_path):
        volume = read_volume(whole_head.data, affine=whole_head.affine)
        path = tmp_path / "mask.nii.gz"
        write_like(volume, whole_head.brain, path, dtype=np.uint8)
        np.testing.assert_array_equal(read_mask(path).mask, whole_head.brain)


class TestStripped:
    def test_is_the_foreground(self, stripped_head):
        brain = ExtractBrain().estimate(stripped_head.scan)
        assert brain.source == "stripped"
        np.testing.assert_array_equal(brain.mask, stripped_head.brain)

    def test_wins_over_a_command(self, stripped_head, command):
        assert ExtractBrain(command=command("sys.exit(3)")).estimate(stripped_head.scan).source == "stripped"

    def test_background_may_have_any_value(self, stripped_head):
        data = np.where(stripped_head.brain, stripped_head.data, -3).astype(np.float32)
        found, _ = foreground_brain(replace(stripped_head.scan, data=data))
        np.testing.assert_array_equal(found, stripped_head.brain)

    def test_specks_are_left_out(self, stripped_head):
        data = stripped_head.data.copy()
        data[-2:, -2:, -2:] = 40
        found, _ = foreground_brain(replace(stripped_head.scan, data=data))
        np.testing.assert_array_equal(found, stripped_head.brain)

    def test_cubic_resampling_rings_around_a_brain_and_it_is_still_read_and_stripped(self, tmp_path):
        head = synthetic_brain(*head_grid(), seed=0)
        image = resample_to_output(nib.Nifti1Image(head.data, head.affine), voxel_sizes=3.0, order=3)
        image.to_filename(tmp_path / "resampled.nii.gz")
        volume = read_volume(tmp_path / "resampled.nii.gz")
        assert np.mean(volume.data[volume.data != 0] < 0) > 0.3
        foreground, sure = foreground_brain(Scan(volume.data, volume.affine))
        assert sure
        millilitres = head.brain.sum() * np.prod(head.scan.spacing) / 1000
        assert foreground.sum() * 27 / 1000 == pytest.approx(millilitres, rel=0.06)

    def test_a_whole_head_is_not_stripped(self, whole_head):
        assert not foreground_brain(whole_head.scan)[1]


class TestCommand:
    def test_finds_the_brain(self, whole_head, command):
        step = ExtractBrain(command=command(save("data > 300")))
        brain = step.estimate(whole_head.scan)
        assert brain.source == "command"
        np.testing.assert_array_equal(brain.mask, whole_head.data > 300)

    def test_may_contain_braces(self, whole_head, command):
        line = command(save("data > 300"), arguments="{input} {output} {threads:02d} {}")
        assert ExtractBrain(command=line).estimate(whole_head.scan).source == "command"

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (["sys.exit('out of luck')"], r"failed with code 1 \(out of luck\)"),
            (["sys.exit(7)"], r"failed with code 7 \(no output\)"),
            (["pass"], r"wrote nothing to \{output\}"),
            ([save("data[:-1] > 300")], r"no usable mask \(the mask has .* voxels"),
            ([save("data[::-1] > -1")], "no usable mask"),
            (["open(sys.argv[2], 'w').write('not an image')"], "no usable mask"),
            (["head.affine[0, 3] += 40", save("data > 300")], r"no usable mask \(the mask lies elsewhere"),
        ],
        ids=["fails", "fails silently", "no output", "size", "constant", "not an image", "moved"],
    )
    def test_that_goes_wrong(self, whole_head, command, lines, message):
        with pytest.raises(PreprocessingError, match=message) as error:
            ExtractBrain(command=command(*lines)).estimate(whole_head.scan)
        assert str(error.value).endswith("; check --mask-command")

    @pytest.mark.parametrize("line", ["no-such-program-here {input}", "", "'unbalanced {input}"])
    def test_that_cannot_run(self, whole_head, line):
        with pytest.raises(PreprocessingError, match="the mask command did not run"):
            ExtractBrain(command=line).estimate(whole_head.scan)


class TestNetwork:
    @pytest.mark.parametrize("kind", ["noise", "empty"])
    @pytest.mark.long
    def test_no_brain_is_an_error_that_says_what_to_do(self, kind):
        data = np.zeros((40, 44, 36), np.float32)
        data[20, 20, 20] = 1
        if kind == "noise":
            data = np.random.default_rng(0).normal(100, 20, data.shape).astype(np.float32)
        with pytest.raises(PreprocessingError, match="give a brain mask with --mask"):
            extract_brain(data, (1.0, 1.0, 1.0))

    def test_is_asked_for_a_whole_head(self, whole_head, monkeypatch):
        asked = []

        def network(data, spacing, *, device):
            asked.append((data.shape, spacing, device))
            return whole_head.brain

        monkeypatch.setattr("blindharmony.preprocessing.brain.extract_brain", network)
        brain = ExtractBrain(device="cpu").estimate(whole_head.scan)
        assert brain.source == "network"
        assert asked == [(whole_head.data.shape, Scan(whole_head.data, whole_head.affine).spacing, "cpu")]
