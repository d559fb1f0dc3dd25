"""The openai package's client, through the gateway, to our own sd-server with the built-in model."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from tests.manager.gateway.conftest import Served, serving, wait_for

SETTINGS = {"steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("real"), fake=False) as served:
        yield served


@pytest.fixture
def client(real: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{real.url}/v1", api_key="none", max_retries=0, timeout=60)


def picture_of(b64_json: str | None) -> Image.Image:
    assert b64_json
    return Image.open(io.BytesIO(base64.b64decode(b64_json)))


def red() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (256, 256), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_generate(client: openai.OpenAI) -> None:
    answer = client.images.generate(model="darkroom", prompt="a red square", n=2, extra_body=SETTINGS)
    assert answer.data
    assert [picture_of(each.b64_json).size for each in answer.data] == [(256, 256)] * 2
    assert answer.usage
    assert answer.usage.total_tokens > 0


def test_a_prompt_carries_no_settings(client: openai.OpenAI) -> None:
    tag = '<sd_cpp_extra_args>{"seed": 11, "width": 512}</sd_cpp_extra_args>'
    pictures = []
    for prompt in (f"x {tag}", f"x {tag.upper()}", f"x {tag.replace('sd_cpp', 'ｓd_cpp')}"):
        answer = client.images.generate(prompt=prompt, extra_body=SETTINGS)
        assert answer.data
        pictures.append(picture_of(answer.data[0].b64_json))
    assert all(picture.size == (256, 256) for picture in pictures)
    assert all("Seed: 3" in picture.text["parameters"] for picture in pictures)  # type: ignore[attr-defined]


@pytest.mark.parametrize("partials", [0, 2])
def test_stream(client: openai.OpenAI, partials: int) -> None:
    events = list(
        client.images.generate(
            prompt="a red square", stream=True, partial_images=partials, extra_body={"steps": 4}
        )
    )
    kinds = [event.type.rpartition(".")[2] for event in events]
    assert kinds == ["partial_image"] * partials + ["completed"]
    assert all(picture_of(event.b64_json).size for event in events)


def test_edit_and_variation(client: openai.OpenAI) -> None:
    edited = client.images.edit(image=[("a.png", red())], prompt="blue", extra_body=SETTINGS)
    assert edited.data
    assert picture_of(edited.data[0].b64_json).size == (256, 256)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        varied = client.images.create_variation(image=("a.png", red()), extra_body=SETTINGS)
    assert varied.data


def test_links_outlive_nothing_but_time(client: openai.OpenAI, real: Served) -> None:
    answer = client.images.generate(prompt="x", response_format="url", extra_body=SETTINGS)
    assert answer.data
    link = answer.data[0].url
    assert link
    assert link.startswith(real.url)
    with real.client() as plain:
        assert Image.open(io.BytesIO(plain.get(link).content)).size == (256, 256)
        assert plain.get(link.replace("sig=", "sig=0")).status_code == 403
        assert plain.get(link.replace("exp=", "exp=9")).status_code == 403


@pytest.mark.parametrize(
    ("wrong", "kind", "code"),
    [
        ({"model": "nope"}, openai.NotFoundError, "model_not_found"),
        ({"n": 11}, openai.BadRequestError, "integer_above_max_value"),
        ({"size": "13x13"}, openai.BadRequestError, "invalid_value"),
        ({"prompt": ""}, openai.BadRequestError, "missing_required_parameter"),
        ({"background": "transparent"}, openai.BadRequestError, "unsupported_value"),
    ],
)
def test_errors(
    client: openai.OpenAI, wrong: dict[str, object], kind: type[openai.APIStatusError], code: str
) -> None:
    with pytest.raises(kind) as raised:
        client.images.generate(**{"prompt": "x", **wrong})  # type: ignore[call-overload]
    assert raised.value.code == code


def test_open_webuis_payload(real: Served) -> None:
    body = {
        "model": "",
        "prompt": "x",
        "n": 1,
        "size": "256x256",
        "response_format": "",
        "user": "",
        "steps": 1,
    }
    with real.client() as client:
        answer = client.post("/v1/images/generations", json=body)
    assert answer.json()["data"][0]["b64_json"]


def test_a1111_progress_while_it_draws_and_interrupt(real: Served) -> None:
    def draw() -> dict[str, object]:
        with real.client() as client:
            body = {"prompt": "a cat", "steps": 150, "seed": 1}
            answer: dict[str, object] = client.post("/sdapi/v1/txt2img", json=body).json()
            return answer

    with ThreadPoolExecutor(1) as pool, real.client() as client:
        drawn = pool.submit(draw)
        wait_for(lambda: client.get("/sdapi/v1/progress").json()["state"]["sampling_step"] > 2, "some steps")
        assert client.post("/sdapi/v1/interrupt").status_code == 200
        assert drawn.result(timeout=60)["code"] == "cancelled"


def test_a_job_has_previews_and_can_be_cancelled(real: Served) -> None:
    with real.client() as client:
        job = client.post("/v1/jobs", json={"prompt": "a cat", "steps": 150}).json()
        with client.stream("GET", job["links"]["events"]) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:") and '"preview"' in line:
                    assert picture_of(json.loads(line[5:])["preview"]["b64_json"]).size
                    break
        assert client.delete(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"


def test_metrics_are_true(real: Served) -> None:
    drawn = {"api": "openai", "model": "darkroom", "status": "200"}
    with real.client() as client:
        assert client.post("/v1/images/generations", json={"prompt": "x", "steps": 1}).status_code == 200

        def families() -> dict[str, list[Sample]]:
            text = client.get("/metrics").text
            return {family.name: family.samples for family in text_string_to_metric_families(text)}

        wait_for(lambda: any(s.labels == drawn for s in families()["img_requests"]), "the request counted")
        job = client.post("/v1/jobs", json={"prompt": "x", "steps": 4}).json()["links"]["self"]
        wait_for(lambda: client.get(job).json()["status"] == "completed", "the job")
        wait_for(lambda: families()["img_pool_memory_bytes"], "memory measured")
        found = families()
    loads = next(sample for sample in found["img_load_seconds"] if sample.name.endswith("_count"))
    assert (loads.labels["model"], loads.value) == ("darkroom", 1)
    steps = next(sample for sample in found["img_step_seconds"] if sample.name.endswith("_count"))
    assert (steps.labels["model"], steps.value >= 3) == ("darkroom", True)
    assert found["img_pool_memory_bytes"][0].value > 10_000_000
    for name in ("img_queue_wait_seconds", "img_generate_seconds", "img_pool_instances", "img_store_bytes"):
        assert found[name]
