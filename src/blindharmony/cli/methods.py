"""``blindharmony methods``: what a paper has to say of a whole study, from the sidecars of its results.

The report of each scan has a paragraph of its own. A paper has one: :func:`study_text` makes it of all sidecars in a
folder, with the numbers that reviewers ask for, and refuses results that were made in different ways.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindharmony.cli.console import Screen
from blindharmony.cli.verify import places
from blindharmony.errors import InputError, NothingFoundError
from blindharmony.files import parse_json, read_text, split_name

if TYPE_CHECKING:
    from blindharmony.models.target import Target
    from blindharmony.result import Sidecar

_EPILOG = """\
The text says what was done, how many scans were fitted together, how many came back as they were, and how the checks
judged the results; the works that it rests on follow. Paste it and shorten it.

examples:
  blindharmony methods out
  blindharmony methods derivatives --target mysite.safetensors
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "methods",
        help="write the Methods text of a study",
        description="Print one Methods text for all results in a folder and in the folders below it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("folder", type=Path, metavar="FOLDER", help="output folder of harmonize or bids")
    p.add_argument("--target", help="model file that the results were made with, if it is not an included one")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Print the text."""
    sidecars = study_sidecars(arguments.folder)
    from blindharmony.models.file import load_target

    named = sidecars[0].target
    target = load_target(arguments.target or named.name)
    if target.digest != named.digest:
        raise InputError(
            f"the results were made with another target model, {named.name} ({named.digest})",
            remedy="give that model with --target",
            path=arguments.target or named.name,
        )
    screen.result(study_text(sidecars, target))
    return 0


def study_sidecars(folder: Path) -> list[Sidecar]:
    """The sidecars of all results in a folder and below it.

    Raises:
        NothingFoundError: If there is none.
        InputError: If they were made in different ways.
    """
    from pydantic import ValidationError

    from blindharmony.result import Sidecar

    if not folder.is_dir():
        raise NothingFoundError("no such folder", remedy="give the output folder of a run", path=folder)
    sidecars: list[Sidecar] = []
    for place in sorted(places(folder)):
        if split_name(place)[1] != ".json":
            continue
        try:
            sidecars.append(Sidecar.model_validate(parse_json(read_text(folder / place))))
        except (InputError, ValueError, ValidationError):  # another program's, or the note of a fitted scanner
            continue
    if not sidecars:
        raise NothingFoundError("no sidecar of a result is here", remedy="give the output folder of a run", path=folder)
    ways = Counter(_way(sidecar) for sidecar in sidecars)
    if len(ways) > 1:
        kinds = zip(*ways, strict=True)
        differing = [name for name, values in zip(_WAY, kinds, strict=True) if len(set(values)) > 1]
        raise InputError(
            f"its results were made in {len(ways)} ways, with different {' and '.join(differing)}",
            remedy="give the folder of one run, or make them again in the same way (--overwrite)",
            path=folder,
        )
    return sidecars


_WAY = ("targets", "methods", "settings", "versions")


def _way(sidecar: Sidecar) -> tuple[str, ...]:
    settings = sidecar.parameters.settings_digest or ""
    return sidecar.target.digest, sidecar.method, settings, sidecar.versions.get("blindharmony", "")


def study_text(sidecars: Sequence[Sidecar], target: Target) -> str:
    """One Methods text for results that were made in the same way.

    Args:
        sidecars: Of the results.
        target: The target that all were made with.
    """
    from blindharmony.report.evidence import methods_text
    from blindharmony.settings import ABOUT

    first, number = sidecars[0], len(sidecars)
    shares = [_bias_share(sidecar) for sidecar in sidecars]
    sources = Counter(str(_part(sidecar, "brain-mask", "source")) for sidecar in sidecars)
    method = ABOUT.get(first.method, f"The method was '{first.method}'.")
    if first.method == "curve" and first.parameters.refine:
        method += " Noise and blur were then reduced by a network, as far as the scan's own edges allowed."
    paragraph = methods_text(
        target=f"the target '{target.info.name}' (model {target.digest})",
        scans=target.info.scans,
        method=method,
        version=first.versions.get("blindharmony", "(version not recorded)"),
        n4=target.info.recipe.n4 and not first.parameters.settings_of(first.method).keep_bias,
        bias=target.info.recipe.bias,
        bias_share=1.0 if any(shares) else 0.0,
        mask=sources.most_common(1)[0][0],
        flow=target.pyramid is not None,
        splines=bool(target.info.pyramid and target.info.pyramid.rounds),
    )
    text, _, works = paragraph.partition("\n\n")
    seed, differences = first.parameters.seed, _differences(first)
    sentences = [
        text,
        _together(sidecars),
        f"Settings were the defaults{f' but for {differences}' if differences else ''}; the seed was {seed}.",
    ]
    if len(sources) > 1:
        kinds = ", ".join(f"{count} {_SOURCES.get(source, source)}" for source, count in sources.most_common())
        sentences.append(f"Brain masks: {kinds}.")
    if any(shares) and (left := sum(share < 1 for share in shares)):
        sentences.append(f"In {_scans(left)} a field that may be anatomy was left, in part or as a whole.")
    if lesions := sum(sidecar.parameters.lesion_mask is not None for sidecar in sidecars):
        sentences.append(f"In {_scans(lesions)} lesions were left out of every fit, by given masks.")
    if returned := sum(not sidecar.harmonized for sidecar in sidecars):
        were = "was" if returned == 1 else "were"
        sentences.append(
            f"{_scans(returned).capitalize()} {were} returned with intensities unchanged but for bias field and "
            "brightness, because harmonizing would not have brought the intensities nearer to the target's."
        )
    levels = Counter(sidecar.verdict.get("Level", "not judged") for sidecar in sidecars)
    judged = ", ".join(f"{levels[level]} {word}" for level, word in _LEVELS.items() if levels[level])
    sentences.append(
        f"Each result was judged by automatic checks against the target's own scans: of {number}, {judged}."
    )
    return "\n\n".join([" ".join(sentences), works])


_LEVELS = {"good": "good", "caution": "to be looked at", "poor": "poor", "not judged": "not judged"}
_SOURCES = {
    "network": "by deepbet",
    "stripped": "of scans that were skull-stripped before",
    "command": "by an external program",
    "given": "given by the user",
}


def _together(sidecars: Sequence[Sidecar]) -> str:
    """Which scans shared a curve, in sentences."""
    models = Counter(s.parameters.scanner.digest for s in sidecars if s.parameters.scanner)
    alone = sum(s.parameters.scanner is None for s in sidecars)
    one = "One scan was harmonized by itself." if alone == 1 else f"{alone} scans were harmonized, each by itself."
    if not models:
        return one
    sizes = ", ".join(str(count) for _, count in models.most_common())
    scanners = "one scanner" if len(models) == 1 else f"{len(models)} scanners"
    words = (
        f"{_scans(sum(models.values())).capitalize()} of {scanners} ({sizes}) shared one curve a scanner: the one that "
        "gives the mean of its scans the intensities that these persons together would have on the target scanner; "
        "each scan kept a gain of its own."
    )
    late = sum(bool(s.parameters.scanner and s.parameters.scanner.late) for s in sidecars)
    if late:
        words += f" {_scans(late).capitalize()} took the curve as it was fitted to earlier scans of the scanner."
    return f"{words} {one}" if alone else words


def _bias_share(sidecar: Sidecar) -> float:
    """How much of the bias field that was found was removed; earlier versions removed all of it."""
    field = sidecar.preparation.get("n4") or {}
    found = field.get("found_sd")
    return float(field["log_bias_sd"]) / float(found) if found else 1.0


def _scans(number: int) -> str:
    return "one scan" if number == 1 else f"{number} scans"


def _differences(sidecar: Sidecar) -> str:
    settings = sidecar.parameters.settings_of(sidecar.method)
    changed = {k: v for k, v in settings.differences().items() if k not in ("seed", "device", "method", "mask_command")}
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in changed.items()
    )


def _part(sidecar: Sidecar, step: str, name: str) -> Any:
    part = sidecar.preparation.get(step)
    return part.get(name) if isinstance(part, dict) else None
