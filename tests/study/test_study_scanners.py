"""Scans of one scanner come together, others do not, and it is said why."""

import nibabel as nib
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from blindharmony.cli.main import main
from blindharmony.io.bids import Scan
from blindharmony.study.groups import alone, by_label, by_metadata, visits_together
from blindharmony.study.groups import together as as_one

FIELDS = {
    "Manufacturer": st.sampled_from(["Siemens", "siemens ", "GE", None, ""]),
    "DeviceSerialNumber": st.sampled_from(["1", 1, "2", "n/a"]),
    "SoftwareVersions": st.sampled_from(["VB17", ["VB17"], "VE11"]),
    "MagneticFieldStrength": st.sampled_from([3, 3.0, 2.99, 1.5]),
    "EchoTime": st.sampled_from([0.00298, 0.003, 0.004]),
    "InstitutionName": st.sampled_from(["A", "B"]),
    "ImageType": st.sampled_from([["ORIGINAL", "M", "NORM"], ["ORIGINAL", "M"], "NORM", None]),
}


def all_whole(scan):
    """No sidecar is damaged."""
    return ""


def scans(count):
    return [Scan(None, f"sub-{i:03d}/anat/sub-{i:03d}_T1w.nii.gz", {"sub": f"{i:03d}"}) for i in range(count)]


@given(st.lists(st.fixed_dictionaries({}, optional=FIELDS), min_size=1, max_size=12), st.randoms())
def test_groups_are_a_partition_whatever_the_order(found, random):
    all_scans = scans(len(found))
    known = dict(zip((s.id for s in all_scans), found, strict=True))
    groups = by_metadata(all_scans, lambda s: known[s.id], all_whole)
    members = [s.id for g in groups for s in g.scans]
    assert sorted(members) == [s.id for s in all_scans]
    assert len({g.name for g in groups}) == len(groups)
    mixed = random.sample(all_scans, len(all_scans))
    assert by_metadata(mixed, lambda s: known[s.id], all_whole) == groups
    for group in groups:
        serials = {str(known[s.id].get("DeviceSerialNumber", "n/a")) for s in group.scans}
        assert len(serials) == 1
        assert group.why


def test_spelling_and_last_digits_do_not_part_scans_but_real_differences_do():
    one = {"Manufacturer": "Siemens", "MagneticFieldStrength": 3, "EchoTime": 0.00298}
    same = {"Manufacturer": " SIEMENS", "MagneticFieldStrength": 2.99, "EchoTime": 0.003}
    for other, together in ((same, True), ({**same, "FlipAngle": 9}, False), ({}, False), ({"Other": 1}, False)):
        known = dict(zip(("sub-000_T1w", "sub-001_T1w"), (one, other), strict=True))
        assert (len(by_metadata(scans(2), lambda s, k=known: k[s.id], all_whole)) == 1) is together


def test_prescan_normalized_scans_are_parted_only_where_others_are_not():
    fields = {"Manufacturer": "Siemens", "DeviceSerialNumber": "1"}
    kinds = {
        "yes": {**fields, "ImageType": ["ORIGINAL", "M", "NORM"]},
        "no": {**fields, "ImageType": ["ORIGINAL", "M"]},
    }

    def groups(*which):
        known = dict(zip(("sub-000_T1w", "sub-001_T1w", "sub-002_T1w"), which, strict=False))
        return by_metadata(scans(len(which)), lambda s: kinds.get(known[s.id], fields), all_whole)

    assert [len(g.scans) for g in groups("yes", "no", "yes")] == [2, 1]
    assert "prescan-normalized 'yes'" in groups("yes", "no", "yes")[0].why
    assert groups("yes", "yes") == groups("no", "no") == groups("not said", "no"), "names stay as they were"


def test_places_count_only_without_serial_number():
    def groups(**more):
        known = {"sub-000_T1w": {"InstitutionName": "A", **more}, "sub-001_T1w": {"InstitutionName": "B", **more}}
        return len(by_metadata(scans(2), lambda s: known[s.id], all_whole))

    assert groups(Manufacturer="GE") == 2
    assert groups(Manufacturer="GE", DeviceSerialNumber="7") == 1


def test_scans_without_metadata_or_label_go_alone():
    assert [g.why for g in by_metadata(scans(2), lambda s: {}, all_whole)] == [
        "alone: no sidecar names its scanner"
    ] * 2
    first, second, third = scans(3)
    labels = {first.place: "A/B", second.place: "A/B"}
    groups = by_label([third, second, first], labels, "site")
    assert [(len(g.scans), g.why) for g in groups] == [(2, "site is A/B"), (1, "alone: no site is given for it")]
    assert groups[0].name.startswith("A-B-")
    assert len(alone(scans(3))) == 3
    assert [len(g.scans) for g in as_one(scans(3))] == [3]


def test_visits_of_a_person_share_a_curve_unless_their_scanners_differ():
    one, other = {"DeviceSerialNumber": "1"}, {"DeviceSerialNumber": "2"}
    known = {"a/1": {}, "a/2": {}, "b/1": one, "b/2": other, "b/3": other, "c/1": {}}
    visits = {
        name: Scan(None, f"sub-{name[0]}/ses-{name[2]}/anat/sub-{name[0]}_ses-{name[2]}_T1w.nii.gz", {"sub": name[0]})
        for name in known
    }
    fields = {visits[name].place: content for name, content in known.items()}

    def members(groups):
        assert len({g.name for g in groups}) == len(groups)
        return sorted(sorted(f"{s.words['sub']}/{s.place.split('/')[1][-1]}" for s in g.scans) for g in groups)

    apart = visits_together(alone(list(visits.values())), lambda scan: fields[scan.place])
    assert members(apart) == [["a/1", "a/2"], ["b/1"], ["b/2", "b/3"], ["c/1"]]
    # A scanner of several people stays one group.
    fields[visits["c/1"].place] = other
    by_scanner = by_metadata(list(visits.values()), lambda scan: fields[scan.place], all_whole)
    both = visits_together(by_scanner, lambda scan: fields[scan.place])
    assert members(both) == [["a/1", "a/2"], ["b/1"], ["b/2", "b/3", "c/1"]]
    # What a table or prescan normalization has set apart stays apart, whatever sidecars do not say.
    nothing = {place: {} for place in fields}
    labels = {visits["a/1"].place: "GE", visits["a/2"].place: "Siemens"}
    by_site = by_label([visits["a/1"], visits["a/2"]], labels, "site")
    assert members(visits_together(by_site, lambda scan: nothing[scan.place])) == [["a/1"], ["a/2"]]
    nothing[visits["a/2"].place] = {"ImageType": ["ORIGINAL", "NORM"]}
    each = alone([visits["a/1"], visits["a/2"]])
    assert members(visits_together(each, lambda scan: nothing[scan.place])) == [["a/1"], ["a/2"]]


def test_a_method_without_a_scanner_model_is_refused_before_any_look(tmp_path, tiny_target_file, capsys):
    root = tmp_path / "bids"
    for number in (1, 2):
        file = root / f"sub-0{number}" / "anat" / f"sub-0{number}_T1w.nii.gz"
        file.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(np.ones((20, 20, 20), np.float32), np.eye(4)), file)
    (root / "dataset_description.json").write_text('{"Name": "two", "BIDSVersion": "1.10.0"}')
    words = ["bids", str(root), str(tmp_path / "out"), "participant", "--target", str(tiny_target_file)]
    words += ["--set", "method=match", "--scanner-grouping", "one"]
    assert main(words) == 2
    assert "the method 'match' has no scanner model" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
