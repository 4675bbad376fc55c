"""Nobody but this page, in a browser that was given the link, is answered; and nothing is kept or loaded elsewhere."""

import re

import pytest
from fastapi.testclient import TestClient
from serve_site import SITE

from blindharmony.serve.security import Door

EVERYTHING = (
    ("GET", "/api/jobs"),
    ("GET", "/script.js"),
    ("GET", "/results.zip"),
    ("GET", "/jobs/0000000000000000/results.zip"),
    ("GET", "/jobs/0000000000000000/files/a"),
    ("PUT", "/api/uploads?name=a.nii"),
    ("POST", "/api/jobs"),
    ("POST", "/api/jobs/0000000000000000/cancel"),
    ("DELETE", "/api/jobs/0000000000000000"),
)


@pytest.fixture
def stranger(site):
    return TestClient(site.app, base_url=SITE, headers={"origin": SITE}, follow_redirects=False)


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
def test_without_the_link_nothing_is_answered(stranger, site, method, path):
    assert stranger.request(method, path).status_code == 403
    wrong = {"cookie": f"{site.door.cookie}={'1' * 32}"}
    assert stranger.request(method, path, headers=wrong).status_code == 403


def test_cookies_of_other_programs_do_not_lock_anybody_out(stranger, site):
    for other in ('a={"b": [1, 2]}', "=", "a b=c", '"'):
        both = f"{other}; {site.door.cookie}={site.door.token}; z={other}"
        assert stranger.get("/api/jobs", headers={"cookie": both}).status_code == 200


def test_a_wrong_token_gets_no_cookie_and_no_page(stranger):
    for token in ("", "1" * 32, "é"):
        answer = stranger.get("/", params={"token": token})
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert "with its link" in answer.text


def test_the_link_is_exchanged_for_a_cookie_that_no_script_can_read(stranger, site):
    answer = stranger.get("/", params={"token": site.door.token})
    assert answer.headers["location"] == "/"
    assert re.search("httponly.*samesite=(lax|strict)", answer.headers["set-cookie"].lower())


@pytest.mark.parametrize("host", ["evil.example:8642", "evil.example", "127.0.0.1", "127.0.0.1:80", "", "localhost"])
def test_a_foreign_host_name_is_refused(site, host):
    assert site.client.get("/api/jobs", headers={"host": host}).status_code == 421
    assert site.client.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", "http://127.0.0.1:8643", "https://127.0.0.1:8642"]
)
@pytest.mark.long
def test_a_foreign_page_can_change_nothing(site, scan_bytes, origin):
    job = site.until(site.add(scan_bytes, "a.nii.gz"), "done")["id"]
    for method, path in (("DELETE", f"/api/jobs/{job}"), ("PUT", "/api/uploads?name=a.nii"), ("POST", "/api/jobs")):
        assert site.client.request(method, path, headers={"origin": origin}).status_code == 403
    assert site.job(job)


def test_who_does_not_say_where_from_can_change_nothing(site):
    bare = TestClient(site.app, base_url=SITE, cookies={site.door.cookie: site.door.token})
    assert bare.get("/api/jobs").status_code == 200
    assert bare.post("/api/jobs/0000000000000000/cancel").status_code == 403


@pytest.mark.parametrize("said", ["cross-site", "same-site"])
def test_a_foreign_page_can_load_nothing(site, said):
    for path in ("/api/jobs", "/script.js", "/results.zip"):
        assert site.client.get(path, headers={"sec-fetch-site": said}).status_code == 403


def test_every_answer_says_that_it_is_private(site, scan_bytes):
    job = site.until(site.add(scan_bytes, "a.nii.gz"), "done")
    paths = ["/", "/style.css", "/script.js", "/api/jobs", "/nothing", "/results.zip", job["zip"]]
    paths += [f["url"] for f in job["scans"][0]["files"]] + [job["scans"][0]["report"]]
    for path in paths:
        headers = site.client.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "default-src 'none'" in headers["content-security-policy"]
    policy = site.client.get("/").headers["content-security-policy"]
    assert "unsafe" not in policy


def test_page_style_and_script_name_nothing_outside(site):
    for path in ("/", "/style.css", "/script.js"):
        text = site.client.get(path).text
        assert not re.search(r"(https?:)?//[a-z0-9]", text.replace("//$", "")), path
    page = site.client.get("/").text
    assert " style=" not in page
    assert not re.search(r"\son\w+=", page)
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b", site.client.get("/script.js").text)


@pytest.mark.parametrize("name", ["../job.json", "..%2Fjob.json", "%2e%2e%2fjob.json", "job.json", "%00", "a.nii.gz"])
@pytest.mark.long
def test_only_listed_results_are_given_out(site, scan_bytes, name):
    job = site.until(site.add(scan_bytes, "a.nii.gz"), "done")["id"]
    for kind in ("files", "pages"):
        answer = site.client.get(f"/jobs/{job}/{kind}/{name}")
        assert answer.status_code == 404
        assert "scans" not in answer.text
    for wrong in ("..", "%2e%2e", "0" * 15, "G" * 16):
        assert site.client.get(f"/jobs/{wrong}/files/job.json").status_code in (404, 422)


def test_what_is_not_understood_is_refused_without_echo(site):
    asked = {"uploads": ["../../x"], "target": "<script>", "together": True}
    answer = site.client.post("/api/jobs", json=asked)
    assert answer.status_code == 422
    assert "script" not in answer.text
    for body in (b"{", b"[]", b"{" * 100_000):
        assert site.client.post("/api/jobs", content=body).status_code in (413, 422)
    long = site.client.post("/api/jobs", content=b" " * 2**21, headers={"content-type": "application/json"})
    assert long.status_code == 413


def test_a_target_that_is_not_offered_is_refused(site, scan_bytes):
    ids = [site.upload("a.nii.gz", scan_bytes).json()["id"]]
    for target in ("/etc/passwd", "", "other"):
        asked = {"uploads": ids, "target": target}
        assert site.client.post("/api/jobs", json=asked).status_code == 409
    twice = {"uploads": ids * 2, "target": "ds002748"}
    assert site.client.post("/api/jobs", json=twice).status_code == 409


def test_with_another_host_addresses_and_own_names_are_welcome_and_foreign_names_are_not():
    door = Door("0.0.0.0", 80, "t")
    assert door.welcome("192.168.1.9:80")
    assert door.welcome("localhost:80")
    assert not door.welcome("evil.example:80")
    assert Door("scanner-room.example", 80, "t").welcome("scanner-room.example:80")
