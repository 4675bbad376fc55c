"""The results for people and programs: tables, a document, charts and one page.

Rows of the table are put in words (:func:`cells_of`), for page and document alike. :func:`document` says which system
stands where, at what cost, and where the default loses. :func:`write_results` writes the table as CSV for spreadsheets
and JSON for programs, both of the same rows. The charts show intensity curves, and every subject against the baseline.
:func:`write_page` puts all in one HTML file that asks for nothing else.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from blindharmony.files import write_sidecar, write_text
from blindharmony.report.charts import Dots, Line, chart
from blindharmony.report.html import asset_text
from blindharmony.report.page import Section, Strip, render_page
from blindharmony.version import VERSION
from blindharmony_benchmark.plan import LEGS, Plan
from blindharmony_benchmark.registry import BASELINE, ENTRIES
from blindharmony_benchmark.results import AVERAGES, MAIN, Cell, averaged, cell_of, interval, rows, sign_flip, traveled
from blindharmony_benchmark.run import Benchmark, known, picture_file
from blindharmony_benchmark.scanners import HARD, PAPER, SITES

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
        ("width", "width"),
        ("probe", "probe"),
        ("excess", "excess"),
        ("order", "order"),
        ("edges", "new edges %"),
    ),
    "segmentation": (("dice", "Dice [95 %]"), ("dice_worst", "worst"), ("volume", "volume error %")),
    "travelers": (
        ("difference", "between scanners, % [95 %]"),
        ("people", "people kept [95 %]"),
        ("contrast_difference", "of contrast, %"),
        ("contrasts", "contrasts kept"),
        ("icc", "ICC of volumes"),
        ("reproducible", "radiomics of ICC > 0.75"),
    ),
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
    "travelers": "The same people on several scanners",
}
NOTES = {
    "simulated": "PSNR in dB inside the brain against the scan that the target scanner really made, range its 99th "
    "percentile. order: rank correlation with the source (bias field taken out) in cubes of 9 mm; new edges: of the "
    "tenth of places that are steepest; people: rank correlation over subjects of grey/white contrast with the truth.",
    "real": "No truth: distance from the target's own unseen scans. tissue: Wasserstein distance of tissue intensities "
    "(flow units) from their mean; what is nearer to it than they are has lost differences between people. "
    "histogram: of the brain's; contrast: grey/white minus theirs; width: FWHM of the brain minus theirs, in their "
    "spreads (0 is best; above it softer); probe: balanced accuracy of a site classifier taught anew for each row, "
    "0.5 is chance; excess: how much less typical for the target's flow than its unseen scans, in their spreads.",
    "segmentation": "Dice and volume error (its size) of white matter against labels, by a segmenter taught on "
    "the target scanner only.",
    "travelers": "Tissue and regional volumes by a segmenter. Between scanners: coefficient of variation over the "
    "scanners of one person (lower is better). People kept: rank correlation over people with the truth, or between "
    "scanners (1 is best). The same of the contrast of grey to white matter. ICC(2, 1): absolute agreement, 1 is best.",
}
TESTS = (
    "Intervals: bootstrap over subjects, 95 %, of differences too. In round brackets: two-sided sign-flip permutation "
    "test over subjects; with n subjects it cannot give less than 2^(1-n). With four subjects that is 0.125: look at "
    "the interval, which then covers the truth in about 80 of 100 cases. Scans of a group share one curve, which "
    "intervals and tests do not know: theirs are too narrow, and too small. A second number is the same p corrected "
    "for the number of sources (Holm). The best rival is the best row of this source that is not this package's own, "
    "chosen on the same scans."
)


def sources_of(rows: Sequence[Row], leg: str) -> list[str]:
    """Sources of a leg: means first, those near real sites, the paper's, the hard ones, then the rest as they come."""
    found = list(dict.fromkeys(r["source"] for r in rows if r["leg"] == leg))
    order = [*AVERAGES, "none", *SITES, *PAPER, *HARD]
    return sorted(found, key=lambda s: order.index(s) if s in order else len(order))


def cells_of(row: Row) -> list[str]:
    """One row of a source's table in words."""
    leg = row["leg"]
    if row.get("failed"):
        empty = len(COLUMNS[leg]) + len(TAIL) - 1
        return [row["system"], f"failed: {row['failed']}", *([""] * empty)]
    main = COLUMNS[leg][0][0]
    cells = [row["system"], _with_interval(row, main)]
    cells += [_with_interval(row, n) if f"{n}_low" in row else _number(row.get(n), n) for n, _ in COLUMNS[leg][1:]]
    for word in ("baseline", "rival"):
        gap, p = row.get(f"over_{word}"), row.get(f"p_{word}")
        name = f" {row['rival']}" if word == "rival" and gap is not None else ""
        corrected = row.get(f"holm_{word}")
        beside = "" if corrected is None or corrected == p else f"; {corrected:.2g}"
        ends = [_signed(e, main) for e in (row.get(f"over_{word}_{end}") for end in ("low", "high")) if e is not None]
        between = f" [{', '.join(ends)}]" if ends else ""
        cells.append("–" if gap is None else f"{_signed(gap, main)}{between}{name} ({p:.2g}{beside})")
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
    between = f"{_number(row[name], name)} [{_number(low, name)}, {_number(high, name)}]"
    return f"{between} ({_unchanged(row)})" if name == "psnr" and row.get("unchanged") else between


