import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("monai")

from blindharmony.errors import BlindHarmonyError
from blindharmony_benchmark.networks.segmenter import Segmenter


def test_finds_tissues_that_it_was_shown(material, truths):
    segmenter = Segmenter(steps=30, device="cpu")
    segmenter.fit(material.training, material.held_out, material.folder, 0.0, 0, lambda stage, share: None)
    head = truths[0]
    found = segmenter.labels(head.image, head.mask)
    assert found.dtype == np.uint8
    assert found.shape == head.image.shape
    assert not found[~head.mask].any()
    white = found == 3, head.labels == 3
    assert 2 * (white[0] & white[1]).sum() / (white[0].sum() + white[1].sum()) > 0.7
    again = Segmenter(steps=30, device="cpu")
    again.fit(material.training, material.held_out, material.folder, 0.0, 0, lambda stage, share: pytest.fail("again"))
    np.testing.assert_array_equal(again.labels(head.image, head.mask), found)


def test_needs_labels(material):
    bare = [replace(p, labels=None) for p in material.training]
    with pytest.raises(BlindHarmonyError, match="no training scan has labels"):
        Segmenter().fit(bare, (), material.folder, 0.0, 0, lambda stage, share: None)


def test_needs_monai(material, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(BlindHarmonyError, match="MONAI is not installed"):
        Segmenter().fit(material.training, (), material.folder, 0.0, 0, lambda stage, share: None)


def test_must_learn_first(truths):
    with pytest.raises(ValueError, match="fit first"):
        Segmenter().labels(truths[0].image, truths[0].mask)
