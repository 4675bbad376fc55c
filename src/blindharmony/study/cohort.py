"""A cohort as a whole: a table with a row for each scan, and one HTML page that asks for nothing else.

The intensities of a scan before and after are kept as a hundred numbers, its profile, so that a page can show a whole
cohort (:func:`scan_profiles`). In reading order: profiles; which scans to look at first, and why (:func:`outliers`);
the table (:func:`cohort_rows`); what a reader should know first; the pictures; the page (:func:`render_cohort`).
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from blindharmony.files import entities, write_sidecar, write_text
from blindharmony.quality.metrics import AS_SCANNED, WATCHED
from blindharmony.report.charts import Band, Dots, Line, Mark, chart, density, quantiles
from blindharmony.report.html import asset_text, page_environment, script_hash
from blindharmony.study.groups import ONLY_ONE
from blindharmony.study.ledger import Ledger, read_json
from blindharmony.version import VERSION

if TYPE_CHECKING:
    from blindharmony.models.card import TargetCard
    from blindharmony.result import HarmonizeResult

Profile = NDArray[np.float64]

LEVELS: Profile = np.linspace(0.005, 0.995, 100)
_FILE = "target.json"


@dataclass(frozen=True, eq=False)
class TargetProfiles:
    """The target's own scans, as far as a cohort's page needs them.

    Attributes:
        name: Of the target.
        digest: Of its model.
        profiles: Intensities of its scans at ``LEVELS``, target units, shape ``(scans, 100)``.
    """

    name: str
    digest: str
    profiles: Profile

    @property
    def per_cent(self) -> float:
        """Target units to percent of its white matter."""
        from blindharmony.quality.typicality import white_of  # late: jobs that only note the target need no torch

        return 100 / white_of(self.profiles, LEVELS)


def scan_profiles(result: HarmonizeResult) -> dict[str, Any]:
    """What a scan's record keeps: profiles and distances from the target's median scan, target units; a thumbnail."""
    from blindharmony.report.pictures import before_and_after, jpeg

    unit, inside = result.target.info.unit, result.prepared.scan.inside()
    fitted = result.prepared.scan.fitted() & result.target.fit_region  # where the target's own curves are from
    before, after = (quantiles(image, fitted, LEVELS) * unit for image in (result.source_image, result.estimate.image))
    profiles: dict[str, Any] = {
        "profile_before": before.round(1).tolist(),
        "profile_after": after.round(1).tolist(),
    }
    for when, comparison in (("before", result.before), ("after", result.after)):
        if comparison.intensities is not None:
            profiles[f"distance_{when}"] = round(comparison.intensities.value * unit, 3)
    pictures = before_and_after(result.steps.scan, result.steps.result, inside, count=1)
    profiles["thumbnail"] = jpeg(np.concatenate([x[::2, ::2] for x in pictures], axis=1), quality=60)
    return profiles


def thumbnail_of(record: Mapping[str, Any]) -> str | None:
    """The thumbnail in a record; None if it has none, as records of older runs."""
    thumbnail = record.get("thumbnail")
    return thumbnail if isinstance(thumbnail, str) and _THUMBNAIL.fullmatch(thumbnail) else None


_THUMBNAIL = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/]{1,20000}={0,2}")


def keep_target(ledger: Ledger, target: TargetCard) -> None:
    """Note the target's profiles in the ledger, for the cohort's page, unless they are there.

    Raises:
        OutputError: If they cannot be written.
        TargetError: If the model has none.
    """
    file = ledger.home / _FILE
    if (read_json(file) or {}).get("digest") == target.digest:
        return
    levels, quantiles = target.curves()
    profiles = [np.interp(LEVELS, levels, row * target.unit).round(1).tolist() for row in quantiles]
    write_sidecar(file, {"name": target.name, "digest": target.digest, "profiles": profiles}, overwrite=True)


def kept_target(ledger: Ledger) -> TargetProfiles | None:
    """The target of the last run in this folder; None if it is not known or damaged."""
    content = read_json(ledger.home / _FILE) or {}
    rows = content.get("profiles")
    profiles = [profile_of({"row": row}, "row") for row in rows] if isinstance(rows, list) else []
    whole = [p for p in profiles if p is not None]
    if not whole or len(whole) != len(profiles):
        return None
    return TargetProfiles(str(content.get("name", "")), str(content.get("digest", "")), np.array(whole))


def profile_of(record: Mapping[str, Any], key: str) -> Profile | None:
    """A profile in a record; None if it has none, as records of older runs."""
    try:
        profile = np.asarray(record.get(key), np.float64)
    except (TypeError, ValueError):
        return None
    return profile if profile.shape == LEVELS.shape and np.isfinite(profile).all() else None


# Median absolute deviations, scaled to be standard deviations of a normal sample: Iglewicz and Hoaglin, How to Detect
# and Handle Outliers, 1993.
_FAR = 3.5
_SCALE = 1.4826
_FEWEST = 5
_MEASURES = {
    "distance_after": "distance after",
    "excess_after": "excess after",
    "file_change_percent": "change in percent",
}

#: What people read of a verdict that is not good.
WORDS = {"caution": "look first", "poor": "poor"}
_WORDS = {"good": "good", **WORDS, "none": "no result", "": "–"}


def outliers(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Scan's place → why it stands out: its verdict, or a number far from those of the other scans.

    Example:
        >>> usual = [{"scan": str(i), "verdict": "good", "distance_after": 5.0 + i / 10} for i in range(9)]
        >>> outliers([*usual, {"scan": "odd", "verdict": "good", "distance_after": 50.0}])
        {'odd': ['distance after 50.0, most have 5.5']}
    """
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.get("verdict") in WORDS:
            reasons.setdefault(str(row["scan"]), []).append(_cause(row))
    for measure, words in _MEASURES.items():
        known = [(str(r["scan"]), float(r[measure])) for r in rows if r.get(measure) is not None]
        if len(known) < _FEWEST:
            continue
        values = np.array([value for _, value in known])
        middle = float(np.median(values))
        spread = _SCALE * float(np.median(np.abs(values - middle)))
        for scan, value in known:
            # Only the bad side: a scan closer to the target than the others is no trouble.
            if value - middle > _FAR * max(spread, 1e-3 * abs(middle), 1e-9):
                reasons.setdefault(scan, []).append(f"{words} {value:.1f}, most have {middle:.1f}")
    return reasons


