import errno
import os
import stat
from pathlib import Path

import pytest

from blindharmony.errors import OutputError
from blindharmony.files import atomic_path, write_bytes, write_text


def fail(code):
    def raiser(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    return raiser


def test_missing_folders_are_made_and_name_keeps_its_extension(tmp_path):
    with atomic_path(tmp_path / "a" / "b" / "scan.nii.gz") as temporary:
        assert temporary.name.startswith(".scan.")
        assert temporary.name.endswith(".tmp.nii.gz")
        temporary.write_bytes(b"x")
        assert not (tmp_path / "a" / "b" / "scan.nii.gz").exists()
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["scan.nii.gz"]


def test_file_has_ordinary_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    mode = stat.S_IMODE(write_text(tmp_path / "a.txt", "ä").stat().st_mode)
    assert mode == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("overwrite", [False, True])
def test_failure_leaves_nothing_new(tmp_path, overwrite):
    def half() -> None:
        with atomic_path(tmp_path / "a.txt", overwrite=overwrite) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        half()
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_kept(tmp_path):
    path = write_text(tmp_path / "a.txt", "first")
    with pytest.raises(OutputError, match=r"a\.txt: exists already; pass --overwrite"):
        write_text(path, "second")
    assert path.read_text() == "first"
    assert write_bytes(path, b"third", overwrite=True).read_text() == "third"


@pytest.mark.parametrize("links", [True, False])
def test_first_of_two_writers_wins(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", fail(errno.EPERM))

    def slow() -> None:
        with atomic_path(tmp_path / "a.txt") as mine:
            mine.write_text("slow")
            write_text(tmp_path / "a.txt", "fast")

    with pytest.raises(OutputError, match="exists already"):
        slow()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "fast")]


def test_disk_without_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", fail(errno.ENOTSUP))
    assert write_text(tmp_path / "a.txt", "x").read_text() == "x"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, r"disk is full; free some space"),
        (errno.EACCES, r"read-only; choose a folder"),
        (errno.EROFS, r"read-only"),
        (errno.EIO, r"cannot be written \(.*\); choose"),
    ],
)
def test_troubles_of_the_disk(tmp_path, monkeypatch, code, message):
    monkeypatch.setattr(Path, "write_bytes", fail(code))
    with pytest.raises(OutputError, match=r"a\.txt: .*" + message):
        write_text(tmp_path / "a.txt", "x")
    assert list(tmp_path.iterdir()) == []


def test_read_only_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", fail(errno.EACCES))
    with pytest.raises(OutputError, match="read-only"):
        write_text(tmp_path / "new" / "a.txt", "x")


def test_folder_where_a_file_goes_and_the_reverse(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="same name"):
        write_text(tmp_path / "folder", "x", overwrite=True)
    with pytest.raises(OutputError, match="same name"):
        write_text(tmp_path / "file" / "a.txt", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_trouble_with_another_file_is_not_the_outputs(tmp_path):
    def reads_elsewhere() -> None:
        with atomic_path(tmp_path / "a.txt"):
            (tmp_path / "missing-input").read_text()

    with pytest.raises(FileNotFoundError):
        reads_elsewhere()


def test_longest_legal_name(tmp_path):
    assert write_text(tmp_path / ("ü" * 120 + ".nii.gz"), "x").exists()
