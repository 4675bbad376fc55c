"""People who were on several scanners: what is said of them, on cases whose answer is known."""

import json

import nibabel as nib
import numpy as np
import pytest
from safetensors.numpy import save_file

from blindharmony.cli.main import main
from blindharmony.errors import NothingFoundError
from blindharmony.preprocessing.registration import load_template
from blindharmony_benchmark.heads import Files, kept_file
from blindharmony_benchmark.results import ALL_SCANNERS, traveled
from blindharmony_benchmark.travelers import Table, agreement, features_of, parts_of_head, summary, travelers_of

PEOPLE = [f"sub-{k:02}" for k in range(1, 9)]


def steps(effect, *, truth=True, seed=0):
    """Volumes of eight people on three scanners: ``effect(volume, scanner)`` is what a scanner shows of them."""
    true = np.random.default_rng(seed).normal(100, 10, (len(PEOPLE), 5))

    def content(row):
        named = {f"v{k}": float(v) for k, v in enumerate(row)}
        return {"volumes": named, "radiomics": named, "contrast": {"grey/white": float(row[0]) / 150}}

    return {
        f"scanner{s}": [
            {"subject": p, **content(effect(row, s)), **({"truth": content(row)} if truth else {})}
            for p, row in zip(PEOPLE, true, strict=True)
        ]
        for s in range(3)
    }


def test_scanners_that_show_the_truth_leave_no_difference_and_keep_people_apart():
    each, together = summary(steps(lambda v, s: v))
    assert set(each) == set(PEOPLE)
    assert all(m["difference"] == 0 for m in each.values())
    assert (
        together["people"] == together["icc"] == together["reproducible"] == together["contrasts"] == pytest.approx(1)
    )
    assert together["people_low"] == together["people_high"] == pytest.approx(1)


def test_one_brain_for_everybody_has_no_difference_between_scanners_and_keeps_nobody_apart():
    rng = np.random.default_rng(1)
    flat = steps(lambda v, s: np.full(5, 100.0) + rng.normal(0, 0.01, 5), truth=False)
    each, together = summary(flat)
    assert max(m["difference"] for m in each.values()) < 0.05
    assert abs(together["people"]) < 0.5
    assert together["reproducible"] == 0


def test_gain_of_a_scanner_is_a_difference_that_leaves_people_in_their_order():
    each, together = summary(steps(lambda v, s: v * (1 + 0.1 * s)))
    # 1, 1.1, 1.2 times a volume, and the truth, once more 1
    expected = 100 * np.std([1, 1.1, 1.2, 1], ddof=1) / np.mean([1, 1.1, 1.2, 1])
    assert [m["difference"] for m in each.values()] == pytest.approx([expected] * 8)
    assert together["people"] == pytest.approx(1)
    assert together["icc"] < 0.75


def test_combat_takes_the_gain_of_a_scanner_out_and_leaves_people_in_their_order():
    scans = steps(lambda v, s: v * (1 + 0.1 * s) + 5 * s)
    before, _ = summary(scans)
    after, together = summary(scans, then_combat=True)
    assert np.mean([m["difference"] for m in after.values()]) < 0.2 * np.mean(
        [m["difference"] for m in before.values()]
    )
    assert together["people"] > 0.95


def test_an_inverted_order_is_told():
    _, together = summary(steps(lambda v, s: 200 - v))
    assert together["people"] == pytest.approx(-1)
    assert together["people_low"] <= together["people"] <= together["people_high"]


def test_icc_is_that_of_shrout_and_fleiss():
    # Table 2 of Shrout and Fleiss, 1979: six targets, four judges; ICC(2, 1) = 0.29.
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    assert agreement(ratings[..., None]) == pytest.approx([0.29], abs=0.005)


def test_only_who_was_on_every_scanner_counts():
    scans = steps(lambda v, s: v)
    scans["scanner1"] = scans["scanner1"][2:]
    assert Table.of("volumes", scans).people == tuple(PEOPLE[2:])


def test_volumes_are_the_persons_own_and_parts_share_out_the_head():
    template = load_template()
    mask = template.data > 0
    parts = parts_of_head(mask)
    assert np.sum(list(parts.values()), 0).tolist() == np.ones(mask.shape, int).tolist()
    labels = np.where(mask, 3, 0).astype(np.uint8)
    image = mask.astype(np.float32)
    plain = features_of(image, labels, np.eye(4), parts)
    larger = features_of(image, labels, np.diag([1.1, 1, 1, 1]), parts)
    voxel = abs(np.linalg.det(template.affine[:3, :3])) / 1000
    assert plain["volumes"]["white"] == pytest.approx(mask.sum() * voxel)
    assert larger["volumes"]["white"] == pytest.approx(1.1 * plain["volumes"]["white"])
    assert sum(v for k, v in plain["volumes"].items() if k.startswith("white,")) == pytest.approx(
        plain["volumes"]["white"]
    )
    assert plain["radiomics"]["median, white, left back lower"] == 1
    assert np.isnan(plain["radiomics"]["median, grey, left back lower"])


