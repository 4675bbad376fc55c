"""What people read is short, and spelled in one way: README, pages, help, and the pages of the package."""

import re
from pathlib import Path

import pytest

from blindharmony.cli.completion import grammars
from blindharmony.cli.main import parser

ROOT = Path(__file__).resolve().parent.parent.parent
# Made by scripts from records, whose words are those of the records.
MADE = "measured_"
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if not page.name.startswith(MADE)),
    *sorted((ROOT / "src" / "blindharmony").rglob("templates/*.html")),
]
HELP = grammars(parser())
BRITISH = re.compile(
    r"(?<![\w`./_-])(learnt|licences?|grey|colour\w*|neighbour\w*|centre[ds]?|\w*metres?|analyse[ds]?|"
    r"(?:recogn|optim|harmon|normal|standard|initial)is(?:e[ds]?|ing|ation)|judgement|(?:un)?labelled|modelled|"
    r"per cent)"
    r"(?![\w`_(=]|\.\w)",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_are_spelled_as_in_america(page):
    assert BRITISH.findall(page.read_text()) == []


def test_help_is_spelled_as_in_america():
    assert len(HELP) > 15
    wrong = {verb: BRITISH.findall(grammar.format_help()) for verb, grammar in HELP.items()}
    assert {verb: words for verb, words in wrong.items() if words} == {}


def test_the_readme_has_seven_hundred_words_at_most():
    text = re.sub(r"<!--.*?-->|\]\([^)]*\)", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len([word for word in text.split() if re.search(r"\w", word)]) <= 700


def test_every_picture_is_shown_on_a_page():
    text = "".join(page.read_text() for page in PAGES)
    pictures = list((ROOT / "docs" / "pictures").iterdir())
    assert len(pictures) > 5
    assert {picture.name for picture in pictures if f"pictures/{picture.name})" not in text} == set()
