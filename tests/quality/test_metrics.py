"""Measures of images and series."""

import numpy as np
import pytest
from scipy import stats

from blindharmony.quality.metrics import spearman


@pytest.mark.parametrize("kinds", [1000, 7])
def test_spearman_is_that_of_scipy(kinds):
    rng = np.random.default_rng(0)
    a = rng.integers(0, kinds, 500)
    b = a + rng.normal(0, kinds / 3, 500).round()
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_a_series_that_never_varies_has_no_order():
    assert np.isnan(spearman(np.ones(9), np.arange(9)))
