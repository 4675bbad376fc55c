"""The cohort page: outliers first, every scan there, small enough, and no name can do harm."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from blindharmony.study.cohort import (
    LEVELS,
    cohort,
    kept_target,
    outliers,
    profile_of,
    render_cohort,
    thumbnail_of,
    write_cohort_page,
)
from blindharmony.study.ledger import Ledger
from fake_cohort import fake_rows, fake_target


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"])


@pytest.fixture(scope="module")
def target():
    return fake_target()


@pytest.fixture(scope="module")
def rows(target):
    return fake_rows(200, target)


def data_of(text):
    """What the page's script shows."""
    packed = re.search(r'id="data">(.*?)</script>', text, re.S)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_every_scan_is_a_row_with_its_numbers_and_every_failure_has_its_reason(rows, target):
    text = render_cohort(rows, "study", target)
    scans = data_of(text)["scans"]
    assert sorted(scans["place"]) == sorted(r["scan"] for r in rows)
    by_place = {r["scan"]: r for r in rows}
    for i, place in enumerate(scans["place"]):
        row = by_place[place]
        # Distances as reports of single scans tell them.
        for key in ("before", "after"):
            told = row[f"distance_{key}"]
            assert scans[key][i] == (None if told is None else round(target.per_cent * told, 3))
        assert scans["change"][i] == row["file_change_percent"]
        assert scans["report"][i] == row["report"]
    failed = [i for i, level in enumerate(scans["level"]) if level == "none"]
    assert [scans["why"][i] for i in failed] == ["no brain was found; give a mask"] * 2
    assert "<td>2</td>" in text[text.index("no brain was found") :][:200]
    # Those that are there without scripts are the first of the list.
    links = [link for link in Tags(text).links if not link.startswith("#")]
    assert links == scans["report"][:100] + scans["report"][:48]  # the list, and the brains
    assert text.count("<tr data-row=") == 100


def test_a_chosen_scan_is_drawn_as_it_is(rows, target):
    page = data_of(render_cohort(rows, "study", target))
    about, lines = page["lines"]["profile"], np.frombuffer(base64.b64decode(page["lines"]["profile-after"]), np.uint8)
    drawn = about["low"] + (about["high"] - about["low"]) * lines.reshape(-1, about["count"]) / 255
    place = page["scans"]["place"][page["lines"]["rows"][3]]
    profile = next(r for r in rows if r["scan"] == place)["profile_after"] - np.median(target.profiles, axis=0)
    profile *= target.per_cent
    step = (about["high"] - about["low"]) / 255
    assert np.abs(drawn[3] - np.clip(profile[::4], about["low"], about["high"])).max() < step


def test_equal_reasons_are_told_once():
    failed = [r for r in fake_rows(400, fake_target()) if r["status"] == "failed"]
    for row in failed[:3]:
        row["reason"] = f"/data/{row['scan']}: cannot be read; check its permissions"
    text = render_cohort(failed, "study", None)
    assert text.count("the scan: cannot be read; check its permissions</td><td>failed</td><td>3</td>") == 1


def test_a_group_of_two_is_marked(target):
    rows = [{**r, "scanner_scans": 2, "scanner": f"pair-{i // 2}"} for i, r in enumerate(fake_rows(4, target))]
    assert render_cohort(rows, "study", target).count("Two scans only") == 2
    assert "Two scans only" not in render_cohort(fake_rows(40, target), "study", target)


def test_scanners_are_shown_among_other_sites(rows, target):
    text = render_cohort(rows, "study", target)
    assert text.count('<circle class="site"') == 17
    assert text.count('<circle class="own"') == 5  # four scanners, and the scans that go alone
    assert "<title>Maker-2-abcdef: 0.70, 4.2 mm</title>" in text
    # Records of older runs have no such figures.
    old = [{**r, "contrast": None, "width": None} for r in rows]
    assert "<circle" not in render_cohort(old, "study", target)


def test_brains_are_shown_in_the_order_of_the_list(rows, target):
    text = render_cohort(rows, "study", target)
    shown = re.findall(r'<img src="data:image/jpeg;base64,(\d+)"', text)
    first = [r["thumbnail"][-8:] for r in cohort(rows).rows if r["thumbnail"]]
    assert shown == first[:48]
    assert "the 48 to look at first" in text
    assert 'id="brains"' not in render_cohort([{**r, "thumbnail": None} for r in rows], "study", target)


@pytest.mark.parametrize(
    "thumbnail", [None, 1, "https://x/y.jpg", 'data:image/jpeg;base64,A"', "data:text/html;base64,AA"]
)
def test_what_is_no_picture_is_not_shown(thumbnail):
    assert thumbnail_of({"thumbnail": thumbnail}) is None
    assert thumbnail_of({"thumbnail": "data:image/jpeg;base64,AA=="}) == "data:image/jpeg;base64,AA=="


