"""What lies on disk decides: damaged records are left alone, half jobs are swept, killers of the program end."""

import json

import pytest

from blindharmony.serve.store import State, Store, Upload, Uploads


@pytest.fixture
def make_store(tmp_path):
    return lambda: Store(tmp_path / "s", Uploads(tmp_path / "s" / "incoming", room=0))


def put(store, *names):
    uploads = []
    for name in names:
        path = store.uploads.folder / name.replace(".", "") / name
        path.parent.mkdir()
        path.write_text("scan")
        uploads.append(Upload(path.parent.name, name, name, 4, path))
    return store.add(uploads, target="t", target_name="t", together=len(names) > 1)


def test_jobs_are_there_again_in_their_order(make_store):
    store = make_store()
    jobs = [put(store, f"{n}.nii") for n in "cab"]
    assert make_store().all() == jobs
    assert [store.scan(j, j.scans[0].leaf).read_text() for j in jobs] == ["scan"] * 3


def test_only_its_owner_may_look_in(make_store):
    store = make_store()
    job = put(store, "a.nii")
    for folder in (store.folder, store.folder / "jobs", store.folder / "incoming"):
        assert folder.stat().st_mode & 0o077 == 0
    assert store.scan(job, "a.nii").exists()


def test_a_job_that_was_running_goes_back_but_not_for_ever(make_store):
    job = put(make_store(), "a.nii")
    for state in (State.QUEUED, State.QUEUED, State.FAILED):
        store = make_store()
        store.change(job.id, lambda j: j.model_copy(update={"state": State.RUNNING}))
        found = make_store().get(job.id)
        assert found.state is state
    assert "3 times" in found.reason


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"id": "0000000000000000"}',
        json.dumps({"id": "f" * 16, "created": 1, "target": "t", "target_name": "t", "scans": []}),
        json.dumps(
            {
                "id": "0" * 16,
                "created": 1,
                "target": "t",
                "target_name": "t",
                "scans": [{"label": "x", "leaf": "../../x.nii", "size": 1}],
            }
        ),
    ],
)
def test_a_damaged_record_is_left_alone_and_said(make_store, content):
    store = make_store()
    odd = store.folder / "jobs" / ("0" * 16)
    odd.mkdir()
    (odd / "job.json").write_text(content)
    job = put(store, "a.nii")
    again = make_store()
    assert again.odd == [odd]
    assert again.all() == [job]
    assert (odd / "job.json").read_text() == content


def test_what_was_half_made_or_half_removed_is_swept(make_store):
    store = make_store()
    job = put(store, "a.nii")
    for place in ("incoming/job-1/scans", "removed/x", "incoming/y"):
        (store.folder / place).mkdir(parents=True)
    (store.place(job.id) / ".job.1-2.tmp.json").write_text("half")
    assert make_store().all() == [job]
    left = sorted(p.name for p in store.folder.rglob("*") if p.is_file())
    assert left == ["a.nii", "job.json"]


def test_a_clock_that_was_set_back_does_not_turn_the_queue_round(make_store, monkeypatch):
    store = make_store()
    first = put(store, "a.nii")
    monkeypatch.setattr("time.time", lambda: 1.0)
    assert [j.id for j in store.all()] == [first.id]
    assert put(store, "b.nii").created > first.created


def test_a_full_disk_is_said_when_a_job_is_made(make_store, monkeypatch):
    from blindharmony.errors import OutputError

    store = make_store()

    def full(*_, **__):
        raise OutputError("the disk is full")

    monkeypatch.setattr("blindharmony.serve.store.write_text", full)
    with pytest.raises(OutputError):
        put(store, "a.nii")
    assert store.all() == []
    # The upload is still there for another try.
    assert [p.relative_to(store.uploads.folder).as_posix() for p in store.uploads.folder.rglob("*.nii")] == [
        "anii/a.nii"
    ]
