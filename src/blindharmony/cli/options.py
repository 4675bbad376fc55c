"""Options that several commands have, each declared once.

Those that mean the same everywhere, such as ``--target`` (:func:`add_shared`); choices and numbers of a harmonization
or a training, which are the fields of their settings (:func:`add_settings`, :func:`settings_of`); the scans and masks
that they name (:func:`scans_named`, :func:`masks_named`); and kinds of numbers, which are refused where they make no
sense before any work begins.
"""

from __future__ import annotations

import argparse
import json
import math
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic.fields import FieldInfo

from blindharmony.cli.console import Screen
from blindharmony.errors import InputError, NothingFoundError, UsageError
from blindharmony.files import parse_json, read_text
from blindharmony.io.bids import Listing, find_lesions, find_masks, joined, list_scans
from blindharmony.settings import METHODS, HarmonizeSettings, Settings, TrainSettings

AnySettings = TypeVar("AnySettings", bound=Settings)

_SHARED: dict[str, dict[str, Any]] = {
    "--target": {"default": "ds002748", "help": "model file or included name (default: %(default)s)"},
    "--mask": {"type": Path, "help": "brain mask on the scan's grid (one scan only)"},
    "--mask-dir": {"type": Path, "metavar": "DIR", "help": "derivatives with a desc-brain mask of every scan"},
    "--lesion-mask": {
        "type": Path,
        "help": "lesions on the scan's grid, which no fit and no check looks at (one scan)",
    },
    "--lesion-dir": {
        "type": Path,
        "metavar": "DIR",
        "help": "derivatives with a label-lesion mask of scans with lesions",
    },
    "--participant-label": {"nargs": "+", "metavar": "LABEL", "help": "BIDS subjects, with or without sub-"},
    "--suffix": {"default": "T1w", "help": "BIDS suffix of the contrast (default: %(default)s)"},
    "--viewer": {"action": "store_true", "help": "also write a page to scroll through both volumes"},
    "--uncertainty": {"action": "store_true", "help": "also write the error bar of every voxel"},
    "--verbose": {"action": "store_true", "help": "say each stage as it begins"},
    "--quiet": {"action": "store_true", "help": "print only results and problems"},
}


def add_shared(p: Any, *options: str) -> None:
    """Options that mean the same in every command; those of two words are written with dashes or underscores.

    Args:
        p: A parser or a group of its options.
        options: Names, such as ``--target``.
    """
    for option in options:
        short = {"--quiet": ("-q",), "--verbose": ("-v",)}.get(option, ())
        names = (*short, *dict.fromkeys(both(option)))
        p.add_argument(*names, **_SHARED[option])


def both(option: str) -> tuple[str, ...]:
    """An option with dashes and with underscores.

    Example:
        >>> both("--mem-gb")
        ('--mem-gb', '--mem_gb')
    """
    return option, "--" + option[2:].replace("-", "_")


def add_settings(
    p: Any, choices: Sequence[str], model: type[Settings] = HarmonizeSettings, *, underscores: bool = False
) -> None:
    """Options for choices of settings, and ``--set`` and ``--config``.

    Name, kind, default and help are those of the field. What is not given is None, so that a file of settings counts.

    Args:
        p: A parser or a group of its options.
        choices: Fields.
        model: Whose fields they are.
        underscores: Whether the options may be written with underscores too, as BIDS apps are.
    """
    for name in choices:
        field = model.model_fields[name]
        text = (field.description or "").removesuffix(".").replace("%", "%%")
        # An abbreviation stays as it is.
        text = text if text[:2].isupper() else text[0].lower() + text[1:]
        option, how = "--" + name.replace("_", "-"), dict[str, Any](dest=name, default=None, help=text)
        if field.default is True:
            option = "--no-" + option[2:]
            how |= {"action": "store_const", "const": False, "help": f"do not {text}"}
        elif field.default is False:
            how |= {"action": "store_const", "const": True}
        else:
            how |= _kind(name, field)
            if field.default not in (None, "") and "default" not in text:
                default = f"{field.default:g}" if isinstance(field.default, float) else field.default
                how["help"] += f" (default: {default})"
        options = [_SPELLED[name], option] if name in _SPELLED else [option]
        p.add_argument(*(dict.fromkeys(both(option)) if underscores else options), **how)
    p.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="GROUP.NAME=VALUE",
        help=f"change a number, such as {_EXAMPLE[model]} (repeatable; the Python reference lists them)",
    )
    p.add_argument("--config", type=Path, metavar="FILE", help="settings in a JSON or TOML file; options come after it")


# The field keeps the name that it has in files; the option of earlier versions goes on.
_SPELLED = {"licence": "--license"}
_METAVARS = {"method": "NAME", "device": "NAME", "name": "NAME", "mask_command": "CMD", "suffix": "SUFFIX"}
_EXAMPLE: dict[type[Settings], str] = {HarmonizeSettings: "curve.degree=1", TrainSettings: "flow_fit.rate=0.001"}


def _kind(name: str, field: FieldInfo) -> dict[str, Any]:
    """What reads the field's value from the command line, and what stands for it in help."""
    if name == "method":
        return {"choices": METHODS, "metavar": _METAVARS[name]}
    if get_origin(field.annotation) is Literal:
        return {"choices": get_args(field.annotation)}
    number: Callable[[str], float] | None = None
    if "float" in str(field.annotation):
        number = amount
    elif "int" in str(field.annotation):
        number = whole if isinstance(field.default, int) else count
    return {"type": number or str, "metavar": "N" if number else _METAVARS.get(name, "TEXT")}


