"""Contrast by tissue: the ratio is reached, texture stays, borders have no rim, wrong labels are named."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from blindharmony.errors import InputError, UsageError
from blindharmony_benchmark.simulation.domains import DOMAINS
from blindharmony_benchmark.simulation.effects import TISSUES, mprage, spoiled_gradient_echo, to_ratio
from blindharmony_benchmark.simulation.simulate import simulate

CSF, GREY, WHITE = 1, 2, 3
LABELLED = [name for name, domain in DOMAINS.items() if domain.needs_labels]
CONTRAST = [name for name in LABELLED if name != "site"]


def deep(labels, tissue):
    """Voxels two away from any other tissue."""
    return ndimage.binary_erosion(labels == tissue, iterations=2)


def test_tissue_reaches_the_ratio(view):
    made = simulate(view.image, view.mask, view.spacing, "tissue", labels=view.labels)
    medians = {t: np.median(made.image[view.labels == t]) for t in (CSF, GREY, WHITE)}
    assert medians[GREY] / medians[WHITE] == pytest.approx(0.80, abs=2e-4)
    assert made.found["GreyToWhiteBefore"] == pytest.approx(0.64, abs=0.02)
    # White matter and CSF stay.
    for tissue in (CSF, WHITE):
        before = np.median(view.image[view.labels == tissue])
        assert medians[tissue] == pytest.approx(before, rel=0.04)


@pytest.mark.parametrize("ratio", [0.5, 0.64, 0.7, 0.9])
def test_any_ratio(view, ratio):
    image, found = to_ratio(view, ratio)
    assert found["GreyToWhiteAfter"] == pytest.approx(ratio, abs=2e-4)
    assert np.isfinite(image).all()


@pytest.mark.parametrize("domain", CONTRAST)
def test_texture_inside_a_tissue_is_the_scans(view, domain):
    made = simulate(view.image, view.mask, view.spacing, domain, labels=view.labels).image
    for tissue in (GREY, WHITE):
        here = deep(view.labels, tissue)
        assert here.sum() > 100
        factor = made[here] / view.image[here]
        assert factor.std() / factor.mean() < 0.01  # of a texture of 4 %


@pytest.mark.parametrize("domain", CONTRAST)
def test_borders_have_no_rim(view, domain):
    """Of two flat tissues, blurred as by a scanner, nothing gets brighter than the brighter one."""
    clean = np.select([view.labels == t for t in (1, 2, 3)], [300.0, 700.0, 1100.0], 0.0)
    soft = ndimage.gaussian_filter(clean, 0.5) / np.maximum(ndimage.gaussian_filter(1.0 * view.mask, 0.5), 1e-9)
    image = np.where(view.mask, soft, 0)
    made = simulate(image, view.mask, view.spacing, domain, labels=view.labels).image
    assert made.max() <= 1.03 * np.median(made[deep(view.labels, WHITE)])


def test_no_curve_explains_the_tissue_domain(view):
    """Grey and white voxels of one intensity come out different: the change is not monotone."""
    wide = replace(view, image=view.image * (1 + 0.15 * np.random.default_rng(0).standard_normal(view.image.shape)))
    made = simulate(wide.image, wide.mask, wide.spacing, "tissue", labels=wide.labels).image
    same = (wide.image > 850) & (wide.image < 870)
    grey, white = (np.median(made[same & (wide.labels == t)]) for t in (GREY, WHITE))
    assert grey > 1.1 * white


def test_sequences_have_their_contrast(view):
    for domain, ratio in (("gre", 0.838), ("ir", 0.676)):
        made = simulate(view.image, view.mask, view.spacing, domain, labels=view.labels)
        assert made.found["GreyToWhite"] == pytest.approx(ratio, abs=5e-4)
        grey, white = (np.median(made.image[deep(view.labels, t)]) for t in (GREY, WHITE))
        assert grey / white == pytest.approx(ratio, rel=0.03)


def test_mprage_is_the_steady_state_of_its_steps():
    for tissue in TISSUES.values():
        m = middle = 1.0
        for _ in range(40):
            m = 1 + (-m - 1) * np.exp(-(900 - 80 * 7) / tissue.t1)
            for flip in range(160):
                middle = m if flip == 80 else middle
                m = 1 + (m * np.cos(np.radians(9)) - 1) * np.exp(-7 / tissue.t1)
            m = 1 + (m - 1) * np.exp(-(2300 - 900 - 80 * 7) / tissue.t1)
        seen = tissue.density * abs(middle) * np.sin(np.radians(9)) * np.exp(-3 / tissue.t2star)
        found = mprage(tissue, tr=2300, ti=900, te=3, flip=9, echoes=160, spacing=7)
        assert found == pytest.approx(seen, rel=1e-9)


def test_gradient_echo_is_largest_at_the_ernst_angle():
    white = TISSUES[WHITE]
    ernst = np.degrees(np.arccos(np.exp(-20 / white.t1)))
    best = spoiled_gradient_echo(white, tr=20, te=5, flip=ernst)
    assert best > max(spoiled_gradient_echo(white, tr=20, te=5, flip=ernst + d) for d in (-1, 1))


@pytest.mark.parametrize("domain", LABELLED)
def test_labels_are_asked_for_and_checked(view, domain):
    words = (view.image, view.mask, view.spacing, domain)
    with pytest.raises(UsageError, match="--labels"):
        simulate(*words)
    with pytest.raises(InputError, match="voxels"):
        simulate(*words, labels=view.labels[1:])
    with pytest.raises(InputError, match="not only 0 to 3"):
        simulate(*words, labels=view.labels * 2)
    with pytest.raises(InputError, match="no CSF"):
        simulate(*words, labels=np.where(view.labels == CSF, 0, view.labels))
    # Grey, white, CSF as 1, 2, 3: the other convention there is.
    with pytest.raises(InputError, match="darker to brighter"):
        simulate(*words, labels=np.array([0, 3, 1, 2], np.uint8)[view.labels])
