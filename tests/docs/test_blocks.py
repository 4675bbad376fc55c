"""Every code block of the documentation runs.

``make long-test`` runs them with a small model in place of the included one, and without blocks marked slow;
``make block-test`` all of a page with the small model, ``make slow-test`` with the real one.
"""

import pytest
from blocks import ROOT, RUN, blocks, pages, run_block

PAGES = {str(p.relative_to(ROOT)): p for p in pages()}
EVERY = [block for page in pages() for block in blocks(page)]
# What needs a GPU, Docker, a queue, another program, or half an hour. Each says so above itself.
MOST_NOT_RUN = 15


def test_blocks_are_found_and_say_what_they_are():
    assert len(EVERY) > 30
    silent = [f"{b.page}:{b.line}" for b in EVERY if not b.language]
    assert not silent, "a fence without a language (sh, python, text, ...) is not run and not counted"
    fences = sum(line.startswith("```") for page in pages() for line in page.read_text().splitlines())
    assert fences == 2 * len(EVERY), "a block in a list or quotation is not found: take it out"


def test_what_is_not_run_says_why_and_is_rare():
    left = [b for b in EVERY if b.mark == "not run"]
    assert all(b.why and b.language in RUN for b in left)
    assert len(left) <= MOST_NOT_RUN
    assert sum(b.runs for b in EVERY) > len(left)


@pytest.mark.parametrize("page", [n for n, p in PAGES.items() if any(b.runs and not b.mark for b in blocks(p))])
@pytest.mark.long
def test_the_quick_blocks_of_a_page_run_in_order(page, reader, stand_in):
    names = {}
    for block in blocks(PAGES[page]):
        if block.runs and not block.mark:
            run_block(block, names)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["small", "included"])
@pytest.mark.parametrize("page", [n for n, p in PAGES.items() if any(b.mark == "slow" for b in blocks(p))])
def test_all_blocks_of_a_page_run_in_order(page, model, reader, request):
    if model == "small":
        request.getfixturevalue("stand_in")
    names = {}
    for block in blocks(PAGES[page]):
        if block.runs:
            run_block(block, names)