def _cause(row: Mapping[str, Any]) -> str:
    """What the headline of a verdict that is not good names after its colon; the verdict if there is none."""
    cause = str(row.get("headline") or "").partition(": ")[2].rstrip(".")
    return cause or f"verdict '{WORDS[row['verdict']]}'"


def severity(row: Mapping[str, Any], reasons: Mapping[str, Sequence[str]]) -> tuple[float, ...]:
    """A key that sorts outliers first: verdict, number of reasons, then how far from the target."""
    verdict = {"poor": 2, "caution": 1}.get(str(row.get("verdict")), 0)
    numbers = [row.get(k) for k in ("distance_after", "excess_after")]
    return (-verdict, -len(reasons.get(str(row["scan"]), ())), *(-(n if n is not None else -1e9) for n in numbers))


_UNIT, _WHITE = "target units", "% of white matter"
#: The columns of ``cohort.tsv``, as its data dictionary tells them.
COLUMNS: dict[str, dict[str, Any]] = {
    "participant_id": {"Description": "Participant"},
    "session_id": {"Description": "Session, if the data set has sessions"},
    "scan": {"Description": "Place of the scan in the data set"},
    "status": {
        "Description": "What became of the scan",
        "Levels": {
            "done": "harmonized",
            "failed": "without a result; the column reason says why",
            "not started": "planned; the run ended before it",
            "results missing": "harmonized, but results were removed or changed since",
        },
    },
    "scanner": {"Description": "Group of scans that were fitted together, by scanner and sequence"},
    "scanner_scans": {"Description": "Scans in that group; 1: harmonized alone"},
    "scanner_model": {"Description": "Digest of the fitted model of the scanner that the result was made with"},
    "late": {
        "Description": "Whether that model was fitted before the scan came",
        "Levels": {"no": "the scan is one of those that it was fitted to", "yes": "the scan came later"},
    },
    "verdict": {
        "Description": "Verdict on the harmonized scan",
        "Levels": {"good": "nothing unusual", "caution": "look at its report before using it", "poor": "do not use it"},
    },
    "distance_before": {
        "Description": "How far an average brain voxel's intensity is from that of the target's median scan, before",
        "Units": _UNIT,
    },
    "distance_after": {"Description": "The same after harmonizing; smaller is nearer", "Units": _UNIT},
    "excess_before": {
        "Description": "Distance from the target's own unseen scans, in their spreads, under its flow; 0: typical"
    },
    "excess_after": {"Description": "The same after harmonizing; smaller is more typical"},
    "bits_before": {"Description": "Surprise of the scan under the target's flow, before", "Units": "bits per voxel"},
    "bits_after": {"Description": "The same after harmonizing; smaller is more probable", "Units": "bits per voxel"},
    "file_change_percent": {
        "Description": "Mean change between the file that came and the file that was written, in the brain",
        "Units": "percent of white matter",
    },
    "file_correlation": {"Description": "Correlation of the two files in the brain"},
    "warnings": {"Description": "What to know before using the scan, separated by |"},
    "seconds": {"Description": "Time it took to harmonize", "Units": "s"},
    "reason": {"Description": "Why there is no result"},
}