def test_outliers_are_those_with_a_bad_verdict_or_far_from_the_rest(rows, target):
    odd = outliers([r for r in rows if r["status"] == "done"])
    planted = {r["scan"] for r in rows if r["verdict"] == "caution"}
    assert planted <= set(odd)
    assert len(odd) < 2.5 * len(planted)
    text = render_cohort(rows, "study", target)
    order = [bool(why) for why in data_of(text)["scans"]["why"][: len(rows) - 2]]
    assert order == sorted(order, reverse=True)


def test_a_scan_closer_to_the_target_than_the_rest_is_no_outlier():
    usual = [{"scan": str(i), "distance_after": 50.0 + i} for i in range(9)]
    assert outliers([*usual, {"scan": "better", "distance_after": 0.1}]) == {}
    # Few scans, or all equal, say nothing about what is far.
    assert outliers([{"scan": "a", "distance_after": 1.0}, {"scan": "b", "distance_after": 9.0}]) == {}
    assert outliers([{"scan": str(i), "distance_after": 1.0} for i in range(9)]) == {}


def test_records_of_older_runs_have_no_profiles(rows):
    keys = ("profile_before", "profile_after", "distance_before", "distance_after", "report")
    old = [{**row, **dict.fromkeys(keys)} for row in rows]
    text = render_cohort(old, "study", None)
    assert "<canvas" not in text
    assert "run the participant level again" in text
    assert data_of(text)["lines"] == {}
    mixed = data_of(render_cohort([*old[:100], *rows[100:]], "study", None))
    measured = [i for i, after in enumerate(mixed["scans"]["after"]) if after is not None]
    assert len(measured) == sum(r["distance_after"] is not None for r in rows[100:])
    assert mixed["lines"]["rows"] == measured
    lines = base64.b64decode(mixed["lines"]["histogram-after"])
    assert len(lines) == mixed["lines"]["histogram"]["count"] * len(measured)


def test_nothing_at_all_is_a_page_too():
    failed = {**fake_rows(100, fake_target())[99]}
    page = render_cohort([failed], "study", None)
    assert "0 of 1 scan harmonized" in page
    assert "nothing stands out" not in page
    assert "run the participant level again to have them" not in page
    assert "Nothing was harmonized yet" in render_cohort([], "study", None)


def test_wild_names_stay_names(rows, target):
    wild = "</script><script>alert(1)</script>\"'&"
    words = {"why": wild, "scanner": wild, "reason": wild, "report": f"{wild}.html", "warnings": [wild]}
    hostile = [{**r, **words, "scan": f"x/{wild.replace('/', '|')}{i}"} for i, r in enumerate(rows)]
    tame = [{**r, "scanner": "a", "report": "a.html", "warnings": ["a"]} for r in rows]
    first, second = (Tags(render_cohort(r, t, target)) for r, t in ((hostile, wild), (tame, "a")))
    assert sorted(first.found) == sorted(second.found)
    assert all(not link.startswith(("javascript:", "<")) for link in first.links)


def test_equal_rows_give_equal_bytes(rows, target):
    assert render_cohort(rows, "s", target) == render_cohort([dict(r) for r in reversed(rows)], "s", target)


def test_damaged_notes_of_the_target_are_no_target(tmp_path, rows):
    ledger = Ledger(tmp_path)
    ledger.home.mkdir()
    for content in ("{", "[]", '{"profiles": 3}', '{"profiles": [[1, 2]]}', '{"profiles": [null]}'):
        (ledger.home / "target.json").write_text(content)
        assert kept_target(ledger) is None
    whole = {"name": "t", "digest": "d", "profiles": [np.arange(LEVELS.size).tolist()]}
    (ledger.home / "target.json").write_text(json.dumps(whole))
    assert kept_target(ledger).profiles.shape == (1, LEVELS.size)
    assert write_cohort_page(ledger, rows, "s").read_text().startswith("<!doctype html>")
    for value in (None, 3, ["a"], [1.0], [float("nan")] * LEVELS.size):
        assert profile_of({"p": value}, "p") is None


def test_why_to_look_is_what_the_verdict_names():
    row = {"scan": "a", "verdict": "caution", "headline": "Harmonized, but look at it before you use it: dark place."}
    assert outliers([row]) == {"a": ["dark place"]}
    assert outliers([{"scan": "a", "verdict": "poor"}]) == {"a": ["verdict 'poor'"]}


def test_scans_of_another_target_have_no_distance_in_this_ones_units(rows, target):
    two = [row | {"target": "0" * 12 if i % 2 else target.digest} for i, row in enumerate(rows)]
    scans = data_of(render_cohort(two, "study", target))["scans"]
    known = {row["scan"]: row["target"] == target.digest and row["status"] == "done" for row in two}
    assert all((value is not None) == known[place] for place, value in zip(scans["place"], scans["after"], strict=True))
