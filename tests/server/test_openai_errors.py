"""Every class of error of the openai package, and that permanent errors are not asked for again."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from openai import (
    APIError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    RateLimitError,
)
from tests.server.conftest import RunningServer, StartServer, wait_for
from tests.server.openai_client import Recorder, connect, picture, png

PROMPT = "a red circle"
EXTRA = "<sd_cpp_extra_args>{}</sd_cpp_extra_args>"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 11}, "n", "integer_above_max_value"),
        ({"size": "100x100"}, "size", "invalid_value"),
        ({"size": "8192x8192"}, "size", "invalid_value"),
        ({"background": "transparent"}, "background", "unsupported_value"),
        ({"output_format": "svg"}, "output_format", "unsupported_value"),
        ({"prompt": ""}, "prompt", "missing_required_parameter"),
        ({"extra_body": {"steps": -1}}, "steps", "integer_below_min_value"),
        ({"extra_body": {"sampler": "magic"}}, "sampler", "invalid_value"),
        ({"extra_body": {"lora": [{"name": "../../etc/passwd"}]}}, "lora", "unsupported_parameter"),
        ({"extra_body": {"strict": True, "foo": 1}}, "foo", "unknown_parameter"),
    ],
)
def test_bad_requests_are_not_repeated(
    server: RunningServer, fields: dict[str, Any], param: str, code: str
) -> None:
    recorder = Recorder()
    client = connect(server, retries=2, recorder=recorder)
    with pytest.raises(BadRequestError) as caught:
        client.images.generate(**{"prompt": PROMPT} | fields)
    error = caught.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert len(recorder.answers) == 1
    assert recorder.headers["x-should-retry"] == "false"


def test_unknown_models_are_not_found(server: RunningServer) -> None:
    for name in ("gpt-image-2", "a/b", "builtin/", "../health"):
        with pytest.raises(NotFoundError) as caught:
            connect(server).models.retrieve(name)
        if name != "../health":  # a client may resolve it itself
            assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_any_model_is_drawn_with(server: RunningServer) -> None:
    client = connect(server)
    assert client.images.generate(
        model="gpt-image-2", prompt=PROMPT, size="64x64", extra_body={"steps": 1}
    ).data  # fmt: skip


def test_keys(start_server: StartServer) -> None:
    server = start_server("--api-key", "right")
    server.wait_until_ready()
    recorder = Recorder()
    with pytest.raises(AuthenticationError) as caught:
        connect(server, "wrong", 2, recorder).images.generate(prompt=PROMPT)
    assert caught.value.code == "invalid_api_key"
    assert len(recorder.answers) == 1
    assert connect(server, "right").models.list().data
    data = connect(server, "right").images.generate(
        prompt=PROMPT, size="64x64", response_format="url", extra_body={"steps": 1}
    ).data  # fmt: skip
    assert data
    assert server.http.get(data[0].url or "").status_code == 200, "a signed URL is its own key"


def test_a_full_queue_is_a_rate_limit(start_server: StartServer) -> None:
    server = start_server("--max-queue", "1")
    server.wait_until_ready()
    started = threading.Event()

    def draw() -> None:
        events = connect(server).images.generate(
            prompt=PROMPT, stream=True, partial_images=1, size="64x64", extra_body={"steps": 4000}
        )  # fmt: skip
        started.set()
        with pytest.raises(APIError):
            list(events)

    drawing = threading.Thread(target=draw)
    drawing.start()
    assert started.wait(60)
    recorder = Recorder()
    with pytest.raises(RateLimitError) as caught:
        connect(server, recorder=recorder).images.generate(prompt=PROMPT)
    assert caught.value.code == "queue_full"
    assert int(recorder.headers["retry-after"]) > 0
    assert recorder.headers["x-should-retry"] == "true"
    (job,) = server.http.get("/sdcpp/v1/jobs").json()["jobs"]
    server.http.post(f"/sdcpp/v1/jobs/{job['id']}/cancel")
    drawing.join(60)
    wait_for(lambda: server.health()["generating"] == 0, "the queue is empty")
    assert connect(server).images.generate(prompt=PROMPT, size="64x64", extra_body={"steps": 1}).data


def test_a_cancelled_request_is_a_conflict(server: RunningServer) -> None:
    recorder = Recorder()

    def cancel() -> None:
        def running() -> list[str]:
            jobs = server.http.get("/sdcpp/v1/jobs").json()["jobs"]
            return [job["id"] for job in jobs if job["status"] == "generating"]

        wait_for(running, "a job is running")
        server.http.post(f"/sdcpp/v1/jobs/{running()[0]}/cancel")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(ConflictError) as caught:
        connect(server, retries=2, recorder=recorder).images.generate(
            prompt=PROMPT, size="64x64", extra_body={"steps": 4000}
        )  # fmt: skip
    canceller.join(60)
    assert caught.value.code == "cancelled"
    assert len(recorder.answers) == 1


def test_a_model_that_cannot_be_loaded_is_no_reason_to_ask_again(
    start_server: StartServer, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    server = start_server("--model", str(broken))
    wait_for(lambda: server.health()["status"] == "error", "the model has failed")
    recorder = Recorder()
    client = connect(server, retries=2, recorder=recorder)
    for ask in (lambda: client.models.list(), lambda: client.images.generate(prompt=PROMPT)):
        recorder.answers.clear()
        with pytest.raises(InternalServerError, match=r"broken\.safetensors") as caught:
            ask()
        assert caught.value.code == "model_not_ready"
        assert len(recorder.answers) == 1


def test_extra_args_in_the_prompt(server: RunningServer) -> None:
    native = '{"seed": 5, "width": 64, "height": 96, "sample_params": {"sample_steps": 2}, "batch_count": 2}'
    answer = connect(server).images.generate(prompt=PROMPT + EXTRA.format(native), extra_body={"seed": 1})
    plain = connect(server).images.generate(
        prompt=PROMPT, size="64x96", n=2, extra_body={"seed": 5, "steps": 2}
    )
    assert answer.size == "64x96"
    assert answer.data
    assert plain.data
    assert [a.b64_json for a in answer.data] == [b.b64_json for b in plain.data]
    assert answer.usage == plain.usage


@pytest.mark.parametrize(
    "native",
    [
        "{",
        "[]",
        '{"foo": 1}',
        '{"init_image": "/etc/passwd"}',
        '{"ref_images": ["file:///etc/passwd"]}',
        '{"lora": [{"path": "../../x.safetensors"}]}',
        '{"batch_count": 99}',
        '{"output_format": "gif"}',
        '{"output_compression": 200}',
        '{"sample_params": {"sample_steps": -3}}',
    ],
)
def test_extra_args_that_cannot_be(server: RunningServer, native: str) -> None:
    with pytest.raises(BadRequestError):
        connect(server).images.generate(prompt=PROMPT + EXTRA.format(native))


def test_big_bodies_are_refused(start_server: StartServer) -> None:
    server = start_server("--max-body", "1")
    server.wait_until_ready()
    big = (*png(picture(64, 64))[:1], bytes(3 << 20), "image/png")
    with pytest.raises(APIStatusError) as caught:
        connect(server).images.edit(image=big, prompt=PROMPT)
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    server.wait_until_ready()


def test_forms_that_are_broken(server: RunningServer) -> None:
    for content in (b"", b"--x", b"--x\r\n\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--"):
        answer = server.http.post(
            "/v1/images/edits", content=content, headers={"content-type": "multipart/form-data; boundary=x"}
        )
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"]
    no_boundary = server.http.post(
        "/v1/images/edits", content=b"x", headers={"content-type": "multipart/form-data"}
    )
    assert no_boundary.status_code == 400
    misplaced = server.http.post(
        "/v1/images/edits", data={"prompt": "a"}, files={"prompt": png(picture(64, 64))}
    )
    assert misplaced.json()["error"]["param"] == "prompt"


@pytest.mark.parametrize("prompt", ["\ud800", "\0", "a" * 32_000, "🐈‍⬛" * 500, "\r\n\r\n", " "])
def test_odd_prompts(server: RunningServer, prompt: str) -> None:
    body = json.dumps({"prompt": prompt, "size": "64x64", "steps": 1}).encode()
    answer = server.http.post(
        "/v1/images/generations", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code in (200, 400), answer.text
    server.health()
