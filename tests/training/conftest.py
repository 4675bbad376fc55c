"""Trainings of whole targets, without doing over what has tests of its own."""

from itertools import islice

import numpy as np
import pytest

from blindharmony.training import person as people_fit
from blindharmony.training import person as target_people
from blindharmony.training import target as target_fit
from blindharmony.training.person import fit_people


@pytest.fixture(scope="module")
def people_once():
    """The people of these heads are the same for every training, and have tests of their own: as they are will do.

    So has honesty: three changes of intensity are enough for a parabola.
    """
    known = {}
    seen_as = people_fit.seen_as

    def remembered(heads, coarse, *others, **more):
        key = len(coarse), *(round(float(x.sum()), 3) for x, _ in coarse)
        if key not in known:
            known[key] = fit_people(heads, coarse, *others, **more)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(people_fit, "seen_as", lambda *head: islice(seen_as(*head), 1))
        patch.setattr(target_people, "fit_people", remembered)
        patch.setattr(target_fit, "_CHANGES", np.linspace(-0.1, 0.1, 3))
        yield
