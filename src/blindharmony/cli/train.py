"""The command ``blindharmony train``: scans of one scanner in, its target model out."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from blindharmony.cli.console import Screen, Stage, counted, duration
from blindharmony.cli.options import add_settings, add_shared, settings_of
from blindharmony.errors import UsageError
from blindharmony.files import check_outputs
from blindharmony.io.bids import find_masks, list_scans
from blindharmony.settings import TrainSettings

_EPILOG = """\
Give about 20 scans of one scanner and protocol; five, of three people, are the least. Every fifth person (four at
most) is held out of the networks: they tell when to stop, calibrate the flow, and give the figures that
'blindharmony info' shows. Intensity curves are learned from all. Scans of one person are known by 'sub-' in their
names. Preparation takes some 3 to 5 s a scan and is done once; an interrupted run goes on with --resume and ends
with the same model.
A new run gives the same model on the same machine if every part has steps in place of time: --steps, --restorer-steps
(or --no-restorer), and --slice-steps if there is a slice flow.
Nothing is written beside your scans, and nothing leaves this machine.

Written: TARGET, and beside it TARGET's name with .log.jsonl (what was measured on the way) and .training.html (held-out
curves, calibration, heads drawn from the flow).

examples:
  blindharmony train study/ --out mysite.safetensors
  blindharmony train study/ --participant-label 01 02 03 04 05 06 --minutes 10 --out quick.safetensors
  blindharmony train a.nii b.nii c.nii d.nii e.nii --steps 300 --restorer-steps 300 --seed 1 --out mysite.safetensors
