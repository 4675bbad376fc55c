"""Scanners near real sites: the table's differences come back out, in the scanner and in the scan."""

import numpy as np
import pytest

from blindharmony_benchmark.simulation.domains import draw_site, through_site
from blindharmony_benchmark.simulation.effects import View
from blindharmony_benchmark.simulation.sites import SITES, coil_field, grid_noise


def test_drawn_scanners_differ_as_the_sites_do():
    drawn = [draw_site(np.random.default_rng(s)) for s in range(4000)]
    table = np.log([site[:5] for site in SITES.values()])
    for key, column in (("GreyToWhite", 0), ("CSFToWhite", 1), ("Sigma", 3), ("Field", 4)):
        logs = np.log([d[key] for d in drawn])
        assert logs.mean() == pytest.approx(table[:, column].mean(), abs=0.1 * table[:, column].std())
        assert logs.std() == pytest.approx(table[:, column].std(), rel=0.1)
    pairs = np.log([[d["GreyToWhite"], d["CSFToWhite"]] for d in drawn])
    assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(np.corrcoef(table[:, :2].T)[0, 1], abs=0.05)
    assert 0 <= min(d["FWHM"] for d in drawn) < 0.2
    assert 2.5 < max(d["FWHM"] for d in drawn) <= 4


@pytest.mark.parametrize(("grey", "csf"), [(0.85, 0.44), (0.58, 0.25)])
def test_a_scan_gets_the_scanners_contrast_field_and_noise(view, grey, csf):
    settings = draw_site(np.random.default_rng(3)) | {"GreyToWhite": grey, "CSFToWhite": csf, "FWHM": 0.0, "Gamma": 1.0}
    quiet = settings | {"Sigma": 0.0, "Field": 1e-9}
    image, found = through_site(view, quiet, np.random.default_rng(0))
    medians = [np.median(image[view.labels == t]) for t in (1, 2, 3)]
    assert medians[1] / medians[2] == pytest.approx(grey, rel=2e-3)
    assert medians[0] / medians[2] == pytest.approx(csf, rel=2e-3)
    noisy, found = through_site(view, settings | {"Sigma": 0.03, "Field": 1e-9}, np.random.default_rng(0))
    # Between voxels of the scanner's grid, and after its filter, noise is weaker than on it.
    share = (noisy - image)[view.labels == 3].std() / found["SigmaInUnits"]
    assert 0.7 < share <= 1.01


def test_a_field_has_the_spread_it_says(view):
    field = coil_field(view, 0.4, np.random.default_rng(1))
    fifth, middle, last = np.quantile(field[view.mask], [0.05, 0.5, 0.95])
    assert (last - fifth) / middle == pytest.approx(0.4, rel=1e-3)


def test_noise_is_coloured_by_grid_and_filter():
    image = np.ones((60, 60, 60))
    view = View(image, image > 0, (1, 1, 1))

    def neighbours(voxel, width):
        noise = grid_noise(view, voxel, width, np.random.default_rng(2))
        return noise.std(), [np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1], *_last(noise)]

    def _last(noise):
        return [np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1]]

    deviation, (along, across) = neighbours((1.5, 1.0, 1.0), 0.0)
    assert 0.6 < deviation < 1
    assert along > across + 0.2
    _, (filtered, _) = neighbours((1.0, 1.0, 1.0), 1.2)
    _, (plain, _) = neighbours((1.0, 1.0, 1.0), 0.0)
    assert filtered > plain + 0.1
