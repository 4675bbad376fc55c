"""The alarm that a scanner has changed (``blindharmony watch``), on numbers of 1,101 real scans.

    python benchmarks/drift.py ABIDE.tsv --out docs/measured_drift.json
    python benchmarks/drift.py --page docs/measured_drift.json

ABIDE.tsv: image-quality metrics by MRIQC of the T1-weighted scans of ABIDE (nipreps/mriqc-learn, Apache-2.0): contrast
of gray matter and of fluid to white matter, smoothness, and range of the bias field. False alarms: sites in random
order, in which nothing changes. Changes: 25 scans of a site, then 25 of another, every ordered pair of sites with 30
scans or more. And every site in the order of its scans' numbers, in which the table's own surprises show.
"""

from __future__ import annotations

import argparse
import json
from itertools import permutations
from pathlib import Path

import numpy as np
from scipy.stats import binomtest
from tables import table

from blindharmony.io.tables import read_table
from blindharmony.quality.drift import changes

NAMES = ("gray / white", "fluid / white", "smoothness (mm)", "shading")
SHUFFLES, BEFORE, AFTER, FEWEST = 100, 25, 25, 30

_HEAD = """# A scanner that changes, measured

Made by `python benchmarks/drift.py --page RECORD`; nothing here is typed by hand. `blindharmony watch` on image-quality
metrics of 1,101 real scans (ABIDE, by MRIQC; nipreps/mriqc-learn, Apache-2.0): what is followed there is followed here,
as another program measured it. An alarm is set to be false in one scanner of twenty within a hundred scans.
"""


def numbers(row):
    white = float(row["summary_wm_median"])
    contrast = [float(row[f"summary_{tissue}_median"]) / white for tissue in ("gm", "csf")]
    return [*contrast, float(row["fwhm_avg"]), float(row["inu_range"])]


def alarms(scans):
    return changes(dict(zip(NAMES, scans.T, strict=True)))


def measured(sites):
    rng = np.random.default_rng(0)
    record = {"sites": {}, "pairs": []}
    for site, scans in sites.items():
        false = sum(bool(alarms(scans[rng.permutation(len(scans))])) for _ in range(SHUFFLES))
        in_order = [
            {"measure": c.measure, "at": c.at, "size": round(c.size, 2), "noticed": c.noticed} for c in alarms(scans)
        ]
        record["sites"][site] = {"scans": len(scans), "false": false, "shuffles": SHUFFLES, "in order": in_order}
        print(site, record["sites"][site], flush=True)
    for one, other in permutations([s for s in sites if len(sites[s]) >= FEWEST], 2):
        parts = [sites[s][rng.permutation(len(sites[s]))[:n]] for s, n in ((one, BEFORE), (other, AFTER))]
        seen = sorted((c.noticed, c.at) for c in alarms(np.concatenate(parts)) if c.noticed >= BEFORE)
        first = {"scans to alarm": seen[0][0] - BEFORE + 1, "off": seen[0][1] - BEFORE} if seen else {}
        record["pairs"].append({"from": one, "to": other, **first})
    return record


def page(record):
    sites, pairs = record["sites"].values(), record["pairs"]
    false, shuffles = (sum(site[key] for site in sites) for key in ("false", "shuffles"))
    low, high = binomtest(false, shuffles).proportion_ci()
    found = [pair for pair in pairs if "off" in pair]
    waits, off = (np.array([pair[key] for pair in found]) for key in ("scans to alarm", "off"))
    share = f"{100 * false / shuffles:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    rows = [
        ("false alarms, sites in random order", share),
        ("median scans of a site", f"{np.median([site['scans'] for site in sites]):.0f}"),
        ("changes found, one site after another", f"{len(found)} of {len(pairs)}"),
        ("scans until the alarm, median / nine of ten", f"{np.median(waits):.0f} / {np.quantile(waits, 0.9):.0f}"),
        ("first scan after the change, wrong by, nine of ten", f"{np.quantile(np.abs(off), 0.9):.0f}"),
    ]
    orders = []
    for name, site in record["sites"].items():
        said = [f"{c['measure']} at scan {c['at'] + 1} ({c['size']:+.1f} sd)" for c in site["in order"]]
        orders.append((name, site["scans"], "; ".join(said) or "none"))
    words = (
        "\n\n## The sites in the order of their scans' numbers\n\n"
        "LEUVEN, UCLA and UM are two samples each in ABIDE, with protocols of their own; here each is one site.\n\n"
    )
    return (
        f"{_HEAD}\n{table(['', ''], rows)}{words}{table(['site', 'scans', 'changes that the alarm names'], orders)}\n"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", type=Path, metavar="RECORD", help="write the page of a record beside it")
    o = parser.parse_args()
    if o.page:
        o.page.with_suffix(".md").write_text(page(json.loads(o.page.read_text())))
        return
    sites = {}
    for row in read_table(o.table)[1]:
        sites.setdefault(row["site"], []).append(numbers(row))
    record = measured({site: np.array(rows) for site, rows in sites.items()})
    o.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
