"""What a training run wrote down: held-out curves and calibration, one JSON object a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blindharmony.errors import InputError
from blindharmony.image import parse_json, read_text
from blindharmony.training.calibration import Calibration


@dataclass(frozen=True)
class TrainingLog:
    """A finished run.

    Attributes:
        curves: Level → rows ``(step, training loss, held-out loss)``, nats a number, by step. The training loss is the
            mean since the row before.
        calibrations: Level → latents of the held-out scans before and after the correction.
        seconds: Time spent training, all sessions of an interrupted run together.
    """

    curves: dict[int, list[tuple[float, float, float]]]
    calibrations: dict[int, tuple[Calibration, Calibration]]
    seconds: float


def read_log(path: Path) -> TrainingLog:
    """Read a training log; where a resumed run repeats a step, the later row counts.

    Raises:
        InputError: If it is not there or not a training log.
    """
    curves: dict[int, dict[float, tuple[float, float, float]]] = {}
    calibrations = {}
    total = last = 0.0
    try:
        for line in read_text(path).splitlines():
            row = parse_json(line, finite=False)
            level = int(row["level"])
            if "calibration" in row:
                before, after = (_calibration(row["calibration"][when]) for when in ("before", "after"))
                if len(before.means) != len(after.means):
                    raise ValueError
                calibrations[level] = before, after
                continue
            step, train, unseen = (float(row[name]) for name in ("step", "train", "held_out"))
            seconds = float(row.get("seconds", 0.0))
            # A step that diverged is no point of a curve.
            if not np.isfinite([step, train, unseen, seconds]).all():
                continue
            curves.setdefault(level, {})[step] = step, train, unseen
            # A resumed session counts from zero again.
            total, last = total + (last if seconds < last else 0.0), seconds
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise InputError("this is not a training log", remedy="give the .log.jsonl of a model", path=path) from None
    ordered = {level: [rows[step] for step in sorted(rows)] for level, rows in curves.items()}
    return TrainingLog(ordered, calibrations, total + last)


def _calibration(found: dict[str, Any]) -> Calibration:
    spread, means, spreads = (np.array(found[name], np.float64) for name in ("spread", "means", "spreads"))
    if spread.ndim != 0 or means.ndim != 1 or means.shape != spreads.shape:
        raise ValueError
    return Calibration(float(spread), tuple(means.tolist()), tuple(spreads.tolist()))
