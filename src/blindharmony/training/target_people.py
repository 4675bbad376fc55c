"""The person model of a target, and how well it tells people that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from blindharmony.target import Target
from blindharmony.training.head import Head
from blindharmony.training.people_fit import fit_people
from blindharmony.training.pool import Pool
from blindharmony.training.progress import Report


def with_people(
    target: Target, heads: Sequence[Head], pools: Sequence[Pool], people: Sequence[str], *, report: Report
) -> Target:
    """The target with the quantile curves of all its scans and the person model taught by them.

    Every scan serves, held-out ones too: with twenty heads each counts, and the model is judged by leaving each head
    out in turn.
    """
    images = [partial(_arrays, head) for head in heads]
    coarse = [
        (image[0, 0].numpy(), mask[0, 0].numpy())
        for image, mask in (pool.load(index, 0) for pool in pools for index in range(len(pool.files)))
    ]
    person = fit_people(
        images,
        coarse,
        target.fit_region,
        target.levels,
        people=people,
        on_head=lambda i, n: report("learning the people", i / n, {}),
    )
    plain = person.curves[person.themselves]
    others = [plain[[q != p for q in people]].mean(0) for p in people]
    errors = {
        "matching_error": tuple(np.sqrt(((others - plain) ** 2).mean(1)).tolist()),
        "person_error": tuple(np.sqrt(((person.left_out() - plain) ** 2).mean(1)).tolist()),
    }
    held_out = target.info.held_out.model_copy(update=errors)
    info = target.info.model_copy(update={"held_out": held_out})
    return replace(target, info=info, quantiles=plain, person=person)


def _arrays(head: Head) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    image, mask = head.image()
    return image.numpy(), mask.numpy()
