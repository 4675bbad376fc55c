"""One run at a time, or several that agree to share, also where the file system knows no locks."""

import os
import signal
import threading
import time
from contextlib import suppress

import pytest

from blindharmony import locks
from blindharmony.errors import OutputError
from blindharmony.locks import locked


@pytest.fixture(params=["locks", "no locks"], autouse=True)
def file_system(request, monkeypatch):
    """Each test on a file system with locks, and on one without."""

    def no_locks(handle, how):
        raise OSError(95, "Operation not supported")

    if request.param == "no locks":
        monkeypatch.setattr(locks.fcntl, "flock", no_locks)
        monkeypatch.setattr(locks, "_PAUSE", 0.001)
    return request.param


def test_a_second_run_is_refused_and_told_whose_the_folder_is(tmp_path):
    path = tmp_path / "out" / ".blindharmony" / "lock"
    with locked(path), pytest.raises(OutputError, match=r"here \(process \d+ on") as refused, locked(path):
        pass
    assert refused.value.path == tmp_path / "out"
    with locked(path):
        pass


def test_those_who_share_get_in_and_nobody_else(tmp_path):
    path = tmp_path / "lock"
    share = locked(path, shared=True), locked(path, shared=True)
    with share[0], share[1], pytest.raises(OutputError, match="another run"), locked(path):
        pass
    with locked(path), pytest.raises(OutputError, match="another run"), locked(path, shared=True):
        pass


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"), locked(tmp_path / "file" / "lock"):
        pass


def test_a_lock_for_each_of_many_things_leaves_no_file(tmp_path):
    path = tmp_path / "locks" / "01"
    for _ in range(2):
        with locked(path, fleeting=True), pytest.raises(OutputError), locked(path, fleeting=True):
            pass
    assert list(path.parent.iterdir()) == []


def _add(path, total, times):
    done = 0
    while done < times:
        with suppress(OutputError), locked(path, fleeting=True):
            number = int(total.read_text())
            time.sleep(0.001)
            total.write_text(str(number + 1))
            done += 1


def test_many_processes_count_to_their_sum(tmp_path):
    """Each tries until it has its turn; the file is made and removed all the time."""
    total = tmp_path / "total"
    total.write_text("0")
    children = []
    for _ in range(8):
        if (pid := os.fork()) == 0:
            try:
                _add(tmp_path / "lock", total, 5)
            finally:
                os._exit(0)
        children.append(pid)
    assert {os.waitpid(pid, 0)[1] for pid in children} == {0}
    assert total.read_text() == "40"


@pytest.fixture
def ticket(tmp_path):
    """Of a run on another machine."""
    file = tmp_path / "lock.tickets" / "alone-1-a"
    file.parent.mkdir()
    file.write_text("process 1 on nowhere\n")
    return file


def test_a_ticket_that_was_not_touched_for_minutes_is_nobodys(tmp_path, ticket, file_system):
    if file_system == "locks":
        return
    old = time.time() - 2 * locks._DEAD
    os.utime(ticket, (old, old))
    with locked(tmp_path / "lock"):
        assert not ticket.exists()


def test_whether_a_run_of_another_machine_lives_is_waited_for(tmp_path, ticket, file_system, monkeypatch):
    if file_system == "locks":
        return
    stop = threading.Event()

    def touch():
        while not stop.wait(0.05):
            os.utime(ticket)

    living = threading.Thread(target=touch)
    living.start()
    with pytest.raises(OutputError, match="process 1 on nowhere"), locked(tmp_path / "lock"):
        pass
    stop.set()
    living.join()
    monkeypatch.setattr(locks, "_DEAD", time.time() - ticket.stat().st_mtime + 1)
    begun = time.monotonic()
    with locked(tmp_path / "lock"):
        assert not ticket.exists()
    assert time.monotonic() - begun > 0.5


def test_after_a_kill_the_next_run_gets_in_at_once(tmp_path):
    path = tmp_path / "lock"
    ready, told = os.pipe()
    if (pid := os.fork()) == 0:
        with locked(path, fleeting=True):
            os.write(told, b".")
            time.sleep(1000)
    os.read(ready, 1)
    with pytest.raises(OutputError, match="another run"), locked(path, fleeting=True):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with locked(path, fleeting=True):
        pass
