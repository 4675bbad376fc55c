import base64
import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from blindharmony.errors import OutputError
from blindharmony.quality.checks import Check, Severity, Topic, not_judged
from blindharmony.quality.verdict import Verdict
from blindharmony.report.evidence import FileChange, methods_text
from blindharmony.report.pictures import changes as change_maps
from blindharmony.report.pictures import slice_of
from blindharmony.report.scan import Gauge, render_report, write_report
from report_evidence import made_verdict

SECTIONS = [
    "verdict",
    "images",
    "why",
    "change",
    "checks",
    "histograms",
    "tissue",
    "fit",
    "confidence",
    "preparation",
    "trace",
    "methods",
    "about",
]
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """All elements, and whether every one that opens is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def html(evidence):
    return render_report(evidence)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.mark.parametrize(
    ("plane", "right", "left", "top", "bottom"),
    [("axial", "R", "L", "A", "P"), ("coronal", "R", "L", "S", "I"), ("sagittal", "A", "P", "S", "I")],
)
def test_slices_hang_as_their_letters_say(plane, right, left, top, bottom):
    """On the left of the picture lies what is at the ``right`` end of the axis: one looks at the patient's face."""
    ends = {"R": (0, 1), "L": (0, 0), "A": (1, 1), "P": (1, 0), "S": (2, 1), "I": (2, 0)}
    volume = np.zeros((10, 12, 14))
    for letter, value in {right: 1, left: 2, top: 10, bottom: 20}.items():
        axis, high = ends[letter]
        half = [slice(None)] * 3
        half[axis] = slice(volume.shape[axis] // 2, None) if high else slice(None, volume.shape[axis] // 2)
        volume[tuple(half)] += value
    cut = slice_of(volume, plane, 6)
    h, w = cut.shape
    assert (cut[: h // 2, : w // 2] == 11).all()
    assert (cut[h // 2 :, w // 2 :] == 22).all()


def test_every_element_is_closed(page):
    assert page.open == []


def test_every_section_is_there_and_reached_from_the_top(page):
    ids = [a["id"] for tag, a in page.elements if tag == "section"]
    links = [a["href"] for tag, a in page.elements if tag == "a"]
    assert ids == SECTIONS
    assert set(links) == {f"#{name}" for name in SECTIONS}


def test_nothing_is_asked_of_the_outside(html, page):
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttpRequest", html)
    assert "default-src 'none'" in html


def test_pictures_and_charts_have_words(page):
    assert all(a.get("alt") for tag, a in page.elements if tag == "img")
    assert all(a.get("aria-label") for _, a in page.elements if a.get("role") == "img")


def test_the_scripts_hash_is_the_one_the_page_allows(html):
    script = re.search(r"<script>(.*)</script>", html, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in html


def test_equal_evidence_gives_equal_bytes(html, make_evidence):
    assert render_report(make_evidence()) == html


def test_a_full_size_scan_stays_small(make_evidence):
    assert len(render_report(make_evidence(shape=(160, 192, 160)))) < 3_000_000


def test_every_name_is_escaped(make_evidence):
    evil = "<script>alert('x')</script>\"&"
    text = render_report(
        make_evidence(
            name=evil,
            unit=evil,
            verdict=Verdict((Check(evil, Severity.POOR, evil, 1.0, (None, 0.5), evil, evil),), evil),
            details=[evil],
            figures={evil: evil},
            preparation={evil: {evil: [evil]}},
            trace=[{"step": 0, evil: 1.0}, {"step": 1, evil: 2.0}],
            methods=evil,
            provenance={evil: evil},
        )
    )
    assert text.count("<script>") == 1
    assert Page(text).open == []


def test_it_does_without_the_optional_parts(make_evidence):
    text = render_report(
        make_evidence(
            curve=None,
            held_out=0,
            confidence=None,
            verdict=Verdict((Check("registration", Severity.GOOD, "It fits.", 0.96, (0.9, None)),), "T"),
            trace=(),
            figures={},
            details=(),
            preparation={},
            provenance={},
        )
    )
    page = Page(text)
    kept = [name for name in SECTIONS if name not in ("tissue", "fit", "confidence", "trace")]
    assert [a["id"] for tag, a in page.elements if tag == "section"] == kept
    assert {a["href"] for tag, a in page.elements if tag == "a"} == {f"#{name}" for name in kept}


def test_confidence_may_be_known_in_part(make_evidence, evidence):
    text = render_report(make_evidence(confidence=None))
    assert "Error of the harmonized intensity" not in text
    assert "Detail at 2 mm: before 5.2, after 0.4, usual −1 to 4" in text
    bare = Verdict(tuple(check for check in evidence.verdict.checks if "bits" not in check.unit), "T")
    text = render_report(make_evidence(verdict=bare))
    assert "How unusual" not in text
    assert "Error of the harmonized intensity" in text


def test_the_verdict_lists_every_check(make_evidence):
    """Name, value, limit, severity, sentence, advice."""
    text = render_report(make_evidence(verdict=made_verdict(Severity.CAUTION, words="What <is> so.")))
    for words in ("registration", "0.96 (at least 0.9)", "Check", "What &lt;is&gt; so.", "One warning."):
        assert words in text
    assert text.count('<li class="caution">') == 1
    assert "The 5 checks that are good" in text


def test_held_out_scans_are_drawn_one_by_one(make_evidence):
    for count in (0, 1, 3):
        text = render_report(make_evidence(held_out=count))
        assert text.count('class="line held"') == count
        assert ("never trained on" in text) == (count > 0)


def test_it_survives_a_failed_scan(make_evidence, evidence):
    holes = evidence.after.copy()
    holes[::3] = np.nan
    flat = np.zeros_like(evidence.after)
    trace = [{"step": 0, "objective": float("nan")}, {"step": 1, "objective": float("inf")}]
    one = evidence.target_quantiles[:1]
    for changes in (
        {"after": holes},
        {"after": flat, "before": flat},
        {"trace": trace, "target_quantiles": one},
    ):
        assert Page(render_report(make_evidence(**changes))).open == []


def test_all_heads_share_one_window(make_evidence, evidence):
    text = render_report(make_evidence(after=evidence.before, target_image=evidence.before))
    pictures = re.findall(r'class="layer (?:before|after|target)"><img src="([^"]+)" alt="axial', text)
    assert len(pictures) == 3
    assert len(set(pictures)) == 1


def test_a_scan_that_hardly_changed_shows_a_dark_map(make_evidence, evidence):
    """The scale has a floor: a change of half a per cent is not drawn as strongly as one of fifty."""
    unit = np.float32(100 / 1200)
    before = evidence.after * unit
    nothing = {name: np.zeros_like(before) for name in evidence.steps}
    nearly = make_evidence(before=before, after=before * np.float32(1.005), steps=nothing)
    assert change_maps(nearly)[2] == 10.0
    assert "−10 %" in render_report(nearly)
    assert change_maps(make_evidence(before=before, after=before * np.float32(1.5), steps=nothing))[2] > 40


def test_steps_that_changed_nothing_are_left_out(make_evidence):
    text = render_report(make_evidence())
    assert "<h3>Shading: 7.6 %" in text
    assert "<h3>Noise and blur" not in text


@pytest.mark.parametrize(
    ("total", "parts", "words"),
    [
        (0.44, (0.0, 0.4, 0.1), "hardly changed (0.4 %)"),
        (9.7, (9.1, 1.2, 0.4), "an average voxel changed by 10 % of white matter, mostly evened-out coil shading"),
        (6.2, (0.4, 6.0, 0.9), "an average voxel changed by 6 % of white matter, mostly contrast between tissues"),
        (
            22.2,
            (10.0, 2.2, 4.0),
            "an average voxel changed by 22 % of white matter, mostly evened-out coil shading and noise and blur",
        ),
        (
            1.6,
            (0.2, 0.9, 0.8),
            "an average voxel changed by 1.6 % of white matter, mostly contrast between tissues and noise and blur",
        ),
    ],
)
def test_the_change_in_words(total, parts, words):
    names = ("shading", "contrast", "noise and blur")
    assert FileChange(1.0, 0.9, total, dict(zip(names, parts, strict=True))).words == words


@pytest.mark.parametrize(
    ("severity", "words"),
    [(Severity.GOOD, "Looks like"), (Severity.CAUTION, "Look at it before"), (Severity.POOR, "Do not use it")],
)
def test_the_sentence_never_contradicts_the_verdict(make_evidence, severity, words):
    evidence = make_evidence(verdict=made_verdict(severity))
    assert evidence.sentence.startswith(words)
    assert ("its brain mask or its place" in evidence.sentence) is (severity > Severity.GOOD)
    assert evidence.sentence in render_report(evidence)


def test_each_place_that_is_unlike_is_outlined_in_three_planes_beside_its_words(make_evidence, evidence, html):
    unlike = np.zeros_like(evidence.mask)
    middle = tuple(slice(n // 2 - 4, n // 2 + 4) for n in unlike.shape)
    unlike[middle] = True
    dark = Check("dark place", Severity.CAUTION, "About 7 ml in the left.", 12.0, (None, 5.8))
    verdict = Verdict((dark, Check("unlike place", Severity.CAUTION, "About 2 ml low.", 11.0, (None, 10.1))), "T")
    both = make_evidence(places={"dark place": unlike, "unlike place": unlike}, verdict=verdict)
    shown = render_report(both)
    assert shown.count('alt="outline of the place"') == 6
    assert shown.index("<figcaption>About 7 ml") < shown.index("<figcaption>About 2 ml")
    assert "large ventricles or a lesion; 1 more reason below);" in both.sentence
    assert 'id="places"' not in html
    with pytest.raises(ValueError, match="dark place has shape"):
        make_evidence(places={"dark place": unlike[1:]})


def test_a_good_result_has_notes_and_no_warnings(make_evidence):
    note = Check("method", Severity.GOOD, "Matched to the mean head.", topic=Topic.METHOD, note=True)
    good, doubtful = (Verdict((*made_verdict(grade).checks, note), "T") for grade in (Severity.GOOD, Severity.CAUTION))
    assert (good.reasons, good.notes) == ((), ("One warning.", note.message))
    assert doubtful.reasons
    assert doubtful.warnings == (*doubtful.reasons, *good.notes)
    pages = [render_report(make_evidence(verdict=verdict)) for verdict in (good, doubtful)]
    assert ["<h3>Why</h3>" in page for page in pages] == [False, True]
    assert all("Good to know" in page for page in pages)


def test_evidence_that_does_not_fit_is_refused(make_evidence, evidence):
    for changes in (
        {"after": evidence.after[1:]},
        {"mask": np.zeros_like(evidence.mask)},
        {"levels": evidence.levels[1:]},
        {"target_quantiles": evidence.target_quantiles[:0]},
    ):
        with pytest.raises(ValueError, match=r"shape|empty"):
            make_evidence(**changes)


def test_a_report_is_not_overwritten_unasked(evidence, tmp_path):
    path = write_report(evidence, tmp_path / "new" / "sub-01.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    with pytest.raises(OutputError, match="exists already"):
        write_report(evidence, path)
    assert write_report(evidence, path, overwrite=True) == path


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        (
            (Check("fit", Severity.CAUTION, "It fits badly.", topic=Topic.METHOD),),
            "does not fit the curve of its scanner",
        ),
        ((Check("brain mask", Severity.CAUTION, "Is the skull off?"),), "not certain what the brain is"),
        ((Check("detail at 16 mm", Severity.CAUTION, "", 7.0),), "its large shapes are unlike"),
        ((Check("detail at 4 mm", Severity.CAUTION, "", 7.0),), "its fine detail is unusual"),
        ((Check("white hyperintensities", Severity.CAUTION, "", 7.0),), "(white hyperintensities)"),
        ((not_judged("registration", "there is none", Topic.HEAD),), "(registration not judged)"),
        (
            tuple(
                Check(f"direction of {what}", Severity.CAUTION, what, 7.0, topic=Topic.DIRECTION)
                for what in ("intensities", "white matter", "fluid")
            ),
            "(harmonizing moved its intensities, white matter and fluid away from the target)",
        ),
    ],
)
def test_the_sentence_names_the_reason_and_no_other(make_evidence, checks, words):
    assert words in make_evidence(verdict=Verdict(checks, "T")).sentence


@pytest.mark.parametrize(
    ("share", "words"),
    [(1.0, "was corrected"), (0.4, "was partly corrected"), (0.0, "was found that is not anatomy, and none removed")],
)
def test_the_methods_say_what_was_done_to_the_bias_field(share, words):
    text = methods_text(target="T", scans=9, method="A.", version="1", bias="entropy", bias_share=share)
    assert f"ntensity non-uniformity {words}" in text
    assert "Likar" in text
    assert "brought to the intensities" not in methods_text(
        target="T", scans=9, method="A.", version="1", returned=True
    )


def test_a_gauge_says_that_harmonizing_moved_away():
    usual = Check("likelihood", Severity.GOOD, "", 5.94, (None, 6.36))
    away = Check("direction of likelihood", Severity.CAUTION, "", 5.94, (None, 5.92), topic=Topic.DIRECTION)
    assert not Gauge.of(usual, usual).farther
    assert Gauge.of(usual, usual, direction=away).farther
