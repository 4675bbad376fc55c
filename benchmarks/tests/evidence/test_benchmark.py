"""The benchmark from end to end on prepared synthetic heads: rows, resuming, failures, files, external segmenter."""

import csv
import json
import os
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest

from blindharmony.cli.main import main
from blindharmony.errors import BlindHarmonyError, UsageError
from blindharmony.files import file_sha256
from blindharmony.quality.typicality import Typicality, reference_score
from blindharmony_benchmark import run as running
from blindharmony_benchmark.cost import cost
from blindharmony_benchmark.plan import Plan, read_splits
from blindharmony_benchmark.registry import Entry, chosen
from blindharmony_benchmark.report import collected, csv_text, results, write_page, write_results
from blindharmony_benchmark.run import Benchmark
from blindharmony_benchmark.system import System


class Counting(System):
    name = "counting"
    sees = "target scans"
    calls: list[str] = []  # noqa: RUF012

    def fit(self, material, say):
        assert {p.subject for p in material.training} == {"sub-03"}
        assert {p.subject for p in material.held_out} == {"sub-04"}
        self.calls.append("fit")

    def harmonize(self, scans, material):
        self.calls.append("harmonize")
        return [s.image for s in scans]


class Paired(Counting):
    name = "paired"
    sees = "target and source scans, paired"

    def fit(self, material, say):
        ((source, target),) = material.pairs
        assert source.subject == target.subject == "sub-03"
        assert not np.array_equal(source.image, target.image)
        assert source.labels is source.prepared is None


class Unpaired(Counting):
    name = "unpaired"
    sees = "target and source scans, unpaired"

    def fit(self, material, say):
        assert not material.pairs
        own, theirs = ({p.subject for p in part} for part in (material.training, material.source))
        assert not own & theirs


class Broken(System):
    name = "broken"
    sees = "nothing"

    def harmonize(self, scans, material):
        raise BlindHarmonyError("it broke", remedy="mend it")


class Empty(System):
    name = "empty"
    sees = "nothing"

    def harmonize(self, scans, material):
        return [s.image * np.float32("nan") for s in scans]


@pytest.fixture(autouse=True)
def cheap_measures(monkeypatch):
    """What takes seconds a scan and is tested elsewhere."""
    for name in ("ssim", "local_spearman", "new_edges"):
        monkeypatch.setattr(f"blindharmony_benchmark.measures.{name}", lambda *a, **k: 0.5)
    few = np.linspace(0, 1, 5)
    monkeypatch.setattr("blindharmony_benchmark.measures.features", lambda x, where: np.quantile(x[where][::50], few))
    score = reference_score("in all", 9.0, [8.9, 9.0, 9.1])
    found = Typicality((score,) * 5, score)
    monkeypatch.setattr("blindharmony_benchmark.measures.typicality", lambda *a: found)


@pytest.fixture
def plan(study, tiny_target, tmp_path):
    entries = [Entry(c.name, 0.1, made=c) for c in (Counting, Broken, Empty)]
    return Plan(
        out=tmp_path / "out",
        heads=study / "heads",
        target=tiny_target,
        target_set="mine",
        splits=read_splits(study),
        domains=("gamma1.5",),
        source_sets=("theirs",),
        systems=(*chosen(["nothing", "n4-match"]), *entries),
        legs=("simulated", "real"),
    )


def carried_out(plan):
    benchmark = Benchmark(plan, lambda stage, share: None, lambda text: None)
    benchmark.run()
    return benchmark


def test_a_target_is_not_tested_with_what_it_has_learnt_from(plan, study):
    plan.check()
    for subject, refused in (("sub-03", False), ("sub-02", True)):
        scan = study / "mine" / subject / "anat" / f"{subject}_T1w.nii.gz"
        info = plan.target.info.model_copy(update={"learnt_from": (file_sha256(scan)[:16],)})
        taught = replace(plan, target=replace(plan.target, info=info))
        if refused:
            with pytest.raises(UsageError, match="has learnt from sub-02, who are to be tested"):
                taught.check()
        else:
            taught.check()


