"""Jobs go one after the other, fail with a reason, can be cancelled, tried again and deleted, and survive restarts."""

import io
import json
import os
import zipfile

import pytest


def test_a_job_is_done_and_its_results_can_be_fetched(site, scan_bytes):
    job = site.until(site.add(scan_bytes, "Anna <b>.nii.gz"), "done")
    (scan,) = job["scans"]
    assert scan["name"] == job["title"] == "Anna <b>.nii.gz"
    assert scan["verdict"] == "good"
    assert [f["what"] for f in scan["files"]][:2] == ["The harmonized scan", "The report"]
    file = site.client.get(scan["files"][0]["url"])
    assert "attachment" in file.headers["content-disposition"]
    assert len(file.content) == scan["files"][0]["size"]
    for page in (scan["report"], scan["viewer"]):
        answer = site.client.get(page)
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "sandbox allow-scripts" in answer.headers["content-security-policy"]
        assert "allow-same-origin" not in answer.headers["content-security-policy"]
    names = zipfile.ZipFile(io.BytesIO(site.client.get(job["zip"]).content)).namelist()
    assert names == [f["name"] for f in scan["files"]]
    pictures = [site.client.get(url) for url in scan["pictures"]]
    assert [(p.headers["content-type"], p.content[:2]) for p in pictures] == [("image/jpeg", b"\xff\xd8")] * 2
    other = scan["pictures"][0].replace("_before.jpg", "_desc-harmonized.json")
    assert site.client.get(other).status_code == 404, "only pictures that the job lists"


def test_it_says_how_long_waiting_and_running_jobs_take(site, scan_bytes):
    guessed = site.client.get("/api/jobs").json()["scan_seconds"]
    first, second = site.add(scan_bytes, "slow.nii.gz"), site.add(scan_bytes, "b.nii.gz", "c.nii.gz")
    running = site.until(first, "running")
    waiting = site.job(second)
    assert 0 < running["left"] < guessed
    assert waiting["left"] == pytest.approx(site.job(first)["left"] + 2 * guessed, abs=5)
    site.client.post(f"/api/jobs/{first}/cancel")
    site.until(second, "done")
    assert site.job(second)["left"] == 0
    assert site.client.get("/api/jobs").json()["scan_seconds"] < guessed, "what was done tells how fast this machine is"


@pytest.mark.long
def test_all_results_come_in_folders_that_are_told_apart(site, scan_bytes):
    jobs = [site.add(scan_bytes, "a.nii.gz") for _ in range(2)]
    for job in jobs:
        site.until(job, "done")
    found = zipfile.ZipFile(io.BytesIO(site.client.get("/results.zip").content))
    assert found.testzip() is None
    assert {name.split("/")[0] for name in found.namelist()} == {"a", "a-2"}
    assert len(found.namelist()) == 8


@pytest.mark.long
def test_two_jobs_queue(site, scan_bytes, diary):
    first, second = site.add(scan_bytes, "slow.nii.gz"), site.add(scan_bytes, "b.nii.gz")
    assert site.until(first, "running")["stage"] == "Harmonizing"
    assert site.job(second)["state"] == "queued"
    assert site.job(second)["before"] == 0
    site.client.post(f"/api/jobs/{first}/cancel")
    site.until(second, "done")
    assert site.job(first)["state"] == "cancelled"
    assert [line.split()[0] for line in diary()] == ["slow.nii.gz", "b.nii.gz"]


def test_several_processes_share_the_cores(make_site, scan_bytes, diary):
    site = make_site(processes=2)
    jobs = [site.add(scan_bytes, f"slow{i}.nii.gz") for i in range(3)]
    for job in jobs[:2]:
        site.until(job, "running")
    assert site.job(jobs[2])["state"] == "queued"
    cores = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {line.split()[2] for line in diary()} == {str(cores)}


def test_scans_of_one_scanner_are_one_job(site, scan_bytes, diary):
    job = site.until(site.add(scan_bytes, "a.nii.gz", "fail.nii.gz", "a.nii.gz", together=True), "done")
    assert job["together"]
    assert job["title"] == "a.nii.gz and 2 more"
    assert [bool(s["files"]) for s in job["scans"]] == [True, False, True]
    assert job["scans"][1]["reason"] == "no brain was found"
    assert len(diary()) == 1
    names = zipfile.ZipFile(io.BytesIO(site.client.get(job["zip"]).content)).namelist()
    assert len(set(names)) == 8


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model", "no such target model"),
        ("die", "want of memory"),
        ("exit", "ended unexpectedly"),
        ("mad", "internal error"),
    ],
)
@pytest.mark.long
def test_a_failed_job_says_why(site, scan_bytes, name, words):
    job = site.until(site.add(scan_bytes, f"{name}.nii.gz"), "failed")
    assert words in job["reason"]
    assert job["remedy"]
    # The lane goes on.
    site.until(site.add(scan_bytes, "b.nii.gz"), "done")


def test_a_failed_scan_says_why_and_can_be_tried_again(site, scan_bytes, diary):
    job = site.add(scan_bytes, "fail.nii.gz")
    assert site.until(job, "failed")["scans"][0]["remedy"] == "check the scan"
    assert site.client.post(f"/api/jobs/{job}/again").status_code == 204
    site.until(job, "failed")
    assert len(diary()) == 2


def test_cancelling_ends_the_worker_and_leaves_no_results(site, scan_bytes, diary):
    job = site.add(scan_bytes, "slow.nii.gz")
    site.until(job, "running")
    assert site.client.delete(f"/api/jobs/{job}").status_code == 409
    site.client.post(f"/api/jobs/{job}/cancel")
    site.until(job, "cancelled")
    pid = int(diary()[0].split()[1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not site.store.results(job).exists()


def test_deleting_removes_scan_and_results(site, scan_bytes):
    job = site.until(site.add(scan_bytes, "a.nii.gz"), "done")
    assert site.client.delete(f"/api/jobs/{job['id']}").status_code == 204
    assert site.job(job["id"]) is None
    assert site.client.get(job["zip"]).status_code == 404
    assert [p for p in site.store.folder.rglob("*") if p.is_file()] == []


@pytest.mark.long
def test_stopping_puts_the_running_job_back_and_a_restart_finishes_it(make_site, scan_bytes, diary):
    site = make_site()
    done, slow, waits = (site.add(scan_bytes, f"{n}.nii.gz") for n in ("a", "slow", "b"))
    site.until(slow, "running")
    site.close()
    on_disk = json.loads((site.store.place(slow) / "job.json").read_text())
    assert on_disk["state"] == "queued"
    assert on_disk["interrupted"] == 0
    again = make_site()
    assert again.job(done)["state"] == "done"
    again.until(slow, "running")
    assert again.job(waits)["state"] == "queued"
    again.client.post(f"/api/jobs/{slow}/cancel")
    again.until(waits, "done")
    assert [line.split()[0] for line in diary()] == ["a.nii.gz", "slow.nii.gz", "slow.nii.gz", "b.nii.gz"]
