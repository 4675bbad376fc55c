"""``blindharmony benchmark``: the paper's evidence on real data, for every system."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blindharmony.cli.console import Screen
from blindharmony.cli.options import amount, whole
from blindharmony.errors import UsageError

if TYPE_CHECKING:
    from blindharmony_benchmark.plan import Plan

_EPILOG = """\
DIR holds BIDS sets and splits.json, which says who teaches and who is tested:

  {"SET": {"train": ["sub-01", ...], "validation": [...], "test": [...]}, "OTHER": {"test": [...]}}

Without it DIR is one BIDS set, whose subjects are split by --seed. Every step is kept in OUT: after Ctrl-C the same
command goes on. The networks and the published iteration are slow and run for --costly-on only.

--travelers takes a BIDS study of people who were on at least two scanners (their sidecars say which), and needs no
other data. Without --data, systems that learn from target scans are left out and the included tissue network segments.

examples:
  blindharmony benchmark --data data --target-set oasis --target oasis.safetensors --out evidence --quick
  blindharmony benchmark --data data --target-set oasis --target oasis.safetensors --out evidence
  blindharmony benchmark --data mystudy --target mysite.safetensors --out evidence --methods nothing n4-match curve
  blindharmony benchmark --data data --target-set oasis --target oasis.safetensors --out evidence --legs segmentation \\
      --segmenter 'my-segmenter {input} {output}' --white-matter-label 2 41
  blindharmony benchmark --travelers on-harmony --target mysite.safetensors --out travelers
