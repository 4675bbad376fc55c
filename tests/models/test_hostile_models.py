"""Models, logs and tables that ask for too much, or hold numbers that are none: one test for each thing found."""

import argparse
import json
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from blindharmony.cli.console import Screen
from blindharmony.cli.groups import groups_of
from blindharmony.errors import InputError, TargetError
from blindharmony.files import parse_json, read_text
from blindharmony.harmonization.intensity import CurveMap
from blindharmony.harmonization.scanner import ScannerModel
from blindharmony.models.file import OF_PLACES, load_target
from blindharmony.training.page import read_log, write_training_page


@pytest.fixture
def changed(tiny_target_file, tmp_path):
    """Writes the tiny target with another description or other tensors, and loads it."""
    content = tiny_target_file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    about, tensors = json.loads(header["__metadata__"]["blindharmony"]), load(content)

    def load_changed(change=None, text=None, **others):
        meta = text or json.dumps({**about, **(change or {})})
        path = tmp_path / "t.safetensors"
        path.write_bytes(save({**tensors, **others}, {"blindharmony": meta}))
        return load_target(path)

    load_changed.about, load_changed.tensors = about, tensors
    return load_changed


@pytest.mark.parametrize(
    "spec",
    [
        {"widths": [4000, 4000, 4000, 4000], "blocks": 64, "rounds": 64},
        {"rounds": 2**40},
        {"bins": 10**9},
        {"widths": [4] * 1000},
        {"widths": []},
        {"shape": [8, 8, 8]},
    ],
)
def test_a_description_cannot_ask_for_more_than_the_file_holds(changed, spec):
    began = time.perf_counter()
    with pytest.raises(TargetError, match="damaged"):
        changed({"pyramid": {**changed.about["pyramid"], **spec}})
    assert time.perf_counter() - began < 20


def test_a_restorer_that_is_not_there(changed):
    with pytest.raises(TargetError, match="restorer has not the weights"):
        changed({"restorer": {"width": 4096, "deep_width": 4096, "blocks": 64}})


@pytest.mark.parametrize("change", [{"unit": 0.0}, {"unit": -1.0}, {"unit": 1e300}, {"recipe": {"template": "other"}}])
def test_descriptions_that_would_give_nonsense(changed, change):
    with pytest.raises(TargetError, match="damaged"):
        changed(change)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, '{"unit": NaN}', '{"scans": 1e999}'])
def test_descriptions_that_are_no_json_for_us(changed, text):
    with pytest.raises(TargetError, match="not a target model"):
        changed(text=text)


def test_tensors_of_no_use(changed):
    weight = next(k for k in changed.tensors if k.startswith("pyramid."))
    levels = changed.tensors["levels"]
    for name, wrong in (
        (weight, torch.full_like(changed.tensors[weight], torch.nan)),
        ("pyramid.unknown", torch.zeros(3)),
        ("levels", levels.flip(0)),
        ("levels", levels * 3),
        ("quantiles", changed.tensors["quantiles"].flip(1)),
        ("quantiles", changed.tensors["quantiles"].to(torch.bfloat16)),
        ("quantiles", changed.tensors["quantiles"][:0]),
        ("coverage", changed.tensors["coverage"] * 2),
        ("mean_image", changed.tensors["mean_image"] * 1e30),
    ):
        with pytest.raises(TargetError, match="damaged"):
            changed(**{name: wrong.contiguous()})
    assert changed().digest


@pytest.mark.parametrize(("part", "levels"), OF_PLACES.items())
def test_places_of_no_use(changed, part, levels):
    shape = levels, 40, 48, 40
    mean, spread, largest = torch.full(shape, torch.nan), torch.ones(shape), torch.ones(20)
    good = {f"{part}.mean": mean.half(), f"{part}.spread": spread.half(), f"{part}.largest": largest}
    assert getattr(changed(**good), part) is not None
    for name, wrong in (
        ("mean", mean[..., :2]),
        ("mean", torch.full(shape, torch.inf)),
        ("mean", torch.zeros(shape, dtype=torch.int32)),
        ("spread", spread * 0),
        ("spread", mean),
        ("largest", -largest),
        ("largest", largest * torch.nan),
        ("largest", largest[:2]),
        ("largest", largest[:, None]),
    ):
        with pytest.raises(TargetError, match="damaged"):
            changed(**good | {f"{part}.{name}": wrong.contiguous()})
    with pytest.raises(TargetError, match=f"{part} has no spread"):
        changed(**{k: v for k, v in good.items() if k != f"{part}.spread"})


