"""Files that belong together are all of one run."""

import os

import pytest

from blindharmony.errors import OutputError
from blindharmony.files import sweep_lent, written_together


def places(folder):
    return [folder / name for name in ("a.nii.gz", "a.html", "a.json")]


def write(folder, text, *names, **how):
    with written_together(places(folder), **how) as staged:
        for name in names:
            (staged / name).write_text(text)


def _broken_off(staged, taken):
    (staged / "a.nii.gz").write_text("two")
    (taken / "b").write_text("x")


def contents(folder):
    return {f.name: f.read_text() for f in folder.iterdir()}


def test_nothing_of_an_earlier_run_is_left(tmp_path):
    write(tmp_path / "new", "one", "a.nii.gz", "a.html", "a.json")
    write(tmp_path / "new", "two", "a.json", "a.nii.gz", overwrite=True)
    assert contents(tmp_path / "new") == {"a.nii.gz": "two", "a.json": "two"}


def test_what_is_there_stays_when_a_run_fails(tmp_path):
    write(tmp_path, "one", "a.nii.gz", "a.html", "a.json")
    taken = tmp_path / "file"
    taken.write_text("")
    with pytest.raises(NotADirectoryError), written_together(places(tmp_path), overwrite=True) as staged:
        _broken_off(staged, taken)
    taken.unlink()
    assert contents(tmp_path) == dict.fromkeys(("a.nii.gz", "a.html", "a.json"), "one")


@pytest.mark.parametrize("taken", ["a.nii.gz", "a.html", "a.json"])
def test_a_name_that_is_taken_is_noticed_before_the_work(tmp_path, taken):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(OutputError, match=f"{taken}: exists already"):
        write(tmp_path, "two", "a.json")
    assert contents(tmp_path) == {taken: "mine"}


def test_an_input_is_never_replaced(tmp_path):
    scan = tmp_path / "a.nii.gz"
    scan.write_text("mine")
    with pytest.raises(OutputError, match="input of the run"):
        write(tmp_path, "two", "a.nii.gz", "a.json", overwrite=True, inputs=[scan])
    assert contents(tmp_path) == {"a.nii.gz": "mine"}


def test_trouble_names_the_place_that_was_meant(tmp_path):
    with pytest.raises(OutputError) as caught, written_together(places(tmp_path)) as staged:
        raise OutputError("the disk is full", path=staged / "a.html")
    assert caught.value.path == tmp_path / "a.html"
    with pytest.raises(OutputError, match="disk is full"), written_together(places(tmp_path)):
        raise OutputError("the disk is full", path=tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.a\.nii\.gz"):
        write(tmp_path / "file", "x", "a.json")


def test_what_another_writer_has_made_meanwhile_is_left_alone(tmp_path):
    with written_together(places(tmp_path)) as staged:
        (staged / "a.json").write_text("one")
        (tmp_path / "a.html").write_text("mine")
    assert contents(tmp_path) == {"a.html": "mine", "a.json": "one"}


def test_a_name_that_leads_into_another_folder_is_refused(tmp_path):
    with (
        pytest.raises(OutputError, match="leads into another folder"),
        written_together([tmp_path / "deep" / "a.nii.gz", tmp_path / "a.json"]),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_had_begun_goes_after_an_hour_and_nothing_else(tmp_path):
    left, mine, link, file = (
        tmp_path / n for n in (".a.1-0123abcd.tmp", ".mine.tmp", ".b.2-0123abcd.tmp", ".c.3-0123abcd.tmp")
    )
    for folder in (left, mine):
        folder.mkdir()
        (folder / "a.nii.gz").write_text("a brain")
    link.symlink_to(mine)
    file.write_text("a file")
    for place in (left, mine, file):
        os.utime(place, (0, 0))
    os.utime(link, (0, 0), follow_symlinks=False)
    with written_together(places(tmp_path)) as staged:
        (staged / "a.json").write_text("one")
        assert sweep_lent(tmp_path) == 1
    assert not left.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        ".b.2-0123abcd.tmp",
        ".c.3-0123abcd.tmp",
        ".mine.tmp",
        "a.json",
    ]
    assert sweep_lent(tmp_path / "not there yet") == 0
