"""One run at a time, or several that agree to share."""

import pytest

from blindharmony.errors import OutputError
from blindharmony.files import locked


def test_a_second_run_is_refused_and_told_whose_the_folder_is(tmp_path):
    path = tmp_path / "out" / ".blindharmony" / "lock"
    with locked(path), pytest.raises(OutputError, match=r"here \(process \d+ on"), locked(path):
        pass
    with locked(path):
        assert path.read_text().startswith("process")


def test_those_who_share_get_in_and_nobody_else(tmp_path):
    path = tmp_path / "lock"
    share = locked(path, shared=True), locked(path, shared=True)
    with share[0], share[1], pytest.raises(OutputError, match="another run"), locked(path):
        pass


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), locked(tmp_path / "file" / "lock"):
        pass


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def no_locks(handle, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("blindharmony.files.fcntl.flock", no_locks)
    with pytest.raises(OutputError, match="knows no locks"), locked(tmp_path / "lock"):
        pass