_KEPT = (
    "distance_before",
    "distance_after",
    "excess_before",
    "excess_after",
    "bits_before",
    "bits_after",
    "seconds",
    "reason",
)

Row = dict[str, Any]


def cohort_rows(ledger: Ledger) -> list[Row]:
    """What is known about every scan of every run in this folder, by name.

    ``distance`` is how far an average brain voxel's intensity is from that of the target's median scan, target units.
    ``excess`` is the distance from the target's own unseen scans in their spreads, of the least probable level; 0 is
    typical.
    """
    rows = [_row(name, plan, record, ledger) for name, plan, record in ledger.entries()]
    # A run of a few participants has planned for a part of a scanner's scans.
    scans = Counter(row["scanner"] for row in rows)
    for row in rows:
        if row["late"]:
            row["scanner_scans"] = max(row["scanner_scans"], scans[row["scanner"]])
            row["why"] = row["why"].removesuffix(ONLY_ONE)
    return rows


def write_table(ledger: Ledger, rows: list[Row]) -> Path:
    """Write ``cohort.tsv``, and ``cohort.json``, which says what its columns mean.

    Raises:
        OutputError: If it cannot be written.
    """
    cells = [[" | ".join(r[c]) if c == "warnings" else r[c] for c in COLUMNS] for r in rows]
    return ledger.write_table("cohort", COLUMNS, cells)


def _row(name: str, plan: Mapping[str, Any], record: Mapping[str, Any], ledger: Ledger) -> Row:
    status = str(record.get("status"))
    if status == "done" and not ledger.whole(record):
        status, record = "results missing", {**record, "reason": "the results were removed or changed; run again"}
    words, figures = entities(name), record.get("figures", {})
    return {
        "participant_id": f"sub-{words.get('sub', name)}",
        "session_id": f"ses-{words['ses']}" if "ses" in words else None,
        "scan": record["scan"],
        "status": status,
        "scanner": plan["group"],
        "scanner_scans": plan["size"],
        "scanner_model": record.get("scanner_model"),
        "late": ("yes" if record.get("late") else "no") if record.get("fingerprint", {}).get("scanner") else None,
        "why": plan["why"],
        "verdict": record.get("verdict"),
        "headline": record.get("headline"),
        **{k: record.get(k) for k in _KEPT},
        "file_change_percent": figures.get("change of the file (% of white matter)"),
        "file_correlation": figures.get("correlation of the files"),
        "contrast": figures.get(WATCHED[0]),
        "width": figures.get(AS_SCANNED),
        "warnings": record.get("warnings", []),
        "report": next((p for p in record.get("outputs", {}) if p.endswith(".html")), None),
        "profile_before": profile_of(record, "profile_before"),
        "profile_after": profile_of(record, "profile_after"),
        "thumbnail": thumbnail_of(record),
        "target": record.get("fingerprint", {}).get("settings", {}).get("digest"),
    }


