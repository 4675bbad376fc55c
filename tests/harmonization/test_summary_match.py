"""Histogram matching to the target's mean person, inside the brain."""

import numpy as np

from blindharmony.harmonization.summary import harmonize_match
from blindharmony.preprocessing.registration import load_template

BRAIN = load_template().data
INSIDE = BRAIN > 0


def test_ranks_stay_the_target_s_intensities_come_and_outside_is_nothing(tiny_target):
    dark = np.where(INSIDE, (BRAIN / BRAIN.max()) ** 2, 0.5).astype(np.float32)
    found = harmonize_match(dark, INSIDE, tiny_target).image
    assert not found[~INSIDE].any()
    region = INSIDE & tiny_target.fit_region
    levels = np.quantile(found[region], tiny_target.levels)
    np.testing.assert_allclose(levels, tiny_target.mean_curve, atol=0.02)
    order = np.argsort(dark[region], kind="stable")
    assert (np.diff(found[region][order]) >= 0).all()
