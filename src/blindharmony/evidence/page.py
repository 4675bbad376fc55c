"""The benchmark's report: one HTML file that asks for nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from blindharmony.evidence.figures import curve_chart, scatter_chart, write_chart
from blindharmony.evidence.pictures import picture_file
from blindharmony.evidence.plan import LEGS, Plan
from blindharmony.evidence.registry import BASELINE
from blindharmony.evidence.results import AVERAGES, MAIN, Cell
from blindharmony.evidence.wording import NOTES, TESTS, TITLES, cells_of, head_of, sources_of
from blindharmony.image import write_text
from blindharmony.report.page import Section, Strip, render_page

_LABELS = {"psnr": "PSNR [dB]", "tissue": "Tissue distance", "dice": "Dice"}
_SHOWN = ("curve", "group")
# The others' pictures are in the folder; so many brains below each other nobody compares.
_PICTURED = (
    "source",
    *(
        BASELINE,
        "spectrum",
        "deepharmony",
        "cyclegan",
        "style-gan",
        "target-unet",
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
            sections += _leg(plan, content, leg)
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
    notes = [TESTS, "Nothing was tuned on test subjects; preparation and mask are the same for all systems."]
    return Section("What was compared", notes=[*notes, *failed], facts=facts)


def _leg(plan: Plan, content: Mapping[str, Any], leg: str) -> list[Section]:
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