_REASONS = 3


@dataclass(frozen=True)
class Scanner:
    """Scans that were fitted together.

    Attributes:
        name: Of the group; ``alone`` for all scans that were harmonized by themselves.
        scans: How many.
        odd: How many stand out or have no result.
        before: Median distance from the target before, if known.
        after: Median distance after.
        why: What the scans share, or why they are alone.
        contrast: Median ratio of gray to white matter before harmonizing.
        width: Median FWHM of the scans as they came, mm; larger is softer.
    """

    name: str
    scans: int
    odd: int
    before: float | None
    after: float | None
    why: str
    contrast: float | None = None
    width: float | None = None


@dataclass(frozen=True)
class Reason:
    """Why scans have no result.

    Attributes:
        why: In words.
        status: Of their records.
        scans: How many.
        which: Names of the first.
    """

    why: str
    status: str
    scans: int
    which: Sequence[str]


@dataclass(frozen=True)
class Cohort:
    """Everything the page says.

    Attributes:
        rows: Every scan of all runs: outliers first, then the others with a result, then those without one.
        done: How many have a result.
        outliers: Scan's place → why to look at it.
        before: Median distance from the target before.
        after: Median distance after.
        verdicts: Level → scans.
        scanners: Largest first.
        reasons: Why the rest has no result, the most frequent first.
        hours: Computing time.
    """

    rows: Sequence[Row]
    done: int
    outliers: Mapping[str, Sequence[str]]
    before: float | None
    after: float | None
    verdicts: Mapping[str, int]
    scanners: Sequence[Scanner]
    reasons: Sequence[Reason]
    hours: float

    @property
    def missing(self) -> int:
        """How many scans have no result."""
        return len(self.rows) - self.done

    @property
    def level(self) -> str:
        """``poor`` if scans have no result, ``caution`` if some stand out, else ``good``."""
        return "poor" if self.missing else "caution" if self.outliers else "good"

    def why(self, row: Row) -> str:
        """Why to look at a scan, or why it has no result; empty if nothing is unusual."""
        return _unfinished(row) if row["status"] != "done" else "; ".join(self.outliers.get(str(row["scan"]), ()))

    def level_of(self, row: Row) -> str:
        """A scan's verdict, ``none`` without a result, empty if it is not known."""
        verdict = "none" if row["status"] != "done" else str(row["verdict"])
        return verdict if verdict in _WORDS else ""

    def group_of(self, row: Row) -> str:
        """The scanner's name, or ``alone``."""
        return group_of(row)


def cohort(rows: Sequence[Row]) -> Cohort:
    """Sort and count the rows of a cohort."""
    done, missing = ([r for r in rows if (r["status"] == "done") is wanted] for wanted in (True, False))
    odd = outliers(done)
    missing.sort(key=lambda r: str(r["scan"]))
    done.sort(key=lambda r: (*severity(r, odd), r["scan"]))
    return Cohort(
        rows=[*done, *missing],
        done=len(done),
        outliers=odd,
        before=_median(done, "distance_before"),
        after=_median(done, "distance_after"),
        verdicts=Counter(str(r["verdict"]) for r in done if r["verdict"]),
        scanners=_scanners(rows, odd),
        reasons=_reasons(missing),
        hours=sum(float(r["seconds"] or 0) for r in rows) / 3600,
    )


