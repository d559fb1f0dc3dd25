"""Durable jobs, from the request to the picture, through cancellations, crashes and restarts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
from tests.manager.gateway.conftest import Served, serving, wait_for


def finished(client: httpx2.Client, id: str) -> dict[str, Any]:
    def over() -> dict[str, Any] | None:
        job: dict[str, Any] = client.get(f"/v1/jobs/{id}").json()
        return job if job["status"] not in ("queued", "generating") else None

    found: dict[str, Any] = wait_for(over, f"the end of {id}")
    return found


def has_status(client: httpx2.Client, id: str, status: str) -> None:
    wait_for(lambda: client.get(f"/v1/jobs/{id}").json()["status"] == status, status)


def test_a_job_and_its_events(served: Served) -> None:
    with served.client() as client:
        answer = client.post("/v1/jobs", json={"prompt": "a cat", "steps": 3, "seed": 5})
        assert answer.status_code == 202
        job = answer.json()
        assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
        with client.stream("GET", job["links"]["events"]) as stream:
            lines = list(stream.iter_lines())
        ids = [int(line[4:]) for line in lines if line.startswith("id: ")]
        types = [line[7:] for line in lines if line.startswith("event: ")]
        assert ids == sorted(set(ids))
        assert types[0] == "queued"
        assert types[-1] == "completed"
        done = client.get(f"/v1/jobs/{job['id']}").json()
        assert done["result"]["images"][0]["seed"] == 42
        picture = client.get(done["result"]["images"][0]["url"])
        assert picture.headers["content-type"] == "image/png"
        again = {"Last-Event-ID": str(ids[-1] - 1)}
        with client.stream("GET", job["links"]["events"], headers=again) as stream:
            rest = [line for line in stream.iter_lines() if line.startswith("event: ")]
        assert rest == ["event: completed"]


def test_idempotency(served: Served) -> None:
    with served.client() as client:
        body = {"prompt": "a cat", "steps": 1}
        key = {"Idempotency-Key": "one"}
        first = client.post("/v1/jobs", json=body, headers=key)
        second = client.post("/v1/jobs", json=body, headers=key)
        assert (first.status_code, second.status_code) == (202, 200)
        assert first.json()["id"] == second.json()["id"]
        other = client.post("/v1/jobs", json={**body, "steps": 2}, headers=key)
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")


def test_native_jobs_are_the_same_jobs(served: Served) -> None:
    with served.client() as client:
        answer = client.post("/sdcpp/v1/img_gen", json={"prompt": "x", "model": "other"})
        assert answer.status_code == 202
        receipt = answer.json()
        finished(client, receipt["id"])
        job = client.get(receipt["poll_url"]).json()
        assert job["status"] == "completed"
        assert job["result"]["images"][0]["b64_json"].startswith("iVBOR")
        assert client.post("/sdcpp/v1/img_gen", json={"prompt": "x", "sample_steps": 3}).status_code == 400
        assert client.post("/sdcpp/v1/img_gen", json={"prompt": ""}).status_code == 400
        assert client.get("/sdcpp/v1/jobs/job_none").status_code == 404
        assert client.get("/sdcpp/v1/capabilities").json()["models"] == ["darkroom", "other"]


def test_cancel_a_running_and_a_waiting_job(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.client() as client:
        served.set_flags("darkroom", "--fake-step", "0.05")
        body = {"prompt": "x", "steps": 1000}
        ids = [client.post("/v1/jobs", json=body).json()["id"] for _ in range(10)]
        has_status(client, ids[0], "generating")
        assert client.get(f"/v1/jobs/{ids[9]}").json()["status"] == "queued"
        for id in reversed(ids):
            assert client.delete(f"/v1/jobs/{id}").json()["status"] == "cancelled"
        assert finished(client, client.post("/v1/jobs", json={"prompt": "x"}).json()["id"])["result"]


def test_a_crash_fails_the_job_with_the_last_lines_and_a_retry_works(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.client() as client:
        crash = tmp_path / "crash"
        crash.touch()
        served.set_flags("other", "--fake-crash", str(crash))
        job = client.post("/v1/jobs", json={"prompt": "x", "model": "other"}).json()
        failed = finished(client, job["id"])
        assert failed["status"] == "failed"
        assert any("Segmentation fault" in line for line in failed["error"]["details"]["tail"])
        crash.unlink()
        assert client.post(f"/v1/jobs/{job['id']}/retry").status_code == 202
        done = finished(client, job["id"])
        assert (done["status"], done["attempt"]) == ("completed", 2)
        assert client.post(f"/v1/jobs/{job['id']}/retry").status_code == 409


def test_pages_of_jobs(served: Served) -> None:
    with served.client() as client:
        made = [client.post("/v1/jobs", json={"prompt": "x"}).json()["id"] for _ in range(3)]
        for id in made:
            finished(client, id)
        page = client.get("/v1/jobs", params={"limit": 2}).json()
        assert [job["id"] for job in page["data"]] == [made[2], made[1]]
        assert page["has_more"]
        rest = client.get("/v1/jobs", params={"limit": 1, "before": made[1]}).json()
        assert rest["data"][0]["id"] == made[0]
        done = client.get("/v1/jobs", params={"status": "completed", "limit": 100}).json()["data"]
        assert set(made) <= {job["id"] for job in done}
        assert client.get("/v1/jobs", params={"status": "nonsense"}).status_code == 400


def test_a_killed_manager_leaves_nothing_and_loses_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        served.set_flags("darkroom", "--fake-step", "0.05")
        with served.client() as client:
            body = {"prompt": "x", "steps": 1000}
            ids = [client.post("/v1/jobs", json=body).json()["id"] for _ in range(8)]
            has_status(client, ids[0], "generating")
            waiting = client.post("/v1/jobs", json={"prompt": "x", "steps": 2}).json()["id"]
            assert client.get(f"/v1/jobs/{waiting}").json()["status"] == "queued"
        before = {process.pid for process in served.sidecars()}
        assert before
        served.kill()
        served.start()
        wait_for(lambda: not before & {p.pid for p in served.sidecars()}, "the old sidecars gone")
        with served.client() as client:
            job = client.get(f"/v1/jobs/{ids[0]}").json()
            assert (job["status"], job["error"]["code"]) == ("interrupted", "interrupted")
            assert client.get(f"/sdcpp/v1/jobs/{ids[0]}").json()["status"] == "failed"
            with client.stream("GET", f"/v1/jobs/{ids[0]}/events") as stream:
                assert "event: interrupted" in list(stream.iter_lines())
            assert finished(client, waiting)["status"] == "completed"


def test_a_manager_that_is_told_to_stop_interrupts_what_does_not_end(tmp_path: Path) -> None:
    with serving(tmp_path, drain_timeout=0.2) as served:
        served.set_flags("darkroom", "--fake-step", "0.05")
        with served.client() as client:
            id = client.post("/v1/jobs", json={"prompt": "x", "steps": 1000}).json()["id"]
            has_status(client, id, "generating")
        assert served.stop() == 0
        assert not served.sidecars()
        served.start()
        with served.client() as client:
            assert client.get(f"/v1/jobs/{id}").json()["status"] == "interrupted"
