"""Which scans one scanner made with one sequence, and how that is known: from sidecars, or from a label of each scan.

Two scans have a scanner in common if their sidecars (:func:`metadata`, by BIDS inheritance) name the same machine,
software and sequence (:func:`signature`), or if a table gives them the same label. What is not known joins nothing:
such scans are harmonized one by one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from blindharmony.errors import BlindHarmonyError
from blindharmony.files import entities, parse_json, read_text, slug, split_name
from blindharmony.io.bids import Scan


def metadata(scan: Scan) -> dict[str, Any]:
    """Metadata of a scan by the BIDS inheritance principle: the nearer and the more specific file wins.

    A JSON file applies if it has the scan's suffix, lies in the scan's folder or one above, and has no entity that the
    scan has not. One that cannot be read says nothing (:func:`damaged`).

    Source:
        BIDS specification 1.10, "The Inheritance Principle".
    """
    content: dict[str, Any] = {}
    for file in _applying(scan):
        content |= _content(file) or {}
    return content


def damaged(scan: Scan) -> str:
    """Name of a sidecar that should tell about a scan and cannot be read; empty if all can."""
    return next((file.name for file in _applying(scan) if _content(file) is None), "")


def _applying(scan: Scan) -> list[Path]:
    """The sidecars of a scan, the farthest and least specific first."""
    sidecars: list[Path] = []
    folder = scan.root
    for part in ("", *scan.folder.split("/")):
        folder = folder / part
        applying = [
            (len(words), file)
            for file, words in _sidecars(folder, scan.words["suffix"])
            if all(scan.words.get(k) == v for k, v in words.items())
        ]
        sidecars += [file for _, file in sorted(applying)]
    return sidecars


# Folders near the root are asked for by every scan.
@lru_cache(maxsize=64)
def _sidecars(folder: Path, suffix: str) -> tuple[tuple[Path, dict[str, str]], ...]:
    return tuple((file, _words(file)) for file in sorted(folder.glob(f"*{suffix}.json")) if _ends(file, suffix))


def _ends(file: Path, suffix: str) -> bool:
    return split_name(file)[0].split("_")[-1] == suffix


def _words(file: Path) -> dict[str, str]:
    """Entities of a name that need not begin with ``sub-``.

    Example:
        >>> _words(Path("acq-mprage_T1w.json"))
        {'acq': 'mprage', 'suffix': 'T1w'}
    """
    words = entities(f"sub-x_{file.name}")
    if file.name.startswith("sub-"):
        return entities(file)
    return {k: v for k, v in words.items() if k != "sub"}


@lru_cache(maxsize=64)
def _content(file: Path) -> dict[str, Any] | None:
    try:
        # A name of a hospital in the letters of an old converter, or a NaN in some field, hide no serial number.
        content = parse_json(read_text(file, other_letters=True), finite=False)
    except (BlindHarmonyError, ValueError):
        return None
    return content if isinstance(content, dict) else None


_NO_ASCII = re.compile(r"[^A-Za-z0-9]+")
_MACHINE = ("Manufacturer", "ManufacturersModelName", "DeviceSerialNumber", "SoftwareVersions")
# Without a serial number, two machines of a kind differ at most in where they stand.
_PLACE = ("StationName", "InstitutionName")
# Significant digits. The shortest echo time depends a little on how the slab is turned.
_NUMBERS = {"MagneticFieldStrength": 2, "RepetitionTime": 3, "EchoTime": 2, "InversionTime": 3, "FlipAngle": 3}
_UNITS = {"MagneticFieldStrength": "T", "RepetitionTime": "s", "EchoTime": "s", "InversionTime": "s", "FlipAngle": "°"}


#: How the reason of a group of one scan ends.
ONLY_ONE = "; its only scan, so it goes alone"


@dataclass(frozen=True)
class Group:
    """Scans that are fitted together; one scan is harmonized alone.

    Attributes:
        name: Short, unique in the data set.
        why: What they share, or why a scan is alone; one sentence.
        scans: Sorted by place.
        unknown: Whether nothing tells which scanner it was, so that a scan is alone.
    """

    name: str
    why: str
    scans: tuple[Scan, ...]
    unknown: bool = False


def by_metadata(
    scans: Sequence[Scan],
    read: Callable[[Scan], Mapping[str, Any]] = metadata,
    unread: Callable[[Scan], str] = damaged,
) -> list[Group]:
    """Group scans whose sidecars name the same machine, software and sequence.

    A field that two scans both lack does not part them; one that only one of them has does. Scans without any of the
    fields go one by one. Where some scans of a scanner are prescan-normalized and others are not, these are two groups:
    the scanner has taken a bias field out of the first.

    Args:
        scans: The scans.
        read: Gives a scan's metadata.
        unread: Gives the name of a sidecar that cannot be read.
    """

    def without(scan: Scan) -> str:
        name = unread(scan)
        return f"its sidecar {name} cannot be read" if name else "no sidecar names its scanner"

    signatures: dict[str, dict[str, Any]] = {}
    flat: dict[str, bool] = {}
    for scan in scans:
        fields = read(scan)
        signatures[scan.place], flat[scan.place] = signature(fields), prescan_normalized(fields)
    kinds: dict[str, set[bool]] = {}
    for place, words in signatures.items():
        kinds.setdefault(json.dumps(words, sort_keys=True), set()).add(flat[place])

    def key(scan: Scan) -> dict[str, Any]:
        words = signatures[scan.place]
        # Only where both occur, so that the groups of other studies keep their names.
        mixed = words and len(kinds[json.dumps(words, sort_keys=True)]) > 1
        return {**words, "prescan-normalized": "yes" if flat[scan.place] else "no"} if mixed else words

    return _grouped(scans, key, _described, _short, without)


def prescan_normalized(fields: Mapping[str, Any]) -> bool:
    """Whether the scanner has taken out a bias field by a scan before, as Siemens says in ``ImageType``.

    Example:
        >>> prescan_normalized({"ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"]}), prescan_normalized({})
        (True, False)
    """
    words = fields.get("ImageType")
    return "NORM" in [str(word).upper() for word in words] if isinstance(words, list) else False


def by_label(scans: Sequence[Scan], labels: Mapping[str, str], column: str) -> list[Group]:
    """Group scans by a label of each scan's place; scans without label go one by one."""

    def label(scan: Scan) -> dict[str, Any]:
        text = labels.get(scan.place, "")
        return {column: text} if text else {}

    described = lambda shared: f"{column} is {shared[column]}"  # noqa: E731
    return _grouped(scans, label, described, lambda shared: shared[column], lambda scan: f"no {column} is given for it")


