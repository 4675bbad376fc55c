"""The curve of a scanner by folds over people: nothing that an estimate uses was learnt from whom it is judged by.

    python benchmarks/folds.py STUDY [STUDY ...] --work DIR --out docs/measured_folds.json
    python benchmarks/folds.py --page docs/measured_folds.json

People and scanners as in ``bars.py`` (features in DIR are shared with it). People are parted at random into groups of
1, 4 or 8; for each group a person model is taught by everybody outside it, and the group is seen through the
target's own scanner and through four random ones. Every system maps a scan's quantiles: histogram matching, pooled
matching (one curve for the group, from its mean scan to the mean curve), and this package's fit, with all of its curve
and as far as there is evidence for it. Scanners that are near the target's go a tenth or two fifths of the way
from it to a random one. Error: root mean square over ranks of mapped minus true quantiles, flow units, and over
scanners. People kept: rank correlation over people of the ratio of two quantiles (ranks .45 and .85, mostly gray and
white matter) with the truth. What more people buy: models taught by 5, 10, 20 or 40 of a study's people, drawn ten
times, and six others through the same scanners.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from bars import _FIRST_SHARED, SHARED, people_of, row_of, taught
from scipy.stats import spearmanr
from tables import table

from blindharmony.harmonization.scanner import fit_scanner
from blindharmony.models.file import load_target
from blindharmony_benchmark.results import holm, interval, sign_flip

SIZES = (1, 4, 8)
TEACHERS, DRAWS, JUDGED = (5, 10, 20, 40), 10, 6
GRAY, WHITE = 0.45, 0.85
OURS = "this package"
WHOLE = "the whole curve"
SYSTEMS = ("match", "pooled match", WHOLE, OURS)
_OTHERS = tuple(range(_FIRST_SHARED, _FIRST_SHARED + SHARED, 2))
_TEACHERS = f"""
One scan alone, mean over {DRAWS} draws of the teachers and {JUDGED} others who are judged; *match* is matching to the
teachers' mean curve. The mean head that ranks are compared with is that of all but the person.
"""
_LATER = """
One person of each group, whose scan came after the scanner was fitted to the others: alone, through the saved scanner,
and through one curve from the others' mean scan to the mean curve. Not corrected for many tests.
"""
#: Source → scanners, and how much of the way to them from the target's own.
SOURCES = {
    "as they are": ((0,), 1.0),
    "a tenth of the way": (_OTHERS, 0.1),
    "two fifths": (_OTHERS, 0.4),
    "other scanners": (_OTHERS, 1.0),
}

_HEAD = """# The curve by folds over people, measured

Made by `python benchmarks/folds.py --page RECORD`; nothing here is typed by hand. Each person is judged by a model that
this person, and everybody scanned together with them, taught nothing. Two settings, `person.common_error` and
`curve.believed`, were chosen on the folds of these very people: what this page says of groups and of how far to go is
a little too good. Error: root mean square of the mapped quantiles
of a person minus the true ones, flow units, lower is better; in brackets 95 % by bootstrap over people (BCa). p:
sign-flip permutation test over people of this package against the system, corrected for all rows of a study (Holm).
People kept: rank correlation over people of the contrast of gray to white matter with the truth, mean over scanners:
1 is best, below 0 the order is turned round. *match*: each scan onto the mean curve, which gives everybody one
histogram. *the whole curve*: this package's without weighing how far to go. *A tenth of the way*: a scanner between the
target's own and a random one.
"""


def mapped(system, scans, features, model):
    """Quantiles of a group's scans after a system."""
    if system == "match":
        return [model.mean for _ in scans]
    scanner = fitted(system, scans, features, model)
    curves = [scanner.curve(q.astype(np.float32)).astype(np.float64) for q in scans]
    return [scaled(c, model.mean) for c in curves]


def fitted(system, scans, features, model):
    """The scanner model of a group's scans."""
    persons, surprises = [model.mean for _ in scans], [0.0 for _ in scans]
    if system in (WHOLE, OURS):
        persons, surprises = [model.curve(f) for f in features], [model.surprise(f) for f in features]
    target = SimpleNamespace(person=model, quantiles=model.curves[model.themselves], digest="fold")
    rows = zip(scans, persons, surprises, strict=True)
    summaries = [SimpleNamespace(quantiles=q, person=p, surprise=s, whole=q) for q, p, s in rows]
    return fit_scanner(summaries, target, whole=system != OURS)


