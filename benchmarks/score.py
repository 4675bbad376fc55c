r"""What the flow would contribute to the estimate: the person model with its score as further features, and without.

    python benchmarks/score.py DATA --teach 01 02 ... --judge 51 52 ... --domains site1 ... --out RECORD

The *score* of a scan says which change of its intensities would make it more probable. At the histogram-matched scan,
which no increasing curve changes, x is the image of one resolution, (c, d) its Haar split and h_j twelve hat functions
of intensity:

.. math:: s_j = \frac1n \sum_v h_j(x(v))\, \frac{\partial \log p(d \mid c)}{\partial x(v)}

Details of 2 and 4 mm are asked: 24 numbers. A flow knows the people who taught it, so there are two flows of each
level, each taught by half of the people (one in five of them chooses the weights); who teaches the regression is asked
by the flow that never saw this person, somebody new by both, and the mean counts. What a flow says of heads as they
are, that it never saw, is taken off. The regression is that of the package, each kind of number counting the same.

Source: the score as a feature, Jaakkola & Haussler 1999 (Exploiting generative models in discriminative classifiers);
cross-fitting, Chernozhukov et al. 2018 (doi 10.1111/ectj.12097).
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from contrasts import half
from scipy.stats import wilcoxon

from blindharmony.flows.bijection import Condition
from blindharmony.flows.pyramid import Pyramid
from blindharmony.flows.transforms import haar_split
from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.summary import rank_features
from blindharmony.io.bids import find_scans
from blindharmony.models.file import load_target
from blindharmony.models.person import PersonModel
from blindharmony.models.target import atlas_tensor, upsampled
from blindharmony.models.tissue import class_posterior
from blindharmony.settings import FlowFitSettings, PersonSettings
from blindharmony.training.data import ImagePool, make_pool, prepare_heads
from blindharmony.training.loop import Budget, Checkpoint, Compute, fit
from blindharmony.training.person import versions_of
from blindharmony.training.pyramid import LevelTask, _Levels, calibrate, level_flow, set_scale
from blindharmony_benchmark.heads import heads_of
from blindharmony_benchmark.results import interval
from blindharmony_benchmark.scanners import Scanner

LEVELS, FOLDS, RANKS = (0, 1), 2, np.linspace(0.02, 0.98, 12)
GROUPS, GROUP = 1000, 8


def trained(fold, heads, target, work, steps):
    """Flows of the two levels, taught without the people of a fold."""
    pool = make_pool(heads, work, seed=0, copies=5)
    region = torch.from_numpy(target.coverage > 0.5)[None, None]
    teachers = [i for i in range(len(heads)) if i % FOLDS != fold]
    judges = teachers[4::5]
    files = [pool.files[i] for i in teachers if i not in judges], [pool.files[i][:1] for i in judges]
    torch.manual_seed(0)
    flow, settings = Pyramid(target.info.pyramid, atlas_tensor()), FlowFitSettings()
    data, unseen = (_Levels(flow, ImagePool(tuple(f), region)) for f in files)
    for k in LEVELS:
        set_scale(flow, k, data)
        judged = list(unseen.each(k))
        patch = None if k else settings.patch
        task = LevelTask(level_flow(flow, k), data.draw(k), judged, seed=(0, k), patch=patch, compute=Compute())
        plan = {"heads": [heads[i].key for i in teachers], "steps": steps, "level": k}
        checkpoint = Checkpoint(work / f"score-{fold}-{k}.safetensors", plan)
        progress = fit(task, settings, Budget(steps), checkpoint=checkpoint, compute=Compute())
        calibrate(level_flow(flow, k), judged, settings=settings)
        print("fold", fold, "level", k, progress.rows[-1], flush=True)
    return flow.eval().requires_grad_(False)


def score(flow, matched, region, knots):
    """The score of a matched image at each level, shape ``(24,)``."""
    found = []
    split = haar_split(torch.from_numpy(matched)[None, None], torch.from_numpy(region)[None, None])
    for k in range(max(LEVELS) + 1):
        image, inside = split.coarse.detach().requires_grad_(True), split.coarse_mask
        split = haar_split(image, inside)
        condition = Condition(flow.context(k, split), split.detail_mask)
        z, logdet = level_flow(flow, k).to_latent(split.detail, condition)
        nats = logdet.sum() - 0.5 * z.square().where(split.detail_mask, 0.0).sum()
        (slope,) = torch.autograd.grad(nats, image)
        values, slopes = (t.detach()[inside].double().numpy() for t in (image, slope))
        values = np.clip(values, knots[0], knots[-1])
        low = np.clip(np.searchsorted(knots, values, "right") - 1, 0, knots.size - 2)
        share = (values - knots[low]) / (knots[low + 1] - knots[low])
        sums = [np.bincount(low + i, slopes * w, knots.size) for i, w in ((0, 1 - share), (1, share))]
        found.append(sum(sums) / values.size)
    return np.concatenate(found)


def features_of(seen, region, atlas, mean, ranks, flows):
    """What is asked of one scan: rank features, and by number the score under the flows of each fold."""
    source = np.quantile(seen[region], ranks)
    matched = np.where(region, CurveMap.through(source, mean)(seen), 0).astype(np.float32)
    knots = np.interp(RANKS, ranks, mean)
    scores = {fold: score(flow, matched, region, knots) for fold, flow in enumerate(flows)}
    return {"ranks": rank_features(matched, region, atlas), **scores}


class Asked:
    """The regression with the score: its four kinds of features are put into the two blocks of the person model."""

    def __init__(self, rows, folds, curves, heads, contrasts):
        ranks, owner = np.array([row["ranks"] for row in rows]), np.array(heads)
        itself = np.concatenate([[True], owner[1:] != owner[:-1]])
        fold = np.array(folds)[owner]
        raw = np.array([[row[f] for f in range(FOLDS)] for row in rows])
        self.usual = [raw[itself & (fold == f), f].mean(0) for f in range(FOLDS)]
        own = np.array([raw[i, f] - self.usual[f] for i, f in enumerate(fold)])
        blocks = [*np.split(ranks, 2, axis=1), *np.split(own, len(LEVELS), axis=1)]
        self.spreads = [np.sqrt(((b[itself] - b[itself].mean(0)) ** 2).sum(1).mean()) for b in blocks]
        # Twice as many kinds: a length scale √2 as long, which the two blocks bring about, and its prior.
        settings = PersonSettings(contrast_strength=2 * PersonSettings().contrast_strength)
        self.model = PersonModel(self._packed(ranks, own), curves, owner, contrasts=contrasts, settings=settings)

    def _packed(self, ranks, of_flows):
        blocks = [*np.split(ranks, 2, axis=-1), *np.split(of_flows, len(LEVELS), axis=-1)]
        first, second, third, fourth = (b / s for b, s in zip(blocks, self.spreads, strict=True))
        return np.concatenate([first, third, second, fourth], -1)

    def curve(self, scan):
        """The curve of somebody whom no flow has seen."""
        mean = np.mean([scan[f] - self.usual[f] for f in range(FOLDS)], 0)
        return self.model.curve(self._packed(scan["ranks"], mean))


def compared(ranks, both):
    """Errors of people with ranks alone and with the score too, and the test of their difference."""
    gap = both - ranks
    found = {"ranks": float(np.sqrt(np.mean(ranks**2))), "score": float(np.sqrt(np.mean(both**2)))}
    found |= {"worst ranks": float(ranks.max()), "worst score": float(both.max())}
    found |= {"difference": [float(gap.mean()), *interval(gap)], "p": float(wilcoxon(both, ranks).pvalue)}
    return found | {"better": int((gap < 0).sum()), "people": len(gap)}


def rms(errors):
    return np.sqrt(np.mean(np.square(errors), -1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--teach", nargs="+", required=True)
    parser.add_argument("--judge", nargs="+", required=True)
    parser.add_argument("--domains", nargs="*", default=[], help="simulated scanners of the benchmark")
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--work", type=Path, default=Path("score.work"), help="heads and flows are kept here")
    parser.add_argument("--out", type=Path, required=True)
    o = parser.parse_args()
    torch.set_num_threads(1)
    o.work.mkdir(exist_ok=True, parents=True)
    target = load_target("ds002748")
    region, levels, recipe = target.fit_region, target.levels, target.info.recipe
    scans = [find_scans([o.data], participant_labels=[who])[0] for who in o.teach]
    heads = prepare_heads(scans, recipe, o.work, lambda *_: None, masks={})
    flows = [trained(fold, heads, target, o.work, o.steps) for fold in range(FOLDS)]

    def arrays(head):
        image, mask = (x.numpy() for x in head.image())
        return np.where(mask, image, 0).astype(np.float32), mask

    coarse = [half(arrays(head)) for head in heads]
    total, count = np.sum([x * m for x, m in coarse], 0), np.sum([m for _, m in coarse], 0).astype(np.float32)
    plain = np.array([np.quantile(x[m & region], levels) for x, m in map(arrays, heads)])
    mean = np.maximum.accumulate(plain.mean(0)) + 1e-7 * np.arange(levels.size)
    asked = partial(features_of, mean=mean, ranks=levels, flows=flows)
    rows, owners, contrasts = [], [], []
    for number, (head, (x, m)) in enumerate(zip(heads, coarse, strict=True)):
        image, mask = arrays(head)
        atlas = upsampled(((total - x * m) / np.maximum(count - m, 1)).astype(np.float32))
        for version in versions_of(image, mask, np.random.default_rng(number), classes=class_posterior(image, mask)):
            rows.append(asked(version.seen, mask & region, atlas))
            owners.append(number)
            contrasts.append(version.contrast)
        print("taught by", o.teach[number], flush=True)
    owners, contrasts = np.array(owners), np.array(contrasts)
    alone = PersonModel(np.array([r["ranks"] for r in rows]), plain[owners], owners, contrasts=contrasts)
    asking = Asked(rows, [i % FOLDS for i in range(len(heads))], plain[owners], owners, contrasts)
    record = {"target": target.digest, "steps": o.steps, "teachers": len(heads), "left out": {}, "new": {}}
    record |= {"teach": o.teach, "judge": o.judge, "domains": o.domains}
    wrong = [m._left_out_rows[0] - m.wanted for m in (alone, asking.model)]
    for name, chosen in (("as they are", alone.themselves), ("random scanners", ~alone.themselves)):
        each = [np.array([rms(e[chosen & (owners == p)].ravel()) for p in range(len(heads))]) for e in wrong]
        record["left out"][name] = compared(*each)
    rng = np.random.default_rng(0)
    draws = [rng.permutation(len(heads))[:GROUP] for _ in range(GROUPS)]
    own = [e[alone.themselves] for e in wrong]
    record["left out"]["groups as they are"] = [float(rms([rms(e[g].mean(0)) for g in draws])) for e in own]

    judged = heads_of(o.data, [f"sub-{who}" for who in o.judge], o.work / "heads", recipe)
    atlas = upsampled((total / np.maximum(count, 1)).astype(np.float32))
    true = [np.quantile(h.image[h.mask & region], levels) for h in judged]
    shown = {"as they are": [[(h.image, h.mask)] for h in judged], "random scanners": []}
    for number, h in enumerate(judged):
        versions = versions_of(
            h.image, h.mask, np.random.default_rng(1000 + number), classes=class_posterior(h.image, h.mask)
        )
        shown["random scanners"].append([(v.seen, h.mask) for v in versions][1:])
    errors = {}
    for name in (*shown, *o.domains):
        seen = shown.pop(name, None)
        if seen is None:
            seen = [[(p.image, p.mask)] for p in Scanner.set_for(judged, name, recipe).scans(judged)]
        errors[name] = []
        for of_person, truth in zip(seen, true, strict=True):
            told = [asked(np.where(m, x, 0).astype(np.float32), m & region, atlas) for x, m in of_person]
            errors[name].append([[alone.curve(s["ranks"]) - truth, asking.curve(s) - truth] for s in told])
        found = np.array(errors[name])  # people, scans, systems, ranks
        record["new"][name] = compared(*rms(found.swapaxes(1, 2).reshape(len(judged), 2, -1)).T)
        if name != "random scanners":
            record["new"][name]["group"] = rms(found[:, 0].mean(0)).tolist()
        print(name, record["new"][name], flush=True)
    if o.domains:
        found = np.array([errors[name] for name in o.domains])[:, :, 0]  # scanners, people, systems, ranks
        each = rms(np.moveaxis(found, 0, 2).reshape(len(judged), 2, -1))
        record["new"]["all of them"] = compared(*each.T) | {"group": rms(rms(found.mean(1)).T).tolist()}
    o.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
