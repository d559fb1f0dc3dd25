"""Requests find their model: by field, header, alias; each loaded once, when it is wanted."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from tests.manager.gateway.conftest import Served, serving, wait_for

from darkroom.api.a1111.samplers import SAMPLERS

GENERATE = "/v1/images/generations"


def draw(client: httpx2.Client, model: str | None = None, **fields: object) -> httpx2.Response:
    body = {"prompt": "a cat", **({"model": model} if model else {}), **fields}
    return client.post(GENERATE, json=body)


def test_each_model_has_a_process_of_its_own(served: Served) -> None:
    with served.client() as client:
        first = draw(client, "darkroom").json()["fake"]["pid"]
        second = draw(client, "other").json()["fake"]["pid"]
        assert first != second
        assert draw(client, "darkroom").json()["fake"]["pid"] == first
        listed = {m["id"]: m for m in client.get("/v1/models").json()["data"]}
    assert listed["darkroom"]["loaded"]
    assert listed["other"]["family"] == "sd1"
    assert listed["other"]["size"] > 1_000_000


def test_an_unknown_model_is_named(served: Served) -> None:
    with served.client() as client:
        answer = draw(client, "othr")
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "other" in error["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_starter_models_tell_their_size(served: Served) -> None:
    with served.client() as client:
        rows = client.get("/v1/catalogue").json()["data"]
    assert rows
    assert all(row["size"] > 0 for row in rows)


def test_names_can_be_given_and_taken_back(served: Served) -> None:
    with served.client() as client:
        assert client.put("/admin/aliases/mine", params={"model": "other"}).json() == {"mine": "other"}
        assert draw(client, "mine").status_code == 200
        assert client.get("/v1/models/mine/components").json()["model"] == "other"
        assert client.put("/admin/aliases/other", params={"model": "darkroom"}).status_code == 400
        assert client.delete("/admin/aliases/mine").json() == {}
        assert draw(client, "mine").status_code == 404


def test_bad_requests_load_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.client() as client:
        assert draw(client, "other", n=11).status_code == 400
        assert draw(client, "other", size="big").json()["error"]["param"] == "size"
        assert client.post(GENERATE, content=b"{").json()["error"]["code"] == "invalid_json"
        assert client.post(GENERATE, content=b"x", headers={"Content-Type": "text/x"}).status_code == 415
        picture = ("a.png", b"no picture", "image/png")
        edit = client.post("/v1/images/edits", data={"prompt": "x"}, files={"image": picture})
        assert edit.json()["error"]["code"] == "invalid_image_file"
        assert served.notes("start") == 0


def test_many_clients_of_a_cold_model_cause_one_load(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        served.set_flags("other", "--fake-load", "1", "--fake-step", "0.001")

        def one(_: int) -> int:
            with served.client() as client:
                return draw(client, "other").status_code

        with ThreadPoolExecutor(50) as clients:
            assert list(clients.map(one, range(50))) == [200] * 50
        assert served.notes("start") == 1
        assert served.notes("picture") == 50


def test_keep_alive_of_a_request(served: Served) -> None:
    with served.client() as client:
        assert draw(client, "other", keep_alive=0).status_code == 200

        def is_gone() -> bool:
            states = {m["model"]: m["state"] for m in client.get("/admin/pool").json()["models"]}
            return states["other"] == "absent"

        wait_for(is_gone, "the model unloaded")
        assert draw(client, "other", keep_alive="soon").status_code == 400


def test_streams_come_through(served: Served) -> None:
    body = {"prompt": "a cat", "stream": True, "partial_images": 2}
    with served.client() as client, client.stream("POST", GENERATE, json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        types = [line.partition(" ")[2] for line in answer.iter_lines() if line.startswith("event")]
    assert types == [*["image_generation.partial_image"] * 2, "image_generation.completed"]


def test_aliases_and_openais_names(tmp_path: Path) -> None:
    names = {"aliases": {"cats": "other"}, "openai_aliases": True, "default_model": "other"}
    with serving(tmp_path, **names) as served, served.client() as client:
        pid = draw(client, "other").json()["fake"]["pid"]
        for name in ("cats", "gpt-image-1", None):
            assert draw(client, name).json()["fake"]["pid"] == pid
        ids = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert {"cats", "gpt-image-1", "darkroom", "other"} <= set(ids)


def test_openais_names_are_off_until_set(served: Served) -> None:
    with served.client() as client:
        assert draw(client, "gpt-image-1").status_code == 404


def test_a1111_chooses_by_field_header_and_option(served: Served) -> None:
    with served.client() as client:

        def model_of(answer: httpx2.Response) -> str:
            assert answer.status_code == 200, answer.text
            states = client.get("/admin/pool").json()["models"]
            return str(min(states, key=lambda m: m["idle_seconds"] or 1e9)["model"])

        override = {"override_settings": {"sd_model_checkpoint": "other"}}
        assert model_of(client.post("/sdapi/v1/txt2img", json={"prompt": "x", **override})) == "other"
        header = {"X-Model": "darkroom"}
        answer = client.post("/sdapi/v1/txt2img", json={"prompt": "x"}, headers=header)
        assert model_of(answer) == "darkroom"
        assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "other"}).status_code == 200
        assert client.get("/sdapi/v1/options").json()["sd_model_checkpoint"] == "other"
        assert model_of(client.post("/sdapi/v1/txt2img", json={"prompt": "x"})) == "other"
        titles = [model["title"] for model in client.get("/sdapi/v1/sd-models").json()]
        assert titles == ["darkroom", "other"]
        assert len(client.get("/sdapi/v1/samplers").json()) == len(SAMPLERS) + 1
        assert client.get("/sdapi/v1/loras").json() == []
        assert client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "nope"}).status_code == 404
        client.post("/sdapi/v1/options", json={"sd_model_checkpoint": "darkroom"})


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.client() as client:
        served.set_flags("other", "--fake-load-fault", "error: tensor 'first' is missing")
        answer = draw(client, "other")
        error = answer.json()["error"]
        assert answer.headers["x-should-retry"] == "false"
        assert error["code"] == "model_load_failed"
        assert any("tensor 'first'" in line for line in error["details"]["tail"])
        for _ in range(2):
            draw(client, "other")
        answer = draw(client, "other")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "quarantined")
        assert int(answer.headers["Retry-After"]) > 0
        log = client.get("/admin/logs/other").text
        assert "tensor 'first'" in log


def test_memory_that_is_short_costs_a_rung_not_the_request(tmp_path: Path) -> None:
    with serving(tmp_path) as served, served.client() as client:
        served.set_flags("other", "--fake-draw-oom", "2")
        assert draw(client, "other").status_code == 200
        status = next(m for m in client.get("/admin/pool").json()["models"] if m["model"] == "other")
        assert status["rung"] == 2


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A manager whose engine speaks like stable-diffusion.cpp's."""
    home = tmp_path_factory.mktemp("upstream")
    with serving(home) as served:
        served.stop()
        served.config["engine"] = str(served.upstream)
        yield served.start()