"""


def add_parser(verbs: Any) -> None:
    """Add this verb."""
    p = verbs.add_parser(
        "benchmark",
        help="measure every system on simulated and real scanners",
        description="Measure this package, what people use, and trained rivals on simulated and real source scanners.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--data", type=Path, metavar="DIR", help="BIDS sets and splits.json, or one BIDS set")
    p.add_argument("--out", type=Path, metavar="DIR", help="results, kept steps, checkpoints")
    p.add_argument("--target", default="ds002748", help="model file or included name (default: %(default)s)")
    p.add_argument("--target-set", metavar="NAME", help="set of the target's scanner (default: named as the model)")
    p.add_argument("--quick", action="store_true", help="two subjects, two sources, short trainings: minutes")
    p.add_argument("--methods", nargs="+", metavar="NAME", help="systems (default: all); --list names them")
    p.add_argument("--list", action="store_true", help="list systems and simulated scanners and stop")
    p.add_argument("--source-sets", nargs="+", metavar="NAME", help="real source scanners (default: all other sets)")
    p.add_argument("--domains", nargs="+", metavar="NAME", help="simulated source scanners (default: all)")
    p.add_argument("--legs", nargs="+", metavar="LEG", help="simulated, real, segmentation, travelers (default: all)")
    p.add_argument("--travelers", type=Path, metavar="BIDS", help="study of people who were on several scanners")
    p.add_argument("--costly-on", nargs="+", metavar="NAME", help="sources for the slow systems")
    p.add_argument("--minutes", type=amount, metavar="M", help="training time of each network (default: 10; quick 0.2)")
    p.add_argument("--segmenter", default="", metavar="CMD", help="external segmenter, with {input} and {output} in it")
    p.add_argument("--white-matter-label", type=int, nargs="+", metavar="N", help="its labels (default: 3)")
    p.add_argument("--heads", type=Path, metavar="DIR", help="where prepared scans are kept (default: OUT/heads)")
    p.add_argument("--seed", type=whole, default=0, help="of everything random (default: %(default)s)")
    p.add_argument("-q", "--quiet", action="store_true", help="print only results and problems")
    p.set_defaults(run=run)


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Run what is left of a benchmark and write its results."""
    if arguments.list:
        _list(screen)
        return 0
    for value, name in ((arguments.data or arguments.travelers, "--data"), (arguments.out, "--out")):
        if value is None:
            raise UsageError(f"{name} is missing", remedy="see blindharmony benchmark --help")
    from blindharmony_benchmark.cost import cost
    from blindharmony_benchmark.report import collected, results, write_page, write_results
    from blindharmony_benchmark.run import Benchmark

    plan = plan_of(arguments)
    if plan.split.train and plan.target.info.name != plan.target_set:
        screen.problem(
            f"blindharmony: warning: '{plan.target.info.name}' is taken for a model of the scanner of "
            f"'{plan.target_set}', taught without its test subjects ({', '.join(plan.tested(plan.target_set))})"
        )
    with screen.progress("benchmark") as stage:
        benchmark = Benchmark(plan, stage, screen.note)
        benchmark.check_outputs(Path(arguments.target))
        screen.note(str(cost(benchmark)))
        benchmark.run()
        cells = collected(benchmark)
    content = results(plan, cells)
    for file in (*write_results(plan.out, content), write_page(plan, content, cells)):
        screen.result(str(file))
    failed = [r for r in content["rows"] if r.get("failed")]
    for row in failed:
        screen.problem(f"{row['leg']} {row['source']} {row['system']}: {row['failed']}")
    return 1 if failed else 0


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The plan that the options ask for.

    Raises:
        UsageError: If they cannot be carried out.
    """
    from blindharmony.models.file import load_target
    from blindharmony_benchmark.plan import (
        COSTLY_ON,
        LEGS,
        NOBODY,
        QUICK_DOMAINS,
        QUICK_LEFT_OUT,
        QUICK_MINUTES,
        Plan,
        read_splits,
    )
    from blindharmony_benchmark.registry import chosen
    from blindharmony_benchmark.scanners import SIMULATED
    from blindharmony_benchmark.segmenters import check_command
    from blindharmony_benchmark.travelers import travelers_of

    if arguments.white_matter_label and not arguments.segmenter:
        raise UsageError("--white-matter-label is for an external segmenter", remedy="use --segmenter with it")
    target = load_target(arguments.target)
    travelers = travelers_of(arguments.travelers) if arguments.travelers else {}
    if arguments.data:
        splits = read_splits(arguments.data, seed=arguments.seed)
        own = arguments.target_set or (next(iter(splits)) if len(splits) == 1 else target.info.name)
    else:
        splits, own = {target.info.name: NOBODY}, target.info.name
    quick = arguments.quick
    for leg in arguments.legs or ():
        if leg not in LEGS:
            raise UsageError(f"there is no leg '{leg}'", remedy=f"choose of {', '.join(LEGS)}")
    others = tuple(s for s in splits if s != own)
    plan = Plan(
        out=arguments.out,
        heads=arguments.heads or arguments.out / "heads",
        target=target,
        target_set=own,
        splits={**splits, **travelers},
        domains=tuple(arguments.domains or (QUICK_DOMAINS if quick else SIMULATED)),
        source_sets=tuple(arguments.source_sets or (others[-1:] if quick else others)),
        systems=tuple(
            e
            for e in chosen(arguments.methods)
            if (arguments.methods or not quick or e.name not in QUICK_LEFT_OUT) and (arguments.data or not e.learns)
        ),
        legs=tuple(arguments.legs or (LEGS if arguments.data else ("travelers",))),
        travelers=tuple(travelers),
        costly_on=tuple(arguments.costly_on or (COSTLY_ON[:1] if quick else COSTLY_ON)),
        minutes=arguments.minutes if arguments.minutes is not None else (QUICK_MINUTES if quick else 10.0),
        seed=arguments.seed,
        quick=quick,
        segmenter=check_command(arguments.segmenter) if arguments.segmenter else "",
        white=tuple(arguments.white_matter_label or (3,)),
    )
    plan.check()
    return plan


def _list(screen: Screen) -> None:
    from blindharmony_benchmark.registry import ENTRIES
    from blindharmony_benchmark.scanners import SIMULATED

    for name, entry in ENTRIES.items():
        notes = [
            w for w, yes in (("this package's", entry.ours), ("trained", entry.trained), ("slow", entry.costly)) if yes
        ]
        screen.result(f"{name} ({', '.join(notes)})" if notes else name)
    screen.result(f"simulated scanners: {', '.join(SIMULATED)}")