def test_steps_failures_and_resuming(plan, monkeypatch):
    Counting.calls.clear()
    benchmark = carried_out(plan)
    assert Counting.calls == ["fit", "harmonize"] * 2
    assert [s.system for s in benchmark.left()] == ["broken", "empty"] * 2
    cells = collected(benchmark)
    content = results(plan, cells)
    by = {(r["leg"], r["system"]): r for r in content["rows"]}
    assert by["simulated", "broken"]["failed"] == "it broke; mend it"
    assert "no image of sub-07" in by["real", "empty"]["failed"]
    assert by["simulated", "n4-match"]["psnr"] > by["simulated", "nothing"]["psnr"]
    assert by["simulated", "nothing"]["over_baseline"] < 0
    assert by["simulated", "nothing"]["p_baseline"] == 0.5
    assert by["real", "nothing"]["tissue"] > by["real", "n4-match"]["tissue"]
    assert {"probe", "excess", "contrast", "order"} <= set(by["real", "nothing"])
    assert by["real", "counting"]["sees"] == "target scans"

    files = write_results(plan.out, content)
    page = write_page(plan, content, cells).read_text()
    assert "it broke" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    with files[0].open() as file:
        table = list(csv.DictReader(file))
    rows = json.loads(files[1].read_text())["rows"]
    assert len(table) == len(rows) == 10
    for line, row in zip(table, rows, strict=True):
        assert {k: v for k, v in line.items() if v} == {k: str(v) for k, v in row.items() if v is not None and v != ""}
    text = files[1].read_text()

    # Once more: only what failed is tried; nothing is scanned, harmonized or measured again.
    Counting.calls.clear()
    again = carried_out(replace(plan, systems=plan.systems[:3]))
    assert Counting.calls == []
    assert again.left() == []
    assert "_loaded" in vars(again)
    assert not again._loaded
    monkeypatch.setattr(running, "heads_of", None)
    assert csv_text(results(plan, collected(again))["rows"])
    assert cost(again).minutes == 0
    assert write_results(plan.out, content)[1].read_text() == text

    # Another seed is another benchmark.
    assert len(Benchmark(replace(plan, seed=1), print, print).left()) == 10


def test_who_sees_what(plan):
    entries = tuple(Entry(c.name, 0.1, made=c) for c in (Paired, Unpaired))
    splits = {**plan.splits, "mine": replace(plan.split, train=("sub-03", "sub-04"), validation=("sub-04",))}
    splits["mine"] = replace(splits["mine"], train=("sub-03",))
    benchmark = carried_out(replace(plan, systems=entries[:1], legs=("simulated",), splits=splits))
    assert not benchmark.left()
    both = replace(splits["mine"], train=("sub-03", "sub-04"), validation=("sub-01",), test=("sub-02",))
    benchmark = carried_out(replace(plan, systems=entries[1:], splits={**splits, "mine": both}))
    assert not benchmark.left()


def test_paired_systems_are_not_asked_for_pairs_of_real_scanners(plan):
    wanted = replace(plan, systems=chosen(["deepharmony", "curve"]), costly_on=("gamma1.5", "theirs"))
    systems = {s.name: [e.name for e in wanted.systems_on(s)] for s in wanted.sources()}
    assert systems == {"gamma1.5": ["deepharmony", "curve"], "theirs": ["curve"]}
    nowhere = replace(wanted, costly_on=())
    assert all([e.name for e in nowhere.systems_on(s)] == ["curve"] for s in nowhere.sources())


_SEGMENTER = """
import sys
import nibabel as nib, numpy as np
scan = nib.load(sys.argv[1])
x = np.asanyarray(scan.dataobj)
share = x / np.quantile(x[x > 0], 0.99)
labels = np.select([x <= 0, share < 0.78], [0, 9], 41).astype(np.uint8)
nib.save(nib.Nifti1Image(labels, scan.affine), sys.argv[2])
"""