def group_of(row: Row) -> str:
    """The scanner's name, or ``alone``."""
    return "alone" if row["scanner_scans"] == 1 else str(row["scanner"])


def _scanners(rows: Sequence[Row], odd: Mapping[str, Sequence[str]]) -> list[Scanner]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(group_of(row), []).append(row)
    scanners = []
    for name, members in groups.items():
        reasons = sorted({str(m["why"]) for m in members})
        more = f"; and {len(reasons) - _REASONS} reasons more" if len(reasons) > _REASONS else ""
        why = "; ".join(reasons[:_REASONS]) + more
        before, after, contrast, width = (
            _median(members, key) for key in ("distance_before", "distance_after", "contrast", "width")
        )
        unusual = sum(m["status"] != "done" or m["scan"] in odd for m in members)
        scanners.append(Scanner(name, len(members), unusual, before, after, why, contrast, width))
    return sorted(scanners, key=lambda s: (-s.scans, s.name))


def _reasons(missing: Sequence[Row]) -> list[Reason]:
    """Equal reasons together; the name of the scan itself makes no difference."""
    which: dict[tuple[str, str], list[str]] = {}
    for row in missing:
        name = str(row["scan"]).rpartition("/")[2]
        why = re.sub(rf"\S*{re.escape(name)}", "the scan", _unfinished(row))
        which.setdefault((why, str(row["status"])), []).append(name)
    reasons = [Reason(why, status, len(names), names[:_REASONS]) for (why, status), names in which.items()]
    return sorted(reasons, key=lambda r: (-r.scans, r.why))


def _unfinished(row: Row) -> str:
    return str(row["reason"] or "the run ended before it")


def _median(rows: Sequence[Row], key: str) -> float | None:
    values = [float(r[key]) for r in rows if r[key] is not None]
    return float(np.median(values)) if values else None


# With more lines nothing can be told apart: bands alone then.
_MOST_LINES = 60
POINTS = 100


_IN_UNITS = ("distance_before", "distance_after", "profile_before", "profile_after")


def in_per_cent(rows: Sequence[Row], target: TargetProfiles) -> tuple[list[Row], TargetProfiles]:
    """Distances and profiles in percent of the target's white matter, as reports of single scans have them."""
    scale = target.per_cent

    def scaled(row: Row) -> Row:
        if row.get("target") not in (None, target.digest):
            # Of another target's run in the same folder: its units are not these.
            return row | dict.fromkeys(_IN_UNITS)
        distances, profiles = (
            {key: row[key] for key in (f"{kind}_before", f"{kind}_after") if row[key] is not None}
            for kind in ("distance", "profile")
        )
        return (
            row
            | {key: round(scale * value, 3) for key, value in distances.items()}
            | {key: scale * value for key, value in profiles.items()}
        )

    return [scaled(row) for row in rows], replace(target, profiles=scale * target.profiles)


def distance_chart(rows: Sequence[Row], limit: float | None, unit: str) -> Markup:
    """Axes for a point of each scan, which the page draws: distance from the target before and after.

    The band is the range of the target's own scans.
    """
    x, y = (np.array([r[k] for r in rows if r[k] is not None]) for k in ("distance_before", "distance_after"))
    right = 1.06 * max(float(x.max(initial=0.0)), 1e-9)
    top = 1.12 * max(float(y.max(initial=0.0)), limit or 0.0, 1e-9)
    ends = np.array([0.0, right])
    marks: list[Mark] = [Line(ends, ends, "identity")]
    if limit is not None:
        marks.insert(0, Band(ends, np.zeros(2), np.full(2, limit), "target"))
    return chart(
        *marks,
        label="Distance from the target of every scan, before and after",
        x_label=f"Distance before [{unit}]",
        y_label=f"Distance after [{unit}]",
        x_range=(0.0, right),
        y_range=(0.0, top),
        name="distances",
    )


