"""The program itself: killed, stopped, started again, started twice; and one real scan from end to end."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from live import FAKE_SERVER, REAL_SERVER, Live

from blindharmony.cli.main import main
from blindharmony.serve import run as serving
from heads import head_grid, synthetic_brain


@pytest.fixture
def start(tmp_path):
    made = []

    def _start(*words, command=FAKE_SERVER, folder=tmp_path / "jobs"):
        made.append(Live(command, folder, *words))
        return made[-1]

    yield _start
    for live in made:
        if live.process.poll() is None:
            live.end(signal.SIGKILL)


def _gone(pid):
    for _ in range(2000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # A killed server's worker is nobody's child here: it may linger as a zombie of process 1.
        if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.long
def test_killed_in_the_middle_nothing_is_lost(start, scan_bytes, diary):
    live = start()
    done = live.add({"a.nii.gz": scan_bytes})
    live.until(done, "done")
    slow, waits = live.add({"slow.nii.gz": scan_bytes}), live.add({"b.nii.gz": scan_bytes})
    live.until(slow, "running", share=0.5)
    live.end(signal.SIGKILL)
    assert _gone(int(diary()[1].split()[1])), "the worker outlived the server"
    again = start()
    assert again.link.split("token=")[1] == live.link.split("token=")[1], "an open page would be locked out"
    assert again.jobs()[done]["state"] == "done"
    again.until(slow, "running", share=0.5)
    assert again.jobs()[waits]["state"] == "queued"
    assert again.ask(f"/api/jobs/{slow}/cancel", "POST")[0] == 204
    again.until(waits, "done")


@pytest.mark.long
def test_ctrl_c_ends_it_cleanly_and_the_running_job_waits(start, scan_bytes, diary):
    live = start()
    slow = live.add({"slow.nii.gz": scan_bytes})
    live.until(slow, "running", share=0.5)
    assert live.end(signal.SIGINT) == "stopped 1\n"
    assert live.process.returncode == 0
    assert _gone(int(diary()[0].split()[1]))
    again = start()
    again.until(slow, "running", share=0.5)


@pytest.fixture
def connect():
    made = []

    def _connect(live, text):
        made.append(socket.create_connection(("127.0.0.1", int(live.site.rpartition(":")[2])), timeout=30))
        made[-1].sendall(text)
        return made[-1]

    yield _connect
    for one in made:
        one.close()


def _cut_off(connection):
    """How long until the server gives up a connection."""
    begin = time.monotonic()
    with suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    return time.monotonic() - begin


def test_half_sent_heads_lock_nobody_out_and_are_not_waited_for(start, connect):
    live = start()
    half = [connect(live, b"GET / HTTP/1.1\r\nHost: 127.0.0.1") for _ in range(110)]
    assert live.ask("/")[0] == 200, "the oldest make room at once"
    half[-1].sendall(b"x")  # a byte now and then gives no more time
    assert _cut_off(half[-1]) < 20
    assert live.ask("/")[0] == 200


def test_a_body_that_stops_is_not_waited_for_but_a_slow_one_is(start, connect, scan_bytes):
    live = start()
    host = live.site.removeprefix("http://")
    head = (
        f"PUT /api/uploads?name=a.nii.gz HTTP/1.1\r\nHost: {host}\r\nOrigin: {live.site}\r\nCookie: {live.cookie}\r\n"
        f"Content-Length: {len(scan_bytes)}\r\n\r\n"
    ).encode()
    assert _cut_off(connect(live, head + scan_bytes[:100])) < 20
    slow = connect(live, head)
    for part in range(10):  # three seconds in all, where one of silence is too long
        slow.sendall(scan_bytes[part * len(scan_bytes) // 10 : (part + 1) * len(scan_bytes) // 10])
        time.sleep(0.3)
    assert slow.recv(20).startswith(b"HTTP/1.1 201")
    incoming = Path(live.folder) / "incoming"
    assert [p.suffix for p in incoming.rglob("*") if p.is_file()] == [".gz"], "nothing is left of the other one"


def test_a_request_to_end_is_answered_as_ctrl_c(start):
    live = start(command=REAL_SERVER)
    assert live.ask("/")[0] == 200
    with live.process:
        live.process.send_signal(signal.SIGTERM)
        said = live.process.stderr.read()
    assert live.process.returncode == 0
    assert said.splitlines()[-1] == "stopped"


def test_the_server_loads_nothing_that_computes():
    code = "import sys, blindharmony.serve.app, blindharmony.serve.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "SimpleITK", "blindharmony.api", "blindharmony.models"}


def test_two_servers_do_not_share_a_folder(start, tmp_path, capsys):
    live = start()
    assert main(["serve", "--folder", str(tmp_path / "jobs"), "--quiet"]) == 1
    assert f"process {live.process.pid}" in capsys.readouterr().err


def test_the_link_is_needed_and_works(start):
    live = start()
    assert live.ask("/")[0] == 200
    live.cookie = ""
    assert live.ask("/")[0] == 403
    assert live.ask("/api/jobs")[0] == 403
    assert live.ask(live.link.removeprefix(live.site))[0] == 403, "the cookie was not kept by this client"


def test_a_taken_port_is_one_line_or_the_next(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--folder", str(tmp_path), "--port", str(port)]) == 2
    said = capsys.readouterr()
    assert (
        said.err == f"blindharmony: port {port} is taken by another program; choose one with --port, or end the "
        "other program\n"
    )
    from blindharmony.serve.security import listening

    with listening("127.0.0.1", None) as one, listening("127.0.0.1", None) as two:
        assert one.getsockname()[1] != two.getsockname()[1]


def test_missing_packages_are_one_line_with_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "fastapi" else object())
    assert main(["serve", "--folder", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err == "blindharmony: the page needs fastapi; install them with: pip install 'blindharmony[ui]'\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--target", "nowhere.safetensors"], "nowhere.safetensors: cannot be read (No such file or directory)"),
        (["--target", __file__], "not a target model"),
        (["--host", "no.such.host.invalid"], "cannot listen at no.such.host.invalid"),
        (["--n-procs", "0"], "--n-procs is less than 1"),
        (["--port", "70000"], "there is no port 70000"),
    ],
)
def test_wrong_use_is_one_line(tmp_path, words, said, capsys):
    assert main(["serve", "--folder", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_the_help_needs_nothing(capsys):
    with pytest.raises(SystemExit) as end:
        main(["serve", "--help"])
    assert end.value.code == 0
    assert "--max-upload-mb" in capsys.readouterr().out


def _head(seed, tmp_path):
    head = synthetic_brain(*head_grid(seed), seed=seed)
    file = tmp_path / f"head{seed}.nii.gz"
    nib.save(nib.Nifti1Image(head.data, head.affine), file)
    return file.read_bytes()


@pytest.mark.slow
def test_real_scans_alone_and_together(start, tmp_path, tiny_target_file):
    live = start("--target", tiny_target_file, "--quiet", command=REAL_SERVER)
    page = live.ask("/")[1].decode()
    target = page.split('<option value="')[1].split('"')[0]
    heads = {f"head {seed}.nii.gz": _head(seed, tmp_path) for seed in (0, 1)}
    first = dict([next(iter(heads.items()))])
    alone = live.add(first, target=target)
    together = live.add({**heads, "noise.nii.gz": _noise(tmp_path)}, target=target, together=True)
    job = live.until(alone, "done", "failed", seconds=900)
    assert job["state"] == "done", job
    assert job["target"] == "tiny"
    assert job["scans"][0]["verdict"]
    found = zipfile.ZipFile(io.BytesIO(live.ask(job["zip"])[1]))
    assert found.testzip() is None
    assert sorted(found.namelist()) == [
        "head-0_desc-brain_mask.nii.gz",
        "head-0_desc-harmonized.html",
        "head-0_desc-harmonized.json",
        "head-0_desc-harmonized.nii.gz",
        "head-0_desc-harmonized.viewer.html",
    ]
    job = live.until(together, "done", "failed", seconds=1800)
    assert [bool(s["files"]) for s in job["scans"]] == [True, True, False]
    assert job["scans"][2]["reason"]
    said = json.loads(live.ask(next(f["url"] for f in job["scans"][0]["files"] if f["name"].endswith("json")))[1])
    assert said["Parameters"]["Scanner"]["Scans"] == 2
    assert live.peak_mb() < 200
    live.end(signal.SIGINT)


def _noise(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((32, 32, 32), np.float32), np.eye(4)), tmp_path / "noise.nii.gz")
    return (tmp_path / "noise.nii.gz").read_bytes()


def test_a_folder_of_others_is_left_alone(tmp_path, capsys):
    scan = tmp_path / "incoming" / "sub-01_T1w.nii.gz"
    scan.parent.mkdir()
    scan.write_text("mine")
    tmp_path.chmod(0o775)
    assert main(["serve", "--folder", str(tmp_path)]) == 1
    assert "holds files that are not the page's; choose a new or empty --folder" in capsys.readouterr().err
    assert scan.read_text() == "mine"
    assert tmp_path.stat().st_mode & 0o777 == 0o775