def _unchanged(row: Row) -> str:
    return f"{row['unchanged']} of {row['scans']} the truth itself, left out"


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
            parts += [f"### {TITLES[leg]}", NOTES[leg], *_leg(leg, rows, content["scans"])]
    return "\n\n".join([*parts, "### What each system saw and cost", _costs(content["rows"]), TESTS])


def _made_with(content: Mapping[str, Any]) -> str:
    """Model, scans and trainings behind the rows; what was planned and not run is not named."""
    rows, target = content["rows"], content["target"]
    sets = {target["set"], *(r["source"] for r in rows if r["leg"] == "real")}
    people = "; ".join(f"{name} {len(subjects)}" for name, subjects in content["tested"].items() if name in sets)
    parts = [f"Model `{target['digest'] or 'not saved'}`", f"test scans: {people}"]
    segmented = any(r["leg"] in ("segmentation", "travelers") for r in rows)
    trained = {name for name, entry in ENTRIES.items() if entry.trained}
    if segmented or any(r["system"] in trained for r in rows):
        heads = len(content["teachers"]["training"])
        parts.append(f"networks trained {content['minutes']:g} min each on {heads} heads")
    iterated = {name for name, entry in ENTRIES.items() if entry.iterates}
    if content.get("turns") and any(r["system"] in iterated for r in rows):
        parts.append(f"the published iteration cut off after {content['turns']} turns")
    if segmented:
        parts.append(f"segmenter: {content['segmenter']}")
        found = content.get("labels", {}).items()
        parts.append("labels: " + "; ".join(f"{name} {', '.join(by)}" for name, by in found if by and name in sets))
    return ", ".join(parts) + f"; blindharmony {content['blindharmony']}, seed {content['seed']}."


def _leg(leg: str, rows: Sequence[Row], scans: Sequence[Row]) -> list[str]:
    sources = sources_of(rows, leg)
    in_tables = leg in ("real", "travelers")
    parts = [] if in_tables else [_matrix(leg, rows, sources)]
    if in_tables:
        kept = [i for i, name in enumerate(head_of(leg)) if name not in _COSTS]
        for source in sources:
            lines = [[cells_of(r)[i] for i in kept] for r in rows if r["source"] == source]
            own = next((r["own"] for r in rows if r["source"] == source and r.get("own") is not None), None)
            beside = "" if own is None else f" (the target's own unseen scans: {own:.3f} from the mean of the others)"
            parts += [f"`{source}`{beside}:", table([head_of(leg)[i] for i in kept], lines)]
    words = "Ours (without *do no harm*), one scan at a time and in a group, against the others:"
    against = [words, _against(leg, rows, sources)]
    return [*parts, *against, *_together(leg, scans, sources)]


def _together(leg: str, scans: Sequence[Row], sources: Sequence[str]) -> list[str]:
    """A group beside one scan alone, person by person."""
    name, more = MAIN[leg]
    lines = []
    for source in sources:
        one, group = (
            {s["subject"]: s[name] for s in scans if (s["leg"], s["source"], s["system"]) == (leg, source, system)}
            for system in _OURS
        )
        gaps = [group[s] - one[s] for s in one if None not in (one[s], group.get(s))]
        if gaps and len(gaps) == len(one):
            low, high = interval(gaps)
            gap = f"{_signed(float(np.mean(gaps)), name)} [{_signed(low, name)}, {_signed(high, name)}]"
            lines.append([source, f"{gap} ({sign_flip(gaps):.2g})"])
    title = f"A group minus one scan alone, {_LABELS[name]}, {'positive' if more else 'negative'} is better:"
    return [title, table(["source", "group minus alone [95 %] (p)"], lines)] if lines else []


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
    figures = f"{row[name]:.{digits}f} / {row[f'{name}_worst']:.{digits}f}"
    return f"{figures} ({_unchanged(row)})" if name == "psnr" and row.get("unchanged") else figures