def alone(scans: Sequence[Scan]) -> list[Group]:
    """Every scan by itself."""
    return _grouped(scans, lambda scan: {}, str, str, lambda scan: "scans were asked to go one by one")


def visits_together(groups: Sequence[Group], read: Callable[[Scan], Mapping[str, Any]] = metadata) -> list[Group]:
    """The same groups, but that scans of a person which would go alone share a curve if one scanner may have made them.

    Scans that a label or their sidecars set apart stay apart, and so do those that are prescan-normalized and those
    that are not; of the others it is not known, and they are taken as one scanner's.

    Args:
        groups: Scans by scanner.
        read: Gives a scan's metadata.

    Example:
        >>> scans = [Scan(Path("/s"), f"sub-1/ses-{i}/anat/sub-1_ses-{i}_T1w.nii.gz", {"sub": "1"}) for i in "ab"]
        >>> [(len(group.scans), group.why) for group in visits_together(alone(scans), read=lambda scan: {})]
        [(2, "scans of sub-1, taken as one scanner's: no sidecar names it")]
    """
    several = [group for group in groups if not group.unknown]
    visits: dict[str, list[Group]] = {}
    for group in groups:
        if group.unknown:
            (scan,) = group.scans
            fields = read(scan)
            told = [scan.words["sub"], signature(fields), *(["NORM"] if prescan_normalized(fields) else [])]
            visits.setdefault(json.dumps(told, sort_keys=True), []).append(group)
    for text, single in visits.items():
        if len(single) == 1:
            several += single
            continue
        person, shared, *_ = json.loads(text)
        scanner = _described(shared) if shared else "taken as one scanner's: no sidecar names it"
        mark = hashlib.sha256(text.encode()).hexdigest()[:6]
        scans = tuple(scan for group in single for scan in group.scans)
        several.append(Group(f"sub-{person}-{mark}", f"scans of sub-{person}, {scanner}", scans))
    return several


