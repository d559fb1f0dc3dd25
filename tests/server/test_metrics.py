from __future__ import annotations

import json
import uuid

from prometheus_client.parser import text_string_to_metric_families
from tests.server.conftest import RunningServer, StartServer, wait_for

PROMPT = "a secret red circle"


def figures(server: RunningServer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = server.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_picture_is_counted(server: RunningServer) -> None:
    def count(name: str, **labels: str) -> float:
        return after.get(key := (name, tuple(sorted(labels.items()))), 0.0) - before.get(key, 0.0)

    before = figures(server)
    body = {"prompt": PROMPT, "steps": 3, "batch_size": 2}
    assert server.http.post("/sdapi/v1/txt2img", json=body).status_code == 200
    after = figures(server)
    assert count("darkroom_jobs_queued_total", api="a1111") == 1
    assert count("darkroom_jobs_ended_total", api="a1111", status="completed") == 1
    assert count("darkroom_images_total", api="a1111") == 2
    assert count("darkroom_pixels_total", api="a1111") == 2 * 256 * 256
    assert count("darkroom_queue_wait_seconds_count") == 1
    assert count("darkroom_step_seconds_count") in (3, 6)  # one batch, or one picture after the other
    for phase in ("encode_text", "sample", "decode"):
        assert count("darkroom_generate_seconds_count", phase=phase) == 1
    route = {"api": "a1111", "route": "/sdapi/v1/txt2img", "method": "POST", "status": "200"}
    assert count("darkroom_http_requests_total", **route) == 1
    assert after[("darkroom_queue_depth", ())] == 0
    assert after[("darkroom_model_loaded", ())] == 1
    assert after[("darkroom_model_load_seconds_count", ())] == 1
    assert after[("process_resident_memory_bytes", ())] > 10e6


def test_a_cancelled_job_is_counted_by_who_ended_it(server: RunningServer) -> None:
    key = ("darkroom_jobs_cancelled_total", (("by", "client"),))
    before = figures(server).get(key, 0.0)
    body = {"prompt": PROMPT, "sample_params": {"sample_steps": 200}}
    job = server.http.post("/sdcpp/v1/img_gen", json=body).json()
    server.http.post(job["cancel_url"])
    wait_for(lambda: figures(server).get(key, 0.0) == before + 1, "the cancel is counted")


def test_what_clients_send_makes_no_new_rows(server: RunningServer) -> None:
    before = set(figures(server))
    for n in range(3):
        server.http.get(f"/{uuid.uuid4()}/{n}")
        server.http.get(f"/sdcpp/v1/jobs/{uuid.uuid4()}")
        server.http.request(f"METHOD{n}", "/sdapi/v1/options")
    new = {labels for _, labels in set(figures(server)) - before}
    routes = {dict(labels).get("route") for labels in new}
    assert routes <= {None, "none", "/sdcpp/v1/jobs/{id}", "/sdapi/v1/options"}
    assert {dict(labels).get("method") for labels in new} <= {None, "GET", "other"}


def test_the_log_puts_a_job_and_its_request_together(start_server: StartServer) -> None:
    server = start_server("-v", "--log-format", "json")
    server.wait_until_ready()
    answer = server.http.post(
        "/v1/images/generations",
        json={"prompt": PROMPT, "size": "64x64", "steps": 1},
        headers={"X-Request-Id": "order-66"},
    )
    assert answer.status_code == 200, answer.text
    wait_for(lambda: any("/v1/images/generations" in line for line in server.log), "the request is logged")
    lines = [json.loads(line) for line in server.log if line.startswith("{")]
    ours = [line for line in lines if line.get("request") == "order-66"]
    (done,) = [line for line in ours if line["message"] == "request"]
    assert (done["method"], done["status"], done["api"]) == ("POST", 200, "openai")
    assert done["bytes"] == len(answer.content)
    assert done["ms"] > 0
    phases = [line for line in ours if line["logger"] == "darkroom.engine.report"]
    assert len(phases) >= 3
    assert {line["job"] for line in phases} == {done["job"]}
    state = server.http.get(f"/sdcpp/v1/jobs/{done['job']}").json()
    assert state["request_id"] == "order-66"
    assert not any("secret" in line for line in server.log)


def test_prompts_are_logged_where_that_is_asked_for(start_server: StartServer) -> None:
    server = start_server("--log-prompts")
    server.wait_until_ready()
    body = {"prompt": PROMPT, "width": 64, "height": 64, "steps": 1}
    assert server.http.post("/sdapi/v1/txt2img", json=body).status_code == 200
    wait_for(lambda: any("/sdapi/v1/txt2img" in line for line in server.log), "the request is logged")
    assert any(f'prompt="{PROMPT}"' in line for line in server.log)
    assert not any("/health" in line for line in server.log)  # who only looks is told of with -v
