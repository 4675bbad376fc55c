"""Images of heads on disk: their names say what they are made of."""

from dataclasses import dataclass

import numpy as np
import torch

from blindharmony.training.data import Head, make_pool


@dataclass(frozen=True, eq=False)
class Small(Head):
    """A head that is quick to look at."""

    def image(self, rng=None, spec=None):
        return self.data.float(), self.mask


def head(level):
    shape = (4, 4, 4)
    return Small("T1.nii.gz", torch.full(shape, level).half(), torch.ones(shape, dtype=torch.bool), np.eye(4), 1.0)


def test_scans_of_one_name_are_told_apart(tmp_path):
    training = make_pool([head(1.0)], tmp_path, seed=0, copies=0)
    held_out = make_pool([head(2.0)], tmp_path, seed=0, copies=0)
    assert training.load(0, 0)[0].mean() == 1
    assert held_out.load(0, 0)[0].mean() == 2


def test_a_scan_that_was_replaced_is_made_anew_and_others_are_not(tmp_path):
    first = make_pool([head(1.0), head(2.0)], tmp_path, seed=0, copies=0)
    again = make_pool([head(1.0), head(3.0)], tmp_path, seed=0, copies=0)
    assert first.files[0] == again.files[0]
    assert again.load(1, 0)[0].mean() == 3
    assert len(list(tmp_path.iterdir())) == 3