def test_another_engine_is_translated_for(upstream: Served) -> None:
    with upstream.client() as client:
        answer = draw(client, seed=7, steps=2, n=2)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-partial-images"] == "unsupported"
        assert len(answer.json()["data"]) == 2
        assert "usage" not in answer.json()
        body = {"prompt": "x", "stream": True, "partial_images": 3}
        with client.stream("POST", GENERATE, json=body) as stream:
            types = [line for line in stream.iter_lines() if line.startswith("event")]
        assert types == ["event: image_generation.completed"]
        job = client.post("/v1/jobs", json={"prompt": "x", "steps": 3}).json()
        done = wait_for(lambda: _finished(client, job["id"]), "the job")
        assert done["status"] == "completed"
        link = done["result"]["images"][0]["url"]
        assert base64.b64encode(client.get(link).content).startswith(b"iVBOR")


def test_another_engine_that_runs_out_of_memory_finds_a_rung(upstream: Served) -> None:
    """It answers a plain 500 and prints why."""
    upstream.set_flags("other", "--fake-draw-oom", "2")
    with upstream.client() as client:
        answer = draw(client, "other", steps=1)
        assert answer.status_code == 200, answer.text
        (status,) = (m for m in client.get("/admin/pool").json()["models"] if m["model"] == "other")
        assert status["rung"] == 2
        job = client.post("/v1/jobs", json={"model": "other", "prompt": "x", "steps": 1}).json()
        assert wait_for(lambda: _finished(client, job["id"]), "the job")["status"] == "completed"


def test_a_job_of_another_engine_finds_a_rung(upstream: Served) -> None:
    upstream.set_flags("darkroom", "--fake-draw-oom", "1")
    with upstream.client() as client:
        client.post("/admin/models/darkroom/unload")
        job = client.post("/v1/jobs", json={"model": "darkroom", "prompt": "x", "steps": 1}).json()
        done = wait_for(lambda: _finished(client, job["id"]), "the job")
        assert done["status"] == "completed", done


def _finished(client: httpx2.Client, id: str) -> dict[str, object] | None:
    job = client.get(f"/v1/jobs/{id}").json()
    return job if job["status"] not in ("queued", "generating") else None