"""


# What the model's card says of itself decides no number of the model.
_CARD = ("name", "data", "licence")
# Options that say which data are used and decide the model too.
_PLACES = ("held_out", "mask_dir", "restorer_from")
_DATA = ("participant_label", *_PLACES)


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "train",
        help="learn a target scanner from its scans",
        description="Learn what the scans of one scanner look like, as a target to harmonize to.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("inputs", nargs="+", metavar="INPUT", help="files, folders or a BIDS study")
    p.add_argument("--out", required=True, type=Path, metavar="TARGET", help="model file, e.g. mysite.safetensors")
    add_shared(p, "--participant-label")
    p.add_argument("--held-out", nargs="+", metavar="LABEL", help="subjects (or file names) that teach no network")
    add_shared(p, "--mask-dir")
    p.add_argument(
        "--restorer-from",
        metavar="TARGET",
        help="let the restorer begin with that of this model (a name or file), and learn on from these scans",
    )
    add_settings(p, TrainSettings.choices(), TrainSettings)
    p.add_argument(
        "--note",
        nargs=2,
        action="append",
        metavar=("NAME", "TEXT"),
        help="anything else for the model card, repeatable",
    )
    p.add_argument("--device", default="cpu", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    p.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    p.add_argument("--overwrite", action="store_true", help="replace an existing model")
    p.add_argument("--json", action="store_true", help="for machines: progress and result as JSON, an object a line")
    add_shared(p, "--quiet")
    p.set_defaults(run=run)


def training_settings(arguments: argparse.Namespace) -> TrainSettings:
    """The settings that options ask for.

    Raises:
        UsageError: If a setting is unknown or makes no sense, or two options exclude each other.
        InputError: If a file of settings cannot be read.
    """
    if arguments.restorer is False and arguments.restorer_steps is not None:
        raise UsageError("--restorer-steps and --no-restorer exclude each other", remedy="use one of them")
    return settings_of(arguments, TrainSettings)


def recipe(arguments: argparse.Namespace) -> str:
    """The command that makes this model again, without the folders of this machine.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> add_parser(parser.add_subparsers())
        >>> words = ["--steps", "5", "--restorer-from", "x/b.safetensors", "--out", "x/a.safetensors", "--resume"]
        >>> recipe(parser.parse_args(["train", "x/site A", *words]))
        "blindharmony train 'site A' --restorer-from b.safetensors --steps 5 --out a.safetensors"
    """
    words = ["blindharmony", "train", *(Path(name).resolve().name for name in arguments.inputs)]
    settings = training_settings(arguments)
    choices = {name: value for name, value in settings.differences().items() if name not in settings.groups()}
    options: dict[str, Any] = {name: getattr(arguments, name) for name in _DATA}
    options |= {name: value for name, value in choices.items() if name not in _CARD}
    for name, value in options.items():
        if value is None:
            continue
        option = name.replace("_", "-")
        if value is False:
            words.append(f"--no-{option}")
            continue
        values = value if isinstance(value, list) else [value]
        words += [f"--{option}", *(Path(v).resolve().name if name in _PLACES else str(v) for v in values)]
    for group, numbers in settings.groups().items():
        words += [word for name, value in numbers.items() for word in ("--set", f"{group}.{name}={json.dumps(value)}")]
    return shlex.join([*words, "--out", arguments.out.name])


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Train and say what came out."""
    settings = training_settings(arguments)
    listing = list_scans(arguments.inputs, participant_labels=arguments.participant_label, suffix=settings.suffix)
    from blindharmony.training.loop import Compute
    from blindharmony.training.page import write_training_page
    from blindharmony.training.target import log_name, train

    compute = Compute.of(settings, arguments.device)
    if not compute.group.first:
        screen = Screen(quiet=True)
    for line in listing.lines() if compute.group.first else ():
        screen.problem(f"blindharmony: warning: {line}")
    page = arguments.out.with_name(f"{arguments.out.stem}.training.html")
    masks = find_masks(listing.scans, arguments.mask_dir, command=settings.mask_command)
    inputs = [*listing.scans, *masks.values(), *(arguments.held_out or ()), arguments.config]
    check_outputs([arguments.out, page, log_name(arguments.out)], inputs)
    with screen.progress("", left=False) as stage:
        target = train(
            listing.scans,
            arguments.out,
            settings,
            held_out=arguments.held_out or (),
            restorer_from=arguments.restorer_from,
            mask_dir=arguments.mask_dir,
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            compute=compute,
            notes={"recipe": recipe(arguments), **dict(arguments.note or [])},
            report=TrainingScreen(screen, stage, as_json=arguments.json, course=stages(settings, len(listing.scans))),
        )
        compute.group.leave()
        if not compute.group.first:
            return 0
        write_training_page(target, log_name(arguments.out), page, seed=settings.seed, overwrite=True)
    if arguments.json:
        screen.result(json.dumps({"stage": "end", "target": str(arguments.out), "digest": target.digest}))
    else:
        screen.result(str(arguments.out))
    bits = target.info.held_out.bits_per_dim
    screen.note(
        f"learned {target.info.name} from {counted(target.info.scans)}; {counted(len(bits), 'held-out scan')} cost "
        f"{min(bits):.2f} to {max(bits):.2f} bits a voxel"
    )
    screen.note(f"open {page.resolve().as_uri()} in a browser to see how it went")
    return 0


_BARS = "▁▂▃▄▅▆▇█"
_SHOWN = 12


def spark(values: list[float]) -> str:
    """Values as a line of small bars, lowest to highest.

    Example:
        >>> spark([3.0, 2.0, 1.0])
        '█▅▁'
    """
    low, high = min(values), max(values)
    return "".join(_BARS[round(7 * (v - low) / (high - low))] if high > low else _BARS[0] for v in values)


# Seconds that a scan takes on one core, about, in the stages that have no time of their own.
_SCAN_S = {"preparing": 20.0, "deforming": 5.0, "judging": 1.0, "learning": 13.0, "cutting": 2.0}


def stages(settings: TrainSettings, scans: int) -> dict[str, float | None]:
    """The groups of stages of a training in their order, and the seconds that each takes, about.

    A number of steps says nothing about the time: None.

    Example:
        >>> stages(TrainSettings(minutes=30, slice_steps=5), 20)["flow"], stages(TrainSettings(steps=9), 20)["flow"]
        (1200.0, None)
    """
    flow = 60 * settings.minutes * (settings.flow_fit.time_share if settings.restorer else 1)
    guess: dict[str, float | None] = {name: seconds * scans for name, seconds in _SCAN_S.items()}
    timed = {
        "flow": (True, settings.steps, flow),
        "restorer": (settings.restorer, settings.restorer_steps, 60 * settings.minutes - flow),
        "slice": (
            settings.slice_minutes > 0 or settings.slice_steps,
            settings.slice_steps,
            60 * settings.slice_minutes,
        ),
    }
    guess |= {name: None if steps else seconds for name, (wanted, steps, seconds) in timed.items() if wanted}
    order = ("preparing", "deforming", "flow", "judging", "learning", "cutting", "restorer", "slice")
    left_out = () if settings.restorer else ("cutting",)
    return {name: guess[name] for name in order if name in guess and name not in left_out}


