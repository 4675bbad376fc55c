"""What a training run wrote down: held-out curves and calibration, one JSON object a line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from blindharmony.errors import InputError
from blindharmony.training.fit import Calibration


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
        for line in path.read_text().splitlines():
            row = json.loads(line)
            level = int(row["level"])
            if "calibration" in row:
                before, after = (_calibration(row["calibration"][when]) for when in ("before", "after"))
                calibrations[level] = before, after
                continue
            step = float(row["step"])
            curves.setdefault(level, {})[step] = step, float(row["train"]), float(row["held_out"])
            seconds = float(row.get("seconds", 0.0))
            # A resumed session counts from zero again.
            total, last = total + (last if seconds < last else 0.0), seconds
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", remedy="check the path", path=path) from None
    except (ValueError, KeyError, TypeError):
        raise InputError("this is not a training log", remedy="give the .log.jsonl of a model", path=path) from None
    ordered = {level: [rows[step] for step in sorted(rows)] for level, rows in curves.items()}
    return TrainingLog(ordered, calibrations, total + last)


def _calibration(found: dict[str, list[float]]) -> Calibration:
    return Calibration(float(found["spread"]), tuple(found["means"]), tuple(found["spreads"]))  # type: ignore[arg-type]
