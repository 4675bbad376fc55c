"""The page of a training: how it went and what the model has learnt, one HTML page made from model and log.

The log holds one JSON object a line, written while the flow was trained: held-out curves, and calibration of each level
(:func:`read_log`). :func:`write_training_page` draws them, adds heads drawn from the flow, and says what the model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from blindharmony.errors import InputError
from blindharmony.files import parse_json, read_text, write_text
from blindharmony.models.target import Target, card_rows
from blindharmony.quality.typicality import level_names
from blindharmony.report.charts import Line, chart
from blindharmony.report.page import Section, render_page, strip_of
from blindharmony.sampling import TEMPERATURES, WHITE, drawn_heads
from blindharmony.training.pyramid import Calibration


def write_training_page(target: Target, log: Path, path: Path, *, seed: int = 0, overwrite: bool = False) -> Path:
    """Write the page, or nothing.

    Args:
        target: The trained model.
        log: Its training log.
        path: The HTML file.
        seed: Of the heads that are drawn.
        overwrite: Whether it may exist already.

    Raises:
        InputError: If the log is no training log, or of another model.
        OutputError: If the page exists already, or cannot be written.
    """
    run = read_log(log)
    if not set(run.curves) | set(run.calibrations) <= set(range(len(level_names(target)))):
        raise InputError("this training log is of another model", remedy="give the .log.jsonl beside it", path=log)
    sections = [_curves(target, run), *_restorer(run), _calibration(target, run), *_samples(target, seed)]
    sections.append(_facts(target, run))
    return write_text(path, render_page(target.info.name, "Training report", sections), overwrite=overwrite)


def _curves(target: Target, run: TrainingLog) -> Section:
    names = level_names(target)
    return Section(
        "Training and held-out curves",
        notes=(
            "Cost of a number in nats, lower is better, coarsest level first. The weights kept are those of the lowest "
            "held-out cost. Wrong would be a held-out line that rises while the training line falls: learned by heart.",
            "The training line is the mean over the steps since the point before, on deformed heads and, at the finest "
            "level, on small cubes; held-out scans are whole and not deformed. Only the form of the two compares.",
        ),
        charts=[(names[level], _curve(names[level], rows)) for level, rows in sorted(run.curves.items(), reverse=True)],
        legend=[("before", "training"), ("", "held out")],
    )


def _restorer(run: TrainingLog) -> list[Section]:
    if len(run.restorer) < 2:
        return []
    return [
        Section(
            "The restorer",
            notes=(
                "Share of the squared error that the restorer leaves in cubes of heads through random scanners: 0 is "
                "the truth, lower is better. Doing nothing is below 1, since cubes hardly changed count less. "
                "A held-out line that still falls at its end says that a longer training would pay "
                "(--restorer-steps).",
            ),
            charts=[("restorer", _curve("the restorer", run.restorer, "Share of the error left"))],
            legend=[("before", "training"), ("", "held out")],
        )
    ]


def _curve(name: str, rows: Sequence[tuple[float, float, float]], unit: str = "Nats a number") -> Markup:
    step, train, unseen = np.array(rows).T
    return chart(
        Line(step, train, "before"),
        Line(step, unseen, "after"),
        label=f"Training and held-out cost of {name}",
        x_label="Step",
        y_label=unit,
        x_range=(0.0, float(step.max())),
    )


def _calibration(target: Target, run: TrainingLog) -> Section:
    rows = []
    names = level_names(target)
    for level, (before, after) in sorted(run.calibrations.items()):
        for channel in range(len(before.means)):
            pairs = ((before.means, before.spreads), (after.means, after.spreads))
            cells = [f"{value[channel]:.3f}" for pair in pairs for value in pair]
            rows.append((names[level], str(channel + 1), *(c.replace("-", "−") for c in cells)))
    return Section(
        "Calibration of the latents",
        notes=(
            "Latents of the held-out scans, which should have mean 0 and spread 1 in every channel. The seven channels "
            "of a level are the directions of its details: front-back, left-right, up-down and their mixtures. 'After' "
            "is measured on the scans that set the correction, so it says that the correction works, not more.",
        ),
        head=("level", "channel", "mean before", "spread before", "mean after", "spread after"),
        rows=rows,
    )


def _samples(target: Target, seed: int) -> list[Section]:
    if target.pyramid is None:
        return []
    inside = target.coverage > 0.5
    mean = np.where(inside, target.mean_image, 0)
    strips = [strip_of("mean of the training scans", mean, inside, (0, WHITE))]
    for temperature in TEMPERATURES:
        head = drawn_heads(target, temperature=temperature, seed=seed)[0]
        strips.append(strip_of(f"drawn at temperature {temperature:g}", head, inside, (0, WHITE)))
    return [
        Section(
            "Heads drawn from the flow",
            notes=("Nobody's heads. Layout and contrast should be those of the mean; texture shows what is missing.",),
            strips=strips,
        )
    ]


def _facts(target: Target, run: TrainingLog) -> Section:
    minutes, seconds = divmod(round(run.seconds), 60)
    steps = ", ".join(f"{rows[-1][0]:.0f}" for _, rows in sorted(run.curves.items()))
    facts = [("time of the flow", f"{minutes} min {seconds} s, preparation not counted"), ("steps by level", steps)]
    return Section("About this model", facts=[*facts, *card_rows(target)])


@dataclass(frozen=True)
class TrainingLog:
    """A finished run.

    Attributes:
        curves: Level → rows ``(step, training loss, held-out loss)``, nats a number, by step. The training loss is the
            mean since the row before.
        calibrations: Level → latents of the held-out scans before and after the correction.
        restorer: Rows ``(step, training error, held-out error)`` of the restorer, shares of the error before.
        seconds: Time spent training the flow, all sessions of an interrupted run together.
    """

    curves: dict[int, list[tuple[float, float, float]]]
    calibrations: dict[int, tuple[Calibration, Calibration]]
    restorer: list[tuple[float, float, float]]
    seconds: float


def read_log(path: Path) -> TrainingLog:
    """Read a training log; where a resumed run repeats a step, the later row counts.

    Raises:
        InputError: If it is not there or not a training log.
    """
    curves: dict[int, dict[float, tuple[float, float, float]]] = {}
    calibrations, restorer = {}, {}
    total = last = 0.0
    try:
        for line in read_text(path).splitlines():
            row = parse_json(line, finite=False)
            level = -1 if row.get("network") == "restorer" else int(row["level"])
            if "calibration" in row:
                before, after = (_calibration_of(row["calibration"][when]) for when in ("before", "after"))
                if len(before.means) != len(after.means):
                    raise ValueError
                calibrations[level] = before, after
                continue
            step, train, unseen = (float(row[name]) for name in ("step", "train", "held_out"))
            seconds = float(row.get("seconds", 0.0))
            # A step that diverged is no point of a curve.
            if not np.isfinite([step, train, unseen, seconds]).all():
                continue
            if level < 0:
                restorer[step] = step, train, unseen
                continue
            curves.setdefault(level, {})[step] = step, train, unseen
            # A resumed session counts from zero again.
            total, last = total + (last if seconds < last else 0.0), seconds
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise InputError("this is not a training log", remedy="give the .log.jsonl of a model", path=path) from None
    ordered = {level: [rows[step] for step in sorted(rows)] for level, rows in curves.items()}
    return TrainingLog(ordered, calibrations, [restorer[step] for step in sorted(restorer)], total + last)


def _calibration_of(row: dict[str, Any]) -> Calibration:
    spread, means, spreads = (np.array(row[name], np.float64) for name in ("spread", "means", "spreads"))
    if spread.ndim != 0 or means.ndim != 1 or means.shape != spreads.shape:
        raise ValueError
    return Calibration(float(spread), tuple(means.tolist()), tuple(spreads.tolist()))