#: Median ratio of gray to white matter, and median FWHM in mm (AFNI's ``3dFWHMx``, geometric mean of the axes), of the
#: T1-weighted scans of the 17 sites of ABIDE, 1,101 scans. Source: MRIQC's figures in nipreps/mriqc-learn, commit
#: 3ede9e9, ``abide.tsv``, Apache-2.0.
SITES: Mapping[str, tuple[float, float]] = {
    "CALTECH": (0.850, 4.518),
    "CMU": (0.785, 3.799),
    "KKI": (0.591, 3.235),
    "LEUVEN": (0.578, 4.084),
    "MAX_MUN": (0.730, 3.525),
    "NYU": (0.579, 3.904),
    "OHSU": (0.691, 3.614),
    "OLIN": (0.681, 3.968),
    "PITT": (0.689, 4.039),
    "SBL": (0.725, 3.183),
    "SDSU": (0.639, 3.629),
    "STANFORD": (0.600, 4.280),
    "TRINITY": (0.690, 4.273),
    "UCLA": (0.628, 3.436),
    "UM": (0.718, 3.562),
    "USM": (0.660, 3.622),
    "YALE": (0.647, 5.626),
}
_MOST_SCANNERS = 30


def site_chart(scanners: Sequence[Scanner]) -> Markup | None:
    """Contrast and sharpness of each scanner among those of the :data:`SITES`; None if no scanner's are known."""
    points = [(s, s.contrast, s.width) for s in scanners if s.contrast is not None and s.width is not None]
    if not points:
        return None
    sites = np.array(list(SITES.values()))
    ours = np.array([(contrast, width) for _, contrast, width in points[:_MOST_SCANNERS]])
    labels = [f"{s.name}: {contrast:.2f}, {width:.1f} mm" for s, contrast, width in points[:_MOST_SCANNERS]]
    others = [f"ABIDE {name}: {contrast:.2f}, {width:.1f} mm" for name, (contrast, width) in SITES.items()]
    (left, low), (right, high) = (f(np.concatenate([sites, ours]), axis=0) for f in (np.min, np.max))
    return chart(
        Dots(sites[:, 0], sites[:, 1], ["site"] * len(sites), others),
        Dots(ours[:, 0], ours[:, 1], ["own"] * len(ours), labels),
        label=f"Contrast and softness of {len(ours)} scanners of this study among 17 other sites",
        x_label="Gray / white matter before (1: no contrast)",
        y_label="FWHM [mm], higher is softer",
        x_range=(left - 0.03, right + 0.03),
        y_range=(low - 0.3, high + 0.3),
    )