def test_a_system_that_failed_on_a_scanner_is_not_in_the_table():
    good = [{"leg": "travelers", "source": s, "system": "a", "scans": x} for s, x in steps(lambda v, s: v).items()]
    bad = [{"leg": "travelers", "source": s, "system": "b", "failed": "it broke"} for s in ("scanner0", "scanner1")]
    few = [{**good[0], "system": "c"}]
    cells = {c.system: c for c in traveled([*good, *bad, *few])}
    assert set(cells) == {"a", "b"}
    ours = traveled([{**step, "system": "curve"} for step in good])
    assert [c.system for c in ours] == ["curve", "curve + combat"]
    assert cells["a"].source == ALL_SCANNERS
    assert cells["b"].about["failed"] == "it broke"


def study_of_travelers(root, machines, people):
    """Everybody on every machine, a session each; sidecars name the machine."""
    root.mkdir(exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "t", "BIDSVersion": "1.9.0"}')
    for person in people:
        for index, machine in enumerate(machines, 1):
            anat = root / f"sub-{person}" / f"ses-{index}" / "anat"
            anat.mkdir(parents=True)
            name = f"sub-{person}_ses-{index}_T1w"
            nib.save(nib.Nifti1Image(np.full((4, 4, 4), index, np.int16), np.eye(4)), anat / f"{name}.nii.gz")
            (anat / f"{name}.json").write_text(json.dumps({"Manufacturer": machine, "ManufacturersModelName": machine}))
    return root


def test_travelers_are_read_from_sidecars(tmp_path):
    scanners = travelers_of(study_of_travelers(tmp_path, ["Siemens", "GE", "Philips"], ["01", "02", "03"]))
    assert len(scanners) == 3
    for split in scanners.values():
        assert split.test == ("sub-01", "sub-02", "sub-03")
        assert not split.train
    one = next(iter(scanners.values()))
    assert one.files("sub-02").scan.name == "sub-02_ses-1_T1w.nii.gz"


def test_people_on_one_scanner_are_no_travelers(tmp_path, capsys):
    study = study_of_travelers(tmp_path, ["Siemens"], ["01", "02", "03"])
    with pytest.raises(NothingFoundError, match="no two scanners share 3 people; scanners by their sidecars: siemens"):
        travelers_of(study)
    assert main(["benchmark", "--travelers", str(study), "--out", str(tmp_path / "out")]) == 66
    assert "no two scanners share 3 people" in capsys.readouterr().err


def test_one_command_makes_the_tables_of_travelers(
    tmp_path, tiny_target_file, tiny_target, pictures, by_brightness, monkeypatch
):
    monkeypatch.setattr("blindharmony_benchmark.segmenters.network_labels", by_brightness)
    study = study_of_travelers(tmp_path / "study", ["Siemens", "GE"], ["01", "02", "03"])
    heads, recipe = tmp_path / "heads", tiny_target.info.recipe
    heads.mkdir()
    for split in travelers_of(study).values():
        for index, subject in enumerate(split.test):
            scan = split.files(subject).scan
            head = pictures[index % 2]
            image = head.image ** np.float32(0.8 if "ses-1" in scan.name else 1.25)
            content = {"image": image, "mask": head.mask, "gain": np.array(1.0), "matrix": np.eye(4)}
            content |= {"raw": image, "raw_mask": head.mask, "affine": load_template().affine}
            file = kept_file(heads, study, subject, Files.of(study, subject, scan), recipe)
            save_file({k: np.ascontiguousarray(v) for k, v in content.items()}, file)
    words = ["benchmark", "--travelers", str(study), "--target", str(tiny_target_file), "--heads", str(heads)]
    out = tmp_path / "out"
    assert main([*words, "--out", str(out), "--methods", "nothing", "match"]) == 0
    rows = {r["system"]: r for r in json.loads((out / "results.json").read_text())["rows"]}
    assert rows["match"]["difference"] < rows["nothing"]["difference"]
    assert rows["match"]["contrast_difference"] < rows["nothing"]["contrast_difference"]
    assert rows["nothing"]["scans"] == 3
    assert "The same people on several scanners" in (out / "table.md").read_text()
