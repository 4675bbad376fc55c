"""A scan or a target called like a script stays a name in every page."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from blindharmony.quality.checks import Check, Severity
from blindharmony.quality.verdict import Verdict
from blindharmony.report.page import Section, Strip, render_page
from blindharmony.report.scan import render_report

NAME = "</title></script><script>alert('x')</script><img src=x onerror=\"alert(1)\">&amp;.nii.gz"


class Tags(HTMLParser):
    """The tags of a page, and the attributes that could run something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.wild = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.wild += [
            a for a, value in attrs if a.startswith("on") or (value or "").startswith(("javascript:", "http"))
        ]


def test_a_report_about_a_scan_called_script(evidence):
    plain, hostile = (
        Tags(
            render_report(
                replace(
                    evidence,
                    name=name,
                    unit=name,
                    methods=name,
                    details=(name,),
                    figures={name: name},
                    provenance={name: name},
                    preparation={name: {name: [name]}},
                    verdict=Verdict(
                        (Check(name, Severity.POOR, name, 1.0, (None, 0.5), name, name), *evidence.verdict.checks), name
                    ),
                )
            )
        )
        for name in ("scan", NAME)
    )
    assert hostile.tags == plain.tags
    assert hostile.wild == plain.wild


@pytest.mark.parametrize("name", [NAME])
def test_a_plain_page_about_one(name):
    section = Section(name, (name,), (), ((name, name),), (Strip(name, name),), (name,), ((name,),), ((name, name),))
    assert NAME not in render_page(name, name, [section])
    assert Tags(render_page(name, name, [section])).tags.count("script") == 0