def test_an_external_segmenter(study, tiny_target_file, tmp_path, capsys):
    program = tmp_path / "my segmenter.py"
    program.write_text(_SEGMENTER)
    words = ["benchmark", "--data", str(study), "--heads", str(study / "heads"), "--target", str(tiny_target_file)]
    words += ["--target-set", "mine", "--out", str(tmp_path / "out"), "--legs", "segmentation", "--domains", "none"]
    words += ["--methods", "nothing", "--source-sets", "theirs", "-q"]
    command = f"'{sys.executable}' '{program}' {{input}} {{output}}"
    assert main([*words, "--segmenter", command, "--white-matter-label", "2", "41"]) == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    rows = {r["source"]: r for r in content["rows"]}
    assert set(rows) == {"none", "theirs"}
    assert rows["none"]["dice"] > 0.97
    assert rows["none"]["volume"] < 5
    assert content["segmenter"] == command
    # Whose tissues the scans were judged by: their own labels, and where there are none the tissue network's.
    assert content["labels"] == {"mine": ["manual"], "theirs": ["network"]}
    assert (tmp_path / "out" / "report.html").exists()

    for bad, what in (
        (f"'{sys.executable}' -c 1 {{input}} {{output}}", "wrote nothing"),
        ("nobody {input} {output}", "run"),
    ):
        assert main([*words, "--segmenter", bad]) == 1
        assert what in capsys.readouterr().err
    assert main([*words, "--segmenter", "program"]) == 1
    assert "{output}" in capsys.readouterr().err


def test_wrong_use_is_told_in_one_line(study, tiny_target_file, tmp_path, capsys):
    words = ["benchmark", "--data", str(study), "--out", str(tmp_path), "--target", str(tiny_target_file)]
    for more in (
        ["--methods", "magic"],
        ["--target-set", "nobody"],
        ["--target-set", "mine", "--domains", "moon"],
        ["--target-set", "mine", "--legs", "arms"],
        ["--target-set", "theirs"],
        ["--target-set", "mine", "--costly-on", "gama1.5"],
    ):
        assert main([*words, *more]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert main(["benchmark"]) == 2
    assert main(["benchmark", "--list"]) == 0
    assert "white-stripe" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "below", "how"),
    [
        ("splits.json", "table.csv", "link"),
        ("scan", "report.html", "inode"),
        ("labels", "heads/x.safetensors", "link"),
        ("target", "figures/real-n4.svg", "inode"),
        ("scan", "learnt/target/nyul-1/summary.json", "link"),
    ],
)
def test_an_output_is_never_an_input(study, tiny_target_file, tmp_path, capsys, name, below, how):
    data = tmp_path / "data"
    shutil.copytree(study, data)
    scan = data / "mine/sub-03/anat/sub-03_T1w.nii.gz"
    labels = data / "mine/derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz"
    target = shutil.copy(tiny_target_file, tmp_path / "t.safetensors")
    source = {"scan": scan, "labels": labels, "target": target, "splits.json": data / "splits.json"}[name]
    place = tmp_path / "out" / below
    place.parent.mkdir(parents=True)
    place.symlink_to(source) if how == "link" else os.link(source, place)
    before = source.read_bytes()
    words = ["benchmark", "--data", str(data), "--target-set", "mine", "--target", str(target), "--methods", "nothing"]
    assert main([*words, "--out", str(tmp_path / "out"), "--domains", "exp", "--legs", "simulated"]) == 1
    assert f"{place}: this is an input of the run" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_a_step_is_known_by_all_that_went_in(plan, study):
    def steps(plan):
        return {(s.leg, s.source, s.system): s.key for s in Benchmark(plan, lambda *a: None, lambda t: None).steps}

    entries = (*plan.systems, Entry("slow", 60.0, costly=True, made=Empty))
    plan = replace(plan, systems=entries, costly_on=("gamma1.5",))
    before, quick = steps(plan), steps(replace(plan, quick=True))
    # Of two test scans a slow system takes one in a quick run, and both in a full one; of another site all do.
    assert len(plan.tested("mine")) == 2
    assert {k[1:] for k in before if before[k] != quick[k]} == {
        ("gamma1.5", "slow"),
        *(("theirs", e.name) for e in entries if not e.costly),
    }
    # Another file of a teacher makes another step of whoever learns.
    scan = next((study / "mine" / "sub-03" / "anat").glob("*.nii.gz"))
    content = scan.read_bytes()
    try:
        scan.write_bytes(content + b"\0")
        after = steps(replace(plan, seed=plan.seed))
    finally:
        scan.write_bytes(content)
    assert {k[2] for k in before if before[k] != after[k]} == {"counting"}