def together(scans: Sequence[Scan]) -> list[Group]:
    """All scans as one scanner's."""
    why = "taken as one scanner's, as was asked"
    return _grouped(scans, lambda scan: {"all": True}, lambda shared: why, lambda shared: "all", str)


def signature(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What tells scanners and sequences apart, rounded to what one scanner repeats.

    Example:
        >>> signature({"Manufacturer": " SIEMENS", "EchoTime": 0.00298, "RepetitionTime": 2.3})
        {'Manufacturer': 'siemens', 'RepetitionTime': 2.3, 'EchoTime': 0.003}
        >>> signature({"StationName": "MR1", "FlipAngle": "unknown"})
        {}
    """
    words: dict[str, Any] = {k: text for k in _MACHINE if (text := _word(fields.get(k)))}
    numbers = {k: n for k, digits in _NUMBERS.items() if (n := _number(fields.get(k), digits)) is not None}
    if not words and not numbers:
        return {}
    if "DeviceSerialNumber" not in words:
        words |= {k: text for k in _PLACE if (text := _word(fields.get(k)))}
    return words | numbers


def _word(value: Any) -> str:
    parts = value if isinstance(value, list) else [value]
    text = " ".join(" ".join(str(p).split()) for p in parts if p is not None).lower()
    return "" if text in ("n/a", "none", "unknown") else text


def _number(value: Any, digits: int) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        return None
    return float(f"{value:.{digits}g}")


def _grouped(
    scans: Sequence[Scan],
    key: Callable[[Scan], dict[str, Any]],
    described: Callable[[dict[str, Any]], str],
    short: Callable[[dict[str, Any]], str],
    without: Callable[[Scan], str],
) -> list[Group]:
    shared: dict[str, dict[str, Any]] = {}
    members: dict[str, list[Scan]] = {}
    single = []
    for scan in sorted(scans, key=lambda s: s.place):
        if not (fields := key(scan)):
            single.append(Group(f"alone-{scan.id}", f"alone: {without(scan)}", (scan,), unknown=True))
            continue
        text = json.dumps(fields, sort_keys=True)
        shared[text] = fields
        members.setdefault(text, []).append(scan)
    groups = []
    for text, together in members.items():
        why = described(shared[text]) + ("" if len(together) > 1 else ONLY_ONE)
        mark = hashlib.sha256(text.encode()).hexdigest()[:6]
        groups.append(Group(f"{_slug(short(shared[text]))}-{mark}", why, tuple(together)))
    return [*groups, *single]


def _described(shared: Mapping[str, Any]) -> str:
    return "same " + ", ".join(f"{k} {v:g} {_UNITS[k]}" if k in _UNITS else f"{k} '{v}'" for k, v in shared.items())


def _short(shared: Mapping[str, Any]) -> str:
    field = f"{shared['MagneticFieldStrength']:g}T" if "MagneticFieldStrength" in shared else ""
    parts = [str(shared.get(k, "")) for k in ("Manufacturer", "ManufacturersModelName")]
    return " ".join(p for p in (*parts, field) if p) or "scanner"


def _slug(text: str) -> str:
    return slug(text.encode("ascii", "replace").decode(), "scanner", risky=_NO_ASCII, longest=40)
