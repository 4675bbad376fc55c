"""What the flow refuses, in words that say what was expected."""

import pytest
import torch

from blindharmony.flows.bijection import Bijection, check_range
from blindharmony.flows.couplings import Coupling
from blindharmony.flows.latent import Split
from blindharmony.flows.networks import convolution
from blindharmony.flows.transforms import ActNorm, Squeeze


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: convolution(2, 1, 4, 2), "odd kernel size"),
        (lambda: convolution(1, 1, 4, 3), "2 or 3 spatial axes"),
        (lambda: Coupling(1, None, None), "at least 2 channels, got 1; squeeze"),
        (lambda: Split(1), "at least 2 channels, got 1"),
        (lambda: Squeeze(2).to_latent(torch.zeros(1, 1, 5, 4)), "cannot squeeze sizes"),
        (lambda: Squeeze(3).to_latent(torch.zeros(1, 1, 4, 4)), "3 even ones expected"),
        (lambda: ActNorm(2).initialise(torch.zeros(0, 2, 4, 4)), "empty batch"),
        (lambda: check_range(torch.full((1, 1, 2, 2), 3e4)), "at most 10000"),
        (lambda: check_range(torch.full((1, 1, 2, 2), torch.nan)), "finite"),
    ],
)
def test_wrong_shapes_and_values_are_refused(made, words):
    with pytest.raises(ValueError, match=words):
        made()


def test_what_lies_outside_the_mask_may_be_anything():
    x = torch.tensor([[[[1.0, torch.nan], [9e9, 2.0]]]])
    check_range(x, torch.tensor([[[[True, False], [False, True]]]]))
    check_range(torch.zeros(0, 1, 2, 2))


def test_a_bijection_has_both_directions():
    for way in ("to_latent", "to_image"):
        with pytest.raises(NotImplementedError):
            getattr(Bijection(), way)(torch.zeros(1, 1, 2, 2))
