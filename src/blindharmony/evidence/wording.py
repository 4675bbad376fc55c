"""Rows of the table in words, for pages and documents alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blindharmony.evidence.results import AVERAGES
from blindharmony.evidence.scanners import HARD, PAPER

Row = Mapping[str, Any]

#: Leg → column and what it is called.
COLUMNS: Mapping[str, Sequence[tuple[str, str]]] = {
    "simulated": (
        ("psnr", "PSNR [95 %]"),
        ("psnr_worst", "worst"),
        ("ssim", "SSIM"),
        ("order", "order"),
        ("edges", "new edges %"),
        ("people", "people"),
    ),
    "real": (
        ("tissue", "tissue [95 %]"),
        ("histogram", "histogram"),
        ("contrast", "contrast"),
        ("probe", "probe"),
        ("excess", "excess"),
        ("order", "order"),
        ("edges", "new edges %"),
    ),
    "segmentation": (("dice", "Dice [95 %]"), ("dice_worst", "worst"), ("volume", "volume error %")),
}
TAIL = (
    ("over_baseline", "over n4-match (p)"),
    ("over_rival", "over best rival (p)"),
    ("sees", "has seen"),
    ("seconds", "s a scan"),
    ("fit_seconds", "s to learn"),
    ("memory_mb", "MB"),
)
TITLES = {
    "simulated": "Simulated source scanners",
    "real": "Real source scanners",
    "segmentation": "White matter segmentation",
}
NOTES = {
    "simulated": "PSNR in dB inside the brain against the scan that the target scanner really made, range its 99th "
    "percentile. order: rank correlation with the source (after N4) in cubes of 9 mm; new edges: of the tenth of "
    "places that are steepest; people: rank correlation over subjects of grey/white contrast with the truth.",
    "real": "No truth: distance from the target's own unseen scans. tissue: Wasserstein distance of tissue intensities "
    "(flow units), histogram: of the brain's; contrast: grey/white minus theirs; probe: balanced accuracy of a site "
    "classifier taught anew for each row, 0.5 is chance; excess: how much less typical for the target's flow than its "
    "unseen scans, in their spreads.",
    "segmentation": "Dice and volume error (its size) of white matter against manual labels, by a segmenter taught on "
    "the target scanner only.",
}
TESTS = (
    "Intervals: bootstrap over subjects, 95 %. In brackets behind a difference: two-sided sign-flip permutation test "
    "over subjects; with n subjects it cannot give less than 2^(1-n). The best rival is the best row of this source "
    "that is not this package's own, chosen on the same scans."
)


def sources_of(rows: Sequence[Row], leg: str) -> list[str]:
    """Sources of a leg: means first, then the paper's, the hard ones, and the rest as they come."""
    found = list(dict.fromkeys(r["source"] for r in rows if r["leg"] == leg))
    order = [*AVERAGES, "none", *PAPER, *HARD]
    return sorted(found, key=lambda s: order.index(s) if s in order else len(order))


def cells_of(row: Row) -> list[str]:
    """One row of a source's table in words."""
    leg = row["leg"]
    if row.get("failed"):
        empty = len(COLUMNS[leg]) + len(TAIL) - 1
        return [row["system"], f"failed: {row['failed']}", *([""] * empty)]
    main = COLUMNS[leg][0][0]
    cells = [row["system"], _with_interval(row, main)]
    cells += [_number(row.get(name), name) for name, _ in COLUMNS[leg][1:]]
    for word in ("baseline", "rival"):
        gap, p = row.get(f"over_{word}"), row.get(f"p_{word}")
        name = f" {row['rival']}" if word == "rival" and gap is not None else ""
        cells.append("–" if gap is None else f"{_signed(gap, main)}{name} ({p:.2g})")
    return [*cells, str(row.get("sees") or "–"), *(_number(row.get(name), name) for name, _ in TAIL[3:])]


def head_of(leg: str) -> list[str]:
    """Names of the columns."""
    return ["system", *(title for _, title in COLUMNS[leg]), *(title for _, title in TAIL)]


_DIGITS = {"psnr": 1, "psnr_worst": 1, "edges": 1, "people": 2, "volume": 1, "seconds": 2, "fit_seconds": 0}
_DIGITS |= {"memory_mb": 0, "excess": 1, "probe": 2, "ssim": 4, "order": 4}


def _number(value: float | None, name: str) -> str:
    return "–" if value is None else f"{value:.{_DIGITS.get(name, 3)}f}".replace("-", "−")


def _signed(value: float, name: str) -> str:
    return f"{value:+.{_DIGITS.get(name, 3)}f}".replace("-", "−")


def _with_interval(row: Row, name: str) -> str:
    if row.get(name) is None:
        return "the truth itself" if name == "psnr" and row.get("ssim") == 1 else "–"
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return f"{_number(row[name], name)} [{_number(low, name)}, {_number(high, name)}]"
