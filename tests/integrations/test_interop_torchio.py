"""The transform against TorchIO itself: subjects, label maps, history."""

import numpy as np
import pytest
import torch
import torchio as tio

from blindharmony.errors import InputError, UsageError
from blindharmony.integrations import torchio as module
from blindharmony.integrations.torchio import BlindHarmonize


def test_a_subject_gives_what_the_package_gives(scan_file, plain, tiny_target):
    brain = torch.from_numpy(plain.mask[None].astype(np.uint8))
    subject = tio.Subject(t1=tio.ScalarImage(scan_file), brain=tio.LabelMap(tensor=brain, affine=plain.source.affine))
    out = tio.Compose([BlindHarmonize(tiny_target), tio.Clamp(0, 1e9)])(subject)
    # TorchIO reads an oblique affine with other rounding; registration ends a hair elsewhere.
    np.testing.assert_allclose(out.t1.data[0].numpy(), plain.data, rtol=2e-3)
    np.testing.assert_allclose(out.t1.affine, plain.source.affine)
    np.testing.assert_array_equal(out.brain.data, brain)
    assert [t.name for t in out.history] == ["BlindHarmonize", "Clamp"]
    np.testing.assert_array_equal(subject.t1.data[0].numpy(), plain.source.data)


def test_the_mask_and_options_reach_the_method(monkeypatch, plain):
    asked = []
    monkeypatch.setattr(module, "harmonize", lambda scan, target, **options: asked.append(options) or plain)
    brain = torch.zeros(1, 4, 5, 6, dtype=torch.uint8)
    brain[0, 1] = 1
    subject = tio.Subject(t1=tio.ScalarImage(tensor=torch.rand(1, 4, 5, 6)), brain=tio.LabelMap(tensor=brain))
    BlindHarmonize("mine", scanner="a.json", mask_name="brain", options={"refine": False})(subject)
    np.testing.assert_array_equal(asked[0].pop("mask"), brain[0] > 0)
    assert asked == [{"scanner": "a.json", "refine": False}]


def test_the_history_can_be_replayed(tiny_target):
    transform = BlindHarmonize(tiny_target, options={"refine": False}, exclude=["t2"])
    again = type(transform)(**transform._get_reproducing_arguments())
    assert (again.target, again.scanner, again.mask_name, again.options) == (tiny_target, None, None, {"refine": False})


def test_wrong_use_is_said_in_one_line(tiny_target):
    with pytest.raises(UsageError, match="no option 'refined'"):
        BlindHarmonize(options={"refined": True})
    two = tio.Subject(t1=tio.ScalarImage(tensor=torch.rand(2, 8, 8, 8)))
    with pytest.raises(InputError, match="'t1' has shape"):
        BlindHarmonize(tiny_target)(two)
