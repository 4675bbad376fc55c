"""The cohort page: outliers first, every scan there, small enough, and no name can do harm."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from blindharmony.study.cohort import LEVELS, kept_target, outliers, profile_of, render_cohort, write_cohort_page
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


def test_every_scan_is_a_row_and_a_point_and_every_failure_has_its_reason(rows, target):
    text = render_cohort(rows, "study", target)
    assert text.count("<tr data-row=") == text.count("<circle ") == 198
    assert text.count("no brain was found; give a mask") == 2
    links = [link for link in Tags(text).links if not link.startswith("#")]
    assert len(links) == len(set(links)) == 198
    for row in rows:
        assert row["scan"].rpartition("/")[2] in text


def test_outliers_are_those_with_a_bad_verdict_or_far_from_the_rest(rows, target):
    odd = outliers([r for r in rows if r["status"] == "done"])
    planted = {r["scan"] for r in rows if r["verdict"] == "caution"}
    assert planted <= set(odd)
    assert len(odd) < 2.5 * len(planted)
    text = render_cohort(rows, "study", target)
    order = re.findall(r'<tr data-row="\d+"( class="odd")?>', text)
    assert order == sorted(order, reverse=True)


def test_a_scan_closer_to_the_target_than_the_rest_is_no_outlier():
    usual = [{"scan": str(i), "distance_after": 50.0 + i} for i in range(9)]
    assert outliers([*usual, {"scan": "better", "distance_after": 0.1}]) == {}
    # Few scans, or all equal, say nothing about what is far.
    assert outliers([{"scan": "a", "distance_after": 1.0}, {"scan": "b", "distance_after": 9.0}]) == {}
    assert outliers([{"scan": str(i), "distance_after": 1.0} for i in range(9)]) == {}


def test_a_thousand_scans_stay_small(target):
    assert len(render_cohort(fake_rows(1000, target), "study", target).encode()) < 10_000_000


def test_records_of_older_runs_have_no_profiles(rows):
    keys = ("profile_before", "profile_after", "distance_before", "distance_after", "report")
    old = [{**row, **dict.fromkeys(keys)} for row in rows]
    text = render_cohort(old, "study", None)
    assert "<circle" not in text
    assert "run the participant level again" in text
    assert text.count("<tr data-row=") == 198
    mixed = render_cohort([*old[:100], *rows[100:]], "study", None)
    assert mixed.count("<circle") == sum(r["distance_after"] is not None for r in rows[100:])
    lines = json.loads(re.search(r'id="lines">(.*?)</script>', mixed, re.S)[1])
    assert len(lines["rows"]) == len(lines["profile-after"]) == mixed.count("<circle")


def test_nothing_at_all_is_a_page_too():
    failed = {**fake_rows(100, fake_target())[99]}
    page = render_cohort([failed], "study", None)
    assert "0 of 1 scans harmonized" in page
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