def _against(leg: str, rows: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> str:
    head = head_of(leg)
    kept = [0, 1, head.index("over n4-match (p)"), head.index("over best rival (p)")]
    if leg == "simulated":
        kept += [head.index(title) for title in ("order", "new edges %", "people")]
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


def collected(benchmark: Benchmark) -> list[Cell]:
    """All steps of the plan that were run, failures included, and their means over sources."""
    own: Sequence[Mapping[str, Any]] = ()
    if "real" in benchmark.plan.legs:
        own = benchmark.own_profiles()
    contents = [c for step in benchmark.steps if (c := known(step, benchmark.plan.out)) is not None]
    cells = [cell_of(c, own) for c in contents if c["leg"] != "travelers"]
    return [*cells, *averaged(cells), *traveled(contents)]


def results(plan: Plan, cells: Sequence[Cell]) -> dict[str, Any]:
    """Everything that was measured: no voxels, no intensities of anybody."""
    scans = [
        {"leg": c.leg, "source": c.source, "system": c.system, "subject": s, **{k: c.values(k).get(s) for k in m}}
        for c in cells
        for s, m in c.scans.items()
    ]
    sets = (plan.target_set, *plan.source_sets, *plan.travelers)
    return {
        "blindharmony": VERSION,
        "target": {"name": plan.target.info.name, "digest": plan.target.digest, "set": plan.target_set},
        "seed": plan.seed,
        "quick": plan.quick,
        "minutes": plan.minutes,
        "turns": plan.turns,
        "segmenter": plan.segmenter or "included",
        "tested": {name: list(plan.tested(name)) for name in sets},
        "labels": {name: plan.labelled_by(name) for name in sets},
        "teachers": {"training": list(plan.teachers()[0]), "held out": list(plan.teachers()[1])},
        "main": {leg: measure for leg, (measure, _) in MAIN.items()},
        "rows": rows(cells),
        "scans": scans,
    }


def csv_text(table: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV; what a row lacks is empty.

    Example:
        >>> csv_text([{"a": 1, "b": None}, {"a": 2, "c": "x"}]).splitlines()
        ['a,b,c', '1,,', '2,,x']
    """
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in table for name in row))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in table)
    return text.getvalue()


def write_results(out: Path, content: Mapping[str, Any]) -> list[Path]:
    """Write ``table.csv``, ``results.json`` and ``table.md``.

    Raises:
        OutputError: If they cannot be written.
    """
    return [
        write_text(out / "table.csv", csv_text(content["rows"]), overwrite=True),
        write_sidecar(out / "results.json", content, overwrite=True),
        write_text(out / "table.md", document(content) + "\n", overwrite=True),
    ]


#: Whose curves are drawn, if they were run: the rival to beat dashed, ours solid, the truth dotted.
_DRAWN = {BASELINE: "before", "curve": "after"}


def curve_chart(source: str, curves: Mapping[str, Mapping[str, Sequence[float]]]) -> Markup | None:
    """Intensity curves found on one source for its first subject, and the true one; None without any.

    Args:
        source: Domain.
        curves: System → ``x``, ``truth`` and ``found`` (flow units).
    """
    found = {s: curves[s] for s in _DRAWN if s in curves}
    if not found:
        return None
    first = next(iter(found.values()))
    lines = [Line(np.array(c["x"]), np.array(c["found"]), _DRAWN[s]) for s, c in found.items()]
    return chart(
        Line(np.array(first["x"]), np.array(first["truth"]), "target"),
        *lines,
        label=f"Intensity curves on {source}: truth, {', '.join(found)}",
        x_label="Source [flow units]",
        y_label="Harmonized [flow units]",
    )


def scatter_chart(scans: Sequence[Mapping[str, Any]], system: str, measure: str, label: str) -> Markup | None:
    """Every subject of every source: a system against the baseline, and the line where they are equal."""
    own = {(s["source"], s["subject"]): s.get(measure) for s in scans if s["system"] == system}
    base = {(s["source"], s["subject"]): s.get(measure) for s in scans if s["system"] == BASELINE}
    both = [k for k in own if None not in (own[k], base.get(k))]
    if not both:
        return None
    x, y = (np.array([values[k] for k in both], np.float64) for values in (base, own))
    ends = np.array([min(x.min(), y.min()), max(x.max(), y.max())])
    return chart(
        Line(ends, ends, "identity"),
        Dots(x, y, ["after"] * len(both), [f"{source}, {subject}" for source, subject in both]),
        label=f"{label} of every subject: {system} against {BASELINE}",
        x_label=f"{label}: {BASELINE}",
        y_label=f"{label}: {system}",
        x_range=(float(ends[0]), float(ends[1])) if ends[1] > ends[0] else None,
    )


def write_chart(drawn: Markup, file: Path) -> Path:
    """A chart as a picture of its own, with the colours of a light page.

    Raises:
        OutputError: If it cannot be written.
    """
    style = asset_text("style.css").split("@media")[0] + asset_text("charts.css")
    start = '<svg xmlns="http://www.w3.org/2000/svg" width="560" height="331" '
    text = str(drawn).replace("<svg ", start, 1).replace(">", f"><style>{style}</style>", 1)
    return write_text(file, text, overwrite=True)


_LABELS = {"psnr": "PSNR [dB]", "tissue": "Tissue distance", "dice": "Dice", "difference": "Difference [%]"}
_SHOWN = ("curve", "group")
# The others' pictures are in the folder; so many brains below each other nobody compares.
_PICTURED = (
    "source",
    *(
        BASELINE,
        "spectrum",
        "fourier-adaptation",
        "deepharmony",
        "cyclegan",
        "style-gan",
        "target-unet",
        "harmonizing-flows",
        "latent-published",
        "curve",
        "group",
    ),
    "truth",
)


def write_page(plan: Plan, content: Mapping[str, Any], cells: Sequence[Cell]) -> Path:
    """Write ``report.html`` and the charts in ``figures``.

    Args:
        plan: The benchmark.
        content: Its results.
        cells: What they were made of: intensity curves are in them.

    Raises:
        OutputError: If a file cannot be written.
    """
    sections: list[Section | None] = [_about(plan, content)]
    for leg in LEGS:
        if any(r["leg"] == leg for r in content["rows"]):
            sections += _leg_section(plan, content, leg)
    sections += [_curves(plan, cells), *_pictures(plan, cells)]
    page = render_page(f"{plan.target_set}: all systems", "Benchmark", [s for s in sections if s is not None])
    return write_text(plan.out / "report.html", page, overwrite=True)


def _about(plan: Plan, content: Mapping[str, Any]) -> Section:
    tested = "; ".join(f"{name}: {', '.join(subjects)}" for name, subjects in content["tested"].items())
    failed = [f"{r['leg']} {r['source']} {r['system']}: {r['failed']}" for r in content["rows"] if r.get("failed")]
    facts = [
        ("target model", f"{plan.target.info.name} ({plan.target.digest or 'not saved'})"),
        ("tested", tested),
        ("training subjects", len(content["teachers"]["training"])),
        ("size", "quick" if plan.quick else "full"),
        ("minutes a network", plan.minutes),
        ("turns of the published iteration", plan.turns or "all"),
        ("seed", plan.seed),
    ]
    notes = [TESTS, "No network has learned from test subjects; preparation and mask are the same for all systems."]
    return Section("What was compared", notes=[*notes, *failed], facts=facts)


def _leg_section(plan: Plan, content: Mapping[str, Any], leg: str) -> list[Section]:
    rows = [r for r in content["rows"] if r["leg"] == leg]
    main = MAIN[leg][0]
    scans = [s for s in content["scans"] if s["leg"] == leg and s["source"] not in AVERAGES]
    drawn: list[tuple[str, Markup]] = []
    for system in _SHOWN:
        found = scatter_chart(scans, system, main, _LABELS[main])
        if found:
            drawn.append((f"{system} against {BASELINE}", found))
            write_chart(found, plan.out / "figures" / f"{leg}-{system}.svg")
    first = Section(f"{TITLES[leg]}: every subject", notes=(NOTES[leg],), charts=drawn)
    tables = [
        Section(
            f"{TITLES[leg]}: {source}", head=head_of(leg), rows=[cells_of(r) for r in rows if r["source"] == source]
        )
        for source in sources_of(rows, leg)
    ]
    return [first, *tables]


def _curves(plan: Plan, cells: Sequence[Cell]) -> Section | None:
    drawn = []
    for source in dict.fromkeys(c.source for c in cells if c.curve):
        found = curve_chart(source, {c.system: c.curve for c in cells if c.source == source and c.curve})
        if found:
            drawn.append((source, found))
            write_chart(found, plan.out / "figures" / f"curves-{source.replace(' ', '-')}.svg")
    if not drawn:
        return None
    note = f"First subject: median harmonized intensity of each source intensity. {BASELINE} dashed, curve solid."
    legend = [("target", "truth"), ("before", BASELINE), ("", "curve")]
    return Section("Intensity curves", notes=(note,), charts=drawn, legend=legend)


def _pictures(plan: Plan, cells: Sequence[Cell]) -> list[Section]:
    found = []
    for source in plan.sources():
        made = {c.system for c in cells if c.source == source.name and c.scans} | {"source", "truth"}
        files = {name: picture_file(plan, source.name, name) for name in _PICTURED if name in made}
        strips = [Strip(name, _uri(file)) for name, file in files.items() if file.exists()]
        if strips:
            found.append(Section(f"Before and after: {source.name}, first subject", strips=strips))
    return found


def _uri(file: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"
