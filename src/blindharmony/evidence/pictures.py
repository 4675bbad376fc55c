"""Pictures of one subject of each source, before and after: they hold voxels, so they stay with the user."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from blindharmony.evidence.heads import Head
from blindharmony.evidence.plan import Plan, Source
from blindharmony.evidence.steps import plain
from blindharmony.evidence.system import Picture
from blindharmony.image import write_bytes
from blindharmony.report.page import strip_of
from blindharmony.study.hashes import key_of

_WHITE = 1.7


def picture_file(plan: Plan, source: str, name: str) -> Path:
    """Where a picture is; one of another model, seed or training time is another picture."""
    key = key_of(plan.target.digest, plan.seed, plan.minutes, plan.tested(plan.target_set), plan.teacher_keys)[:8]
    return plan.out / "figures" / "pictures" / plain(source) / f"{name}-{key}.jpg"


def keep_picture(
    plan: Plan, source: Source, name: str, scan: Picture, image: NDArray[np.float32], truth: Head | None
) -> None:
    """Three slices of a harmonized scan, of the scan as it came, and of the truth where there is one."""
    wanted = {name: image, "source": scan.plain, **({} if truth is None else {"truth": truth.image})}
    for label, values in wanted.items():
        strip = strip_of(label, values, scan.mask, (0, _WHITE))
        content = base64.b64decode(strip.source.partition(",")[2])
        write_bytes(picture_file(plan, source.name, label), content, overwrite=True)