def axis_of(profiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intensities that hold all profiles, evenly spaced, shape ``(100,)``."""
    low, high = float(profiles[:, 0].min()), float(profiles[:, -1].max())
    return np.linspace(min(low, 0.0), high if high > low else low + 1, POINTS)


def densities(profiles: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of voxels per unit of intensity of each scan, shape ``(scans, 100)``."""
    return density(profiles, LEVELS, at)


def histogram_chart(
    drawn: NDArray[np.float64],
    target: NDArray[np.float64] | None,
    at: NDArray[np.float64],
    *,
    top: float,
    when: str,
    unit: str,
) -> Markup:
    """All histograms of the cohort at once."""
    return chart(
        *_bands(at, drawn, target, when),
        label=f"Histograms of all scans {when}",
        x_label=f"Intensity [{unit}]",
        y_label="Share of brain voxels",
        x_range=(float(at[0]), float(at[-1])),
        y_range=(0.0, 1.08 * top),
        y_numbers=False,
        name=f"histogram-{when}",
    )


def profile_chart(
    drawn: NDArray[np.float64],
    target: NDArray[np.float64] | None,
    *,
    limits: tuple[float, float],
    when: str,
    unit: str,
) -> Markup:
    """How far each scan is from the target's median at every rank of its intensities."""
    return chart(
        Line(np.array([0.0, 100.0]), np.zeros(2), "identity"),
        *_bands(100 * LEVELS, drawn, target, when),
        label=f"Intensity profiles of all scans {when}",
        x_label="Rank of the voxel, dark to bright [%]",
        y_label=f"Above target [{unit}]",
        x_range=(0.0, 100.0),
        y_range=limits,
        name=f"profile-{when}",
    )


def _bands(
    x: NDArray[np.float64], drawn: NDArray[np.float64], target: NDArray[np.float64] | None, style: str
) -> list[Mark]:
    marks: list[Mark] = []
    if target is not None and len(target):
        marks.append(_middle(x, target, "target"))
    if len(drawn) > _MOST_LINES:
        marks.append(Band(x, drawn.min(0), drawn.max(0), f"{style} outer"))
        marks.append(_middle(x, drawn, style))
    else:
        marks += [Line(x, row, f"{style} thin") for row in drawn]
    return [*marks, Line(x, np.median(drawn, axis=0), style)]


def _middle(x: NDArray[np.float64], rows: NDArray[np.float64], style: str) -> Band:
    """The middle nine tenths of the rows."""
    low, high = np.quantile(rows, [0.05, 0.95], axis=0)
    return Band(x, low, high, style)


_STYLES = ("style.css", "charts.css", "page.css", "cohort.css")
# A line on the screen shows no more points.
_EVERY = 4
# Rows of the list of scans that are there without scripts, and of the other tables at all.
_MOST_ROWS = 100
# Two kilobytes each.
_MOST_BRAINS = 48


def write_cohort_page(ledger: Ledger, rows: Sequence[Row], title: str) -> Path:
    """Write ``cohort.html``.

    Raises:
        OutputError: If it cannot be written.
    """
    return write_text(ledger.out / "cohort.html", render_cohort(rows, title, kept_target(ledger)), overwrite=True)


def render_cohort(rows: Sequence[Row], title: str, target: TargetProfiles | None) -> str:
    """The page; equal input gives equal text. It holds thirty thousand scans in a few megabytes.

    Args:
        rows: Of :func:`~blindharmony.study.cohort.cohort_rows`.
        title: Name of the data set.
        target: The target's own scans, if they are known.
    """
    unit = _WHITE if target else _UNIT
    if target:
        rows, target = in_per_cent(rows, target)
    whole = cohort(rows)
    environment = page_environment().overlay()
    environment.filters = {**environment.filters, "link": _link}
    script = asset_text("cohort.js")
    limit = _limit(target)
    pictures, lines = _pictures(whole.rows, target, unit)
    measured = any(r["distance_after"] is not None for r in whole.rows)
    medians = [m for s in whole.scanners for m in (s.before, s.after, limit) if m is not None]
    return environment.get_template("cohort.html").render(
        title=title,
        cohort=whole,
        target=target,
        limit=limit,
        unit=unit,
        reach=1.06 * max(medians, default=0.0) or 1.0,
        distances=distance_chart(whole.rows, limit, unit) if measured else None,
        brains=[r for r in whole.rows if r["thumbnail"]][:_MOST_BRAINS],
        sites=site_chart(whole.scanners),
        pictures=pictures,
        data=_packed(_data(whole, title, lines)),
        most=_MOST_ROWS,
        words=_WORDS,
        version=VERSION,
        style=asset_text(*_STYLES),
        script=script,
        script_hash=script_hash(script),
    )


def _data(whole: Cohort, title: str, lines: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's script shows, column by column."""
    rows, names = whole.rows, [s.name for s in whole.scanners]
    index = {name: i for i, name in enumerate(names)}
    numbers = {
        "before": "distance_before",
        "after": "distance_after",
        "excess_before": "excess_before",
        "excess_after": "excess_after",
        "change": "file_change_percent",
    }
    return {
        "id": title,
        "scanners": names,
        "scans": {
            "place": [r["scan"] for r in rows],
            "report": [r["report"] and _link(r["report"]) for r in rows],
            "level": [whole.level_of(r) for r in rows],
            "scanner": [index[group_of(r)] for r in rows],
            "why": [whole.why(r) for r in rows],
            "warnings": [list(r["warnings"]) or 0 for r in rows],
            **{name: [r[key] for r in rows] for name, key in numbers.items()},
        },
        "lines": lines,
    }


def _packed(content: Mapping[str, Any]) -> str:
    """JSON as the page holds it: packed, and without a letter that means something in HTML."""
    # No time in the gzip header, so that equal input gives equal bytes.
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def _limit(target: TargetProfiles | None) -> float | None:
    """The verdict's limit: hardly any of the target's own scans is farther from their median."""
    if target is None:
        return None
    from blindharmony.quality.typicality import intensity_score  # late: jobs that only note the target need no torch

    median = np.median(target.profiles, axis=0)
    score = intensity_score(median, target.profiles, LEVELS)
    return score.usual[1] if score else None


def _pictures(
    rows: Sequence[Row], target: TargetProfiles | None, unit: str
) -> tuple[dict[str, Markup], dict[str, Any]]:
    """Histograms and profiles before and after, and the numbers to draw any one scan's lines over them."""
    which = [i for i, r in enumerate(rows) if r["profile_before"] is not None and r["profile_after"] is not None]
    if not which:
        return {}, {}
    held_out = None if target is None else target.profiles
    values = {when: np.array([rows[i][f"profile_{when}"] for i in which]) for when in ("before", "after")}
    every = np.concatenate([*values.values(), *(() if held_out is None else (held_out,))])
    at = axis_of(every)
    drawn = {when: densities(rows_, at) for when, rows_ in values.items()}
    band = None if held_out is None else densities(held_out, at)
    # The air at the left end may hold any share of voxels; it must not flatten the tissue.
    tops = [np.quantile(d[:, at > at[3]].max(1), 0.98) for d in (*drawn.values(), *(() if band is None else (band,)))]
    top = float(max(tops))
    middle = np.median(values["after"] if held_out is None else held_out, axis=0)
    above = {when: rows_ - middle for when, rows_ in values.items()}
    reach = 1.1 * float(np.quantile(np.abs(np.concatenate(list(above.values()))), 0.995)) or 1.0
    pictures = {}
    for when in ("before", "after"):
        pictures[f"histogram {when}"] = histogram_chart(drawn[when], band, at, top=top, when=when, unit=unit)
        pictures[f"profile {when}"] = profile_chart(
            above[when],
            None if held_out is None else held_out - middle,
            limits=(-reach, reach),
            when=when,
            unit=unit,
        )
    shown, ranks = at[::2], 100 * LEVELS[::_EVERY]
    return pictures, {
        "rows": which,
        "histogram": _axis(shown, 0.0, 1.2 * top),
        "profile": _axis(ranks, -1.5 * reach, 1.5 * reach),
        **{f"histogram-{w}": _in_bytes(d[:, ::2], 0.0, 1.2 * top) for w, d in drawn.items()},
        **{f"profile-{w}": _in_bytes(a[:, ::_EVERY], -1.5 * reach, 1.5 * reach) for w, a in above.items()},
    }


def _axis(x: NDArray[np.float64], low: float, high: float) -> dict[str, float]:
    """Where lines are drawn: places along x, evenly spaced, and the values of bytes 0 and 255."""
    return {"count": len(x), "from": float(x[0]), "to": float(x[-1]), "low": low, "high": high}


def _in_bytes(lines: NDArray[np.float64], low: float, high: float) -> str:
    """Lines, one after the other, in steps that a screen does not show; base64."""
    share = np.clip((lines - low) / (high - low), 0, 1)
    return base64.b64encode((255 * share).round().astype(np.uint8).tobytes()).decode()


def _link(place: str) -> str:
    return quote(place, errors="surrogateescape")