def settings_of(arguments: argparse.Namespace, model: type[AnySettings]) -> AnySettings:
    """The settings that a command line asks for: those of ``--config``, then ``--set``, then the options.

    Raises:
        UsageError: If there is no such setting, or a value makes no sense.
        InputError: If the file cannot be read.
    """
    settings = model()
    if arguments.config:
        try:
            settings = settings.updated(**_read_config(arguments.config))
        except UsageError as error:
            raise UsageError(error.what, remedy=error.remedy, path=arguments.config) from None
    for words in arguments.set:
        name, equals, text = words.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {words} is no NAME=VALUE", remedy=f"write --set {_EXAMPLE[model]}, for example")
        group, dot, number = name.strip().replace("-", "_").partition(".")
        value = _value(text.strip())
        settings = settings.updated(**{group: {number: value} if dot else value})
    options = {name: getattr(arguments, name, None) for name in model.choices()}
    return settings.updated(**{name: value for name, value in options.items() if value is not None})


def _value(text: str) -> Any:
    """A value as JSON, or a word.

    Example:
        >>> _value("[0.5, 2]"), _value("ncc"), _value("true")
        ([0.5, 2], 'ncc', True)
    """
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_config(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        content = tomllib.loads(text) if path.suffix.lower() == ".toml" else parse_json(text)
    except ValueError as error:
        raise UsageError(f"these settings cannot be read ({str(error)[:80]})", remedy="write JSON or TOML") from None
    if not isinstance(content, dict):
        raise UsageError("these are no settings", remedy='write a table, such as {"curve": {"degree": 1}}')
    return content


def scans_named(
    items: Sequence[str | Path], labels: list[str] | None, suffix: str, screen: Screen
) -> tuple[list[Path], list[NothingFoundError]]:
    """The scans, and inputs that hold none; it is an error only if no input holds any. What is passed over is said.

    Args:
        items: Files, folders or BIDS studies.
        labels: BIDS subjects, all if None.
        suffix: Last word of BIDS names.
        screen: Where to say what is passed over.

    Raises:
        NothingFoundError: If there is no scan at all.
    """
    listings: list[Listing] = []
    missing: list[NothingFoundError] = []
    if labels or len(items) == 1:
        listings.append(list_scans(items, participant_labels=labels, suffix=suffix))
    else:
        for item in items:
            try:
                listings.append(list_scans([item], suffix=suffix))
            except NothingFoundError as error:
                missing.append(error)
    listing = joined(listings)
    if not listing.scans:
        raise missing[0]
    for line in listing.lines():
        screen.problem(f"blindharmony: warning: {line}")
    return list(listing.scans), missing


def masks_named(
    mask: Path | None, folder: Path | None, paths: list[Path], *, command: str | None = None
) -> dict[Path, Path]:
    """The brain masks of scans that were given one, by ``--mask`` or ``--mask-dir``.

    Raises:
        InputError: If there is no such file, or a scan has no mask in the folder and no ``command`` makes one.
        UsageError: If one mask is given for several scans, or both options.
    """
    if mask is not None:
        return _one_mask(mask, folder, paths)
    return find_masks(paths, folder, command=command)


def lesions_named(mask: Path | None, folder: Path | None, paths: list[Path]) -> dict[Path, Path]:
    """The lesion masks of scans that were given one, by ``--lesion-mask`` or ``--lesion-dir``; a scan may have none.

    Raises:
        InputError: If there is no such file.
        UsageError: If one mask is given for several scans, both options, or a folder without any.
    """
    if mask is not None:
        return _one_mask(mask, folder, paths, "lesion")
    return find_lesions(paths, folder)


def _one_mask(mask: Path, folder: Path | None, paths: list[Path], kind: str = "") -> dict[Path, Path]:
    option, other = (f"--{kind}-mask", f"--{kind}-dir") if kind else ("--mask", "--mask-dir")
    if folder is not None:
        raise UsageError(f"{option} and {other} exclude each other", remedy="use one of them")
    if not mask.exists():
        raise InputError("no such mask", remedy="check the path", path=mask)
    if len(paths) != 1:
        raise UsageError(f"{option} goes with one scan", remedy=f"give one scan with it, or leave {option} out")
    return {paths[0]: mask}


def for_workers(target: str) -> str:
    """A target as other processes find it, wherever they run."""
    from blindharmony.models.card import included_targets

    # An included model's name means that model, also where a folder is called the same.
    return target if target in included_targets() else str(Path(target).resolve())


def whole(text: str) -> int:
    """A whole number that is not negative, such as a seed.

    Example:
        >>> whole("0")
        0
        >>> whole("-1")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: '-1' is no whole number from 0 to 9223372036854775807
    """
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number from 0 to {2**63 - 1}")
    return int(text)


def count(text: str) -> int:
    """A whole number above zero, such as a number of steps.

    Example:
        >>> count("0")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: '0' is no whole number above zero
    """
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above zero")
    return int(text)


def amount(text: str) -> float:
    """A finite number above zero, such as minutes.

    Example:
        >>> amount("0.5")
        0.5
        >>> amount("nan")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: 'nan' is no number above zero
    """
    value = _finite(text)
    if value is None or value <= 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no number above zero")
    return value


def from_zero(text: str) -> float:
    """A finite number that is not negative, such as room on a disk, or minutes.

    Example:
        >>> from_zero("0")
        0.0
        >>> from_zero("inf")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: 'inf' is no number from 0 up
    """
    value = _finite(text)
    if value is None or value < 0:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 0 up")
    return value


def _finite(text: str) -> float | None:
    """The number, None if it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
