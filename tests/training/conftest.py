"""Trainings of whole targets, without doing over what has tests of its own."""

from itertools import islice

import pytest

from blindharmony.training import person as person_fit
from blindharmony.training.person import fit_people


@pytest.fixture(scope="module")
def people_once():
    """The people of these heads are the same for every training, and have tests of their own: as they are will do."""
    known = {}
    versions_of = person_fit.versions_of

    def remembered(heads, coarse, *others, **more):
        key = len(coarse), *(round(float(x.sum()), 3) for x, _ in coarse)
        if key not in known:
            known[key] = fit_people(heads, coarse, *others, **more)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(person_fit, "versions_of", lambda *head: islice(versions_of(*head), 1))
        patch.setattr(person_fit, "fit_people", remembered)
        yield