class TrainingScreen:
    """Turns the reports of a training run into a moving line on a terminal and into plain lines elsewhere.

    Args:
        screen: Where to.
        stage: The moving line.
        clock: Seconds, for tests.
        as_json: Whether standard output gets one JSON object where a plain line would stand.
        course: Its :func:`stages`; without them the time left is that of the present one.
    """

    def __init__(
        self,
        screen: Screen,
        stage: Stage,
        clock: Callable[[], float] = time.monotonic,
        *,
        as_json: bool = False,
        course: Mapping[str, float | None] | None = None,
    ) -> None:
        self.screen, self.stage, self.clock, self.as_json = screen, stage, clock, as_json
        self.course = dict(course or {})
        self.pace = 1.0
        self.name = self.group = ""
        self.costs: list[float] = []
        self.since = self.start = 0.0

    def __call__(self, name: str, done: float, numbers: dict[str, float]) -> None:
        """Show one report: a stage, the share of its group that is done, numbers."""
        terminal = self.screen.err.is_terminal
        # Levels of the flow share one scale from 0 to 1; every other stage has its own.
        group = "flow" if "step" in numbers and name != "restorer" else name.split(" ")[0]
        if group != self.group:
            self.group, self.since, self.start = group, self.clock(), done
        if name != self.name:
            self.name, self.costs = name, []
            if "held_out" not in numbers:
                self._object(name, done, numbers)
            if not terminal:
                self.screen.note(f"{name}{self._left(done)}")
        if "held_out" in numbers:
            self.costs.append(numbers["held_out"])
            self._object(name, done, numbers)
            if not terminal:
                self.screen.note(f"{name}: step {numbers['step']:.0f}{self._cost()}{self._left(done)}")
        self.stage(f"{name}{self._cost()}{self._left(done)}", done)

    def _cost(self) -> str:
        if not self.costs:
            return ""
        unit = " of the error left" if self.group == "restorer" else " nats"
        return f", held out {self.costs[-1]:.4f}{unit} {spark(self.costs[-_SHOWN:])}"

    def _left(self, done: float) -> str:
        seconds = self._seconds_left(done)
        unknown = next((name for name, later in self._later().items() if later is None), "")
        before = {"flow": " before the flow is learned", "restorer": " before the restorer is learned"}.get(unknown, "")
        return (
            "" if seconds is None else f", {duration(seconds)} left{before or (unknown and ' before the slice flow')}"
        )

    def _later(self) -> dict[str, float | None]:
        names = list(self.course)
        after = names[names.index(self.group) + 1 :] if self.group in names else []
        return {name: self.course[name] for name in after}

    def _seconds_left(self, done: float) -> float | None:
        """To the end, or to the next stage whose time nobody knows; None where the present one is not known yet."""
        share = done - self.start
        if self.group not in ("flow", "preparing", *self.course) or share < 0.005 or done >= 1:
            return None
        spent = self.clock() - self.since
        if self.group == "preparing" and (guess := self.course.get("preparing")):
            # How fast this machine is; a resumed run only looks whether all is there.
            self.pace = min(5.0, max(0.3, spent / (share * guess)))
        seconds = spent * (1 - done) / share
        for name, later in self._later().items():
            if later is None:
                break
            seconds += later * (self.pace if name in _SCAN_S else 1.0)
        return seconds

    def _object(self, name: str, done: float, numbers: dict[str, float]) -> None:
        if self.as_json:
            seconds = self._seconds_left(done)
            left = None if seconds is None else round(seconds)
            content = {"stage": name, "done": round(done, 4), "seconds_left": left, **numbers}
            self.screen.result(json.dumps({k: v for k, v in content.items() if v == v}))
