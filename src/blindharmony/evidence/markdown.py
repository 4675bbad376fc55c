"""Results as a document: which system stands where, at what cost, and where the default loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blindharmony.evidence.plan import LEGS
from blindharmony.evidence.registry import ENTRIES
from blindharmony.evidence.wording import COLUMNS, NOTES, TESTS, TITLES, cells_of, head_of, sources_of

_OURS = ("curve", "group")
# Columns of a row in words that a document shows only once, for all sources.
_COSTS = ("has seen", "s a scan", "s to learn", "MB")


def document(content: Mapping[str, Any]) -> str:
    """One benchmark in Markdown, headings from the second level on.

    Args:
        content: Of ``results.json``.
    """
    target = content["target"]
    parts = [f"## Target `{target['set']}`{' (quick)' if content['quick'] else ''}", _made_with(content)]
    for leg in LEGS:
        rows = [r for r in content["rows"] if r["leg"] == leg]
        if rows:
            parts += [f"### {TITLES[leg]}", NOTES[leg], *_leg(leg, rows)]
    return "\n\n".join([*parts, "### What each system saw and cost", _costs(content["rows"]), TESTS])


def _made_with(content: Mapping[str, Any]) -> str:
    """Model, scans and trainings behind the rows; what was planned and not run is not named."""
    rows, target = content["rows"], content["target"]
    sets = {target["set"], *(r["source"] for r in rows if r["leg"] == "real")}
    people = "; ".join(f"{name} {len(subjects)}" for name, subjects in content["tested"].items() if name in sets)
    parts = [f"Model `{target['digest'] or 'not saved'}`", f"test scans: {people}"]
    segmented = any(r["leg"] == "segmentation" for r in rows)
    trained = {name for name, entry in ENTRIES.items() if entry.trained}
    if segmented or any(r["system"] in trained for r in rows):
        heads = len(content["teachers"]["training"])
        parts.append(f"networks trained {content['minutes']:g} min each on {heads} heads")
    iterated = {name for name, entry in ENTRIES.items() if entry.iterates}
    if content.get("turns") and any(r["system"] in iterated for r in rows):
        parts.append(f"the published iteration cut off after {content['turns']} turns")
    if segmented:
        parts.append(f"segmenter: {content['segmenter']}")
    return ", ".join(parts) + f"; blindharmony {content['blindharmony']}, seed {content['seed']}."


def _leg(leg: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    sources = sources_of(rows, leg)
    parts = [] if leg == "real" else [_matrix(leg, rows, sources)]
    if leg == "real":
        kept = [i for i, name in enumerate(head_of(leg)) if name not in _COSTS]
        for source in sources:
            lines = [[cells_of(r)[i] for i in kept] for r in rows if r["source"] == source]
            parts += [f"`{source}`:", table([head_of(leg)[i] for i in kept], lines)]
    return [*parts, "Our default, one scan at a time and in a group, against the others:", _against(leg, rows, sources)]


def _matrix(leg: str, rows: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> str:
    found = {(r["system"], r["source"]): r for r in rows}
    systems = [s for s in ENTRIES if any(r["system"] == s for r in rows)]
    name = COLUMNS[leg][0][0]
    digits = 1 if name == "psnr" else 3
    lines = []
    for system in systems:
        own = [found.get((system, source)) for source in sources]
        lines.append([system, *(_main(r, name, digits) for r in own)])
    return table(["mean / worst", *sources], lines)


def _main(row: Mapping[str, Any] | None, name: str, digits: int) -> str:
    if row is None:
        return ""
    if row.get("failed"):
        return "failed"
    if row.get(name) is None:
        return "–"
    return f"{row[name]:.{digits}f} / {row[f'{name}_worst']:.{digits}f}"


def _against(leg: str, rows: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> str:
    head = head_of(leg)
    kept = [0, 1, head.index("over n4-match (p)"), head.index("over best rival (p)")]
    lines = [
        [source, *(cells_of(r)[i] for i in kept)]
        for source in sources
        for r in rows
        if r["source"] == source and r["system"] in _OURS and not r.get("failed")
    ]
    return table(["source", *(head[i] for i in kept)], lines)


def _costs(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for system in ENTRIES:
        own = [r for r in rows if r["system"] == system and not r.get("failed") and r.get("seconds") is not None]
        if own:
            seconds, learnt, memory = (
                max(float(r.get(name) or 0) for r in own) for name in ("seconds", "fit_seconds", "memory_mb")
            )
            usual = sorted(float(r["seconds"]) for r in own)[len(own) // 2]
            lines.append(
                [system, str(own[0]["sees"]), f"{usual:.1f}", f"{seconds:.1f}", f"{learnt:.0f}", f"{memory:.0f}"]
            )
    for system, what in dict.fromkeys((r["system"], r["failed"]) for r in rows if r.get("failed")):
        lines.append([system, f"failed: {what}", "", "", "", ""])
    return table(["system", "has seen", "s a scan (median)", "most", "s to learn (most)", "peak MB"], lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    Example:
        >>> print(table(["a", "b"], [["1", "2"]]))
        | a | b |
        |---|---|
        | 1 | 2 |
    """
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])