@pytest.fixture
def scanner(tmp_path, tiny_target):
    """Writes a scanner model with other content, and loads it."""
    target = replace(tiny_target, digest="0" * 12)
    x = np.linspace(0, 2, 5)
    content = ScannerModel(CurveMap(x, x**1.2), 3, target.digest, 0.1, 0.5).content

    def load_changed(text=None, **change):
        path = tmp_path / "s.json"
        path.write_text(text or json.dumps({**content, **change}))
        return ScannerModel.load(path, target)

    return load_changed


@pytest.mark.parametrize(
    "change",
    [
        *({"text": t} for t in ("[" * 200_000, '{"a":' * 200_000)),
        *({"lift": v} for v in (np.nan, -1, 2)),
        *({"scans": v} for v in (0, 10**400, np.inf)),
        *({"disagreement": v} for v in (10**400, np.inf)),
        {"harmonized": [0, 0, 0, 0, 0]},
        {"harmonized": [0, 1, 2, 3, 1e300]},
        {"harmonized": [1, 1, 2, 3, 4]},
        {"source": [0, 1e-300, 1, 1.5, 2]},
    ],
)
def test_scanner_models_that_would_give_nonsense(scanner, change):
    with pytest.raises(InputError, match="not a scanner model"):
        scanner(**change)
    assert scanner().scans == 3


@pytest.mark.parametrize("row", ["[" * 200_000, '{"level": 1e999}', '{"level": ' + "9" * 400 + "}", "3", '"level"'])
def test_training_logs_that_are_none(tmp_path, row):
    (tmp_path / "m.log.jsonl").write_text(row)
    with pytest.raises(InputError, match="not a training log"):
        read_log(tmp_path / "m.log.jsonl")


def test_a_step_that_diverged_is_no_point_of_a_curve(tmp_path):
    rows = [{"level": 0, "step": s, "train": t, "held_out": 1.0} for s, t in ((1, 2.0), (2, np.nan), (3, np.inf))]
    (tmp_path / "m.log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_log(tmp_path / "m.log.jsonl").curves == {0: [(1.0, 2.0, 1.0)]}


def test_a_log_of_another_model(tmp_path, tiny_target):
    (tmp_path / "m.log.jsonl").write_text('{"level": 99, "step": 1, "train": 2, "held_out": 3}')
    with pytest.raises(InputError, match="of another model"):
        write_training_page(tiny_target, tmp_path / "m.log.jsonl", tmp_path / "p.html")


def grouped(table, save=None):
    arguments = argparse.Namespace(group=False, group_table=table, save_scanner=save)
    return groups_of(arguments, [table.parent / name for name in ("a", "b")], Screen(quiet=True))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("scan\tscanner\na\tX\na\tY\n", "two scanners"),
        ("scan\tscanner\na\t" + "x" * 200_000 + "\n", "no table"),
        ("scan\tscanner\na\tA/1\nb\tA 1\n", "one file"),
        ("\x00\x00", "no columns"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path, text, word):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(InputError, match=word):
        grouped(tmp_path / "t.tsv", tmp_path)


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path):
    (tmp_path / "t.tsv").write_text("scan\tscanner\r\na\tX\r\n", encoding="utf-8-sig")
    assert list(grouped(tmp_path / "t.tsv")) == ["X"]


def test_text_is_read_within_limits(tmp_path):
    (tmp_path / "t").write_bytes(b" " * (2**23 + 1))
    for path, word in ((tmp_path / "t", "MiB of text"), (tmp_path, "no regular file"), (tmp_path / "u", "cannot be")):
        with pytest.raises(InputError, match=word):
            read_text(path)
    assert parse_json("[1, -2.5e3]") == [1, -2500.0]
    for text in ("9" * 5000, "NaN", "-Infinity", "1e999"):
        with pytest.raises(ValueError, match=r"no number|too large"):
            parse_json(text)