def scaled(curve, like):
    """As preparation does: every scan has the scale of the target's."""
    return curve * np.sqrt((like**2).mean() / (curve**2).mean())


def measured(people, ranks, size):
    """Source → system → error and contrast of every person through every scanner."""
    low, high = (int(np.searchsorted(ranks, r)) for r in (GRAY, WHITE))
    order = np.random.default_rng(size).permutation(len(people))
    errors, contrasts, truths = {}, {}, {}
    for group in np.array_split(order, len(people) // size):
        model = taught([p for i, p in enumerate(people) if i not in group])
        for kind, way in ((k, way) for kinds, way in SOURCES.values() for k in kinds):
            rows = [(people[i], row_of(people[i], kind)) for i in group]
            scans, seen, features = ([p[k][r] for p, r in rows] for k in ("S", "Q", "F"))
            scans = [scaled(q + way * (scaled(s, q) - q), q) for s, q in zip(scans, seen, strict=True)]
            true = [p["Q"][row_of(p, 0)] for p, _ in rows]
            for i, truth in zip(group, true, strict=True):
                truths[i, (kind, way)] = truth[low] / truth[high]
            for system in SYSTEMS:
                for i, made, truth in zip(group, mapped(system, scans, features, model), true, strict=True):
                    errors[system, i, (kind, way)] = np.mean((made - truth) ** 2)
                    contrasts[system, i, (kind, way)] = made[low] / made[high]
    everybody, record = range(len(people)), {}
    for source, (numbers, way) in SOURCES.items():
        kinds = [(k, way) for k in numbers]
        for system in SYSTEMS:
            each = [float(np.sqrt(np.mean([errors[system, i, k] for k in kinds]))) for i in everybody]
            kept = [
                spearmanr([contrasts[system, i, k] for i in everybody], [truths[i, k] for i in everybody])[0]
                for k in kinds
            ]
            record.setdefault(source, {})[system] = {"errors": each, "kept": float(np.mean(kept))}
    return record


def later(people, size):
    """Source → way → errors of one person of each group: alone, and through the model of the others' scanner."""
    order, errors = np.random.default_rng(size).permutation(len(people)), {}
    for group in np.array_split(order, len(people) // size):
        model = taught([p for i, p in enumerate(people) if i not in group])
        for source, (kinds, way) in SOURCES.items():
            squares = {}
            for kind in kinds:
                rows = [(people[i], row_of(people[i], kind)) for i in group]
                scans, seen, features = ([p[k][r] for p, r in rows] for k in ("S", "Q", "F"))
                scans = [scaled(q + way * (scaled(s, q) - q), q) for s, q in zip(scans, seen, strict=True)]
                true = people[group[0]]["Q"][row_of(people[group[0]], 0)]
                made = {"alone": mapped(OURS, scans[:1], features[:1], model)[0]}
                for name, system in (("saved", OURS), ("pooled match, saved", "pooled match")):
                    scanner = fitted(system, scans[1:], features[1:], model)
                    image = scans[0].astype(np.float32)
                    gain = np.float32(scanner.gain(image, np.ones(image.shape, bool)))
                    made[name] = scaled(scanner.curve(gain * image).astype(np.float64), model.mean)
                for name, curve in made.items():
                    squares.setdefault(name, []).append(np.mean((curve - true) ** 2))
            for name, each in squares.items():
                errors.setdefault(source, {}).setdefault(name, []).append(float(np.sqrt(np.mean(each))))
    return errors


def taught_by(people, ranks, count):
    """Source → system → errors of six people, again and again, of a model that this many others have taught."""
    errors = {}
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(len(people))
        judged, teachers = order[:JUDGED], order[JUDGED : JUDGED + count]
        model = taught([people[i] for i in teachers])
        for source in ("as they are", "other scanners"):
            kinds, _ = SOURCES[source]
            for i in judged:
                own = people[i]["Q"][row_of(people[i], 0)]
                for system in ("match", OURS):
                    squares = []
                    for kind in kinds:
                        row = row_of(people[i], kind)
                        scan = scaled(people[i]["S"][row], people[i]["Q"][row])
                        (made,) = mapped(system, [scan], [people[i]["F"][row]], model)
                        squares.append(np.mean((made - own) ** 2))
                    errors.setdefault(source, {}).setdefault(system, []).append(float(np.sqrt(np.mean(squares))))
    return errors


def page(record):
    """The tables of a record."""
    parts = [_HEAD]
    for study, content in record["studies"].items():
        lines, tests = [], []
        for size, sources in content["sizes"].items():
            for source, systems in sources.items():
                ours = np.array(systems[OURS]["errors"])
                for system, row in systems.items():
                    each = np.array(row["errors"])
                    low, high = interval(each)
                    words = "alone" if size == "1" else f"groups of {size}"
                    error = f"{each.mean():.4f} [{low:.4f}, {high:.4f}] / {each.max():.4f}"
                    lines.append([words, source, system, error, "–", f"{row['kept']:.2f}".replace("-", "−")])
                    if system != OURS:
                        tests.append((len(lines) - 1, sign_flip(ours - each), float(np.mean(ours - each))))
        for (line, _, gap), p in zip(tests, holm([p for _, p, _ in tests]), strict=True):
            lines[line][4] = f"{gap:+.4f} ({p:.2g})".replace("-", "−", 1)
        head = ["", "through", "system", "error [95 %] / worst", "this package minus it (p)", "people kept"]
        parts += [f"## `{study}`, {content['people']} people", table(head, lines)]
        if content.get("later"):
            parts += [f"### A scan that came later, `{study}`", _LATER.strip(), _came_later(content["later"])]
        if content.get("teachers"):
            parts += [f"### What more people buy, `{study}`", _TEACHERS.strip(), _bought(content["teachers"])]
    return "\n\n".join(parts) + "\n"


def _bought(teachers):
    """The table of what more teachers buy."""
    lines = []
    for count, sources in teachers.items():
        cells = []
        for systems in sources.values():
            ours, match = (np.array(systems[s]) for s in (OURS, "match"))
            cells += [f"{ours.mean():.4f} / {ours.max():.4f}", f"{match.mean():.4f}"]
        lines.append([count, *cells])
    names = [f"{source}: {what}" for source in next(iter(teachers.values())) for what in ("error / worst", "match")]
    return table(["people who teach", *names], lines)


def _came_later(later):
    """The table of scans that came later."""
    lines = []
    for size, sources in later.items():
        for source, ways in sources.items():
            saved = np.array(ways["saved"])
            cells = [f"{np.mean(ways[way]):.4f}" for way in ("alone", "saved", "pooled match, saved")]
            rivals = ("alone", "pooled match, saved")
            cells += [f"{sign_flip(saved - np.array(ways[way])):.2g}" for way in rivals]
            lines.append([str(int(size) - 1), source, str(len(saved)), *cells])
    head = ["scans fitted", "through", "people", "alone", "saved scanner", "pooled match, saved"]
    return table([*head, "p, saved and alone", "p, saved and pooled"], lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path)
    parser.add_argument("--work", type=Path, default=Path("bars.work"), help="prepared heads and features are here")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path, metavar="RECORD", help="write the page of a record beside it")
    o = parser.parse_args()
    if o.page:
        o.page.with_suffix(".md").write_text(page(json.loads(o.page.read_text())))
        return
    target, record = load_target("ds002748"), {"studies": {}}
    for study in o.studies:
        people = people_of(study, o.work, target)
        content = record["studies"].setdefault(study.name, {"people": len(people), "sizes": {}})
        sizes = content["sizes"]
        for size in (s for s in SIZES if s <= len(people) // 2):
            sizes[str(size)] = measured(people, target.levels, size)
            print(study.name, size, flush=True)
            o.out.write_text(json.dumps(record, indent=1) + "\n")
        content["later"] = {str(size): later(people, size) for size in SIZES if 1 < size <= len(people) // 2}
        for count in (n for n in TEACHERS if n <= len(people) - JUDGED):
            content.setdefault("teachers", {})[str(count)] = taught_by(people, target.levels, count)
            print(study.name, "taught by", count, flush=True)
            o.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
