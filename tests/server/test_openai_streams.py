"""`stream: true` of generations and edits, asked with the openai package."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import numpy as np
import pytest
from openai import APIError, OpenAI
from tests.server.conftest import RunningServer, StartServer, wait_for
from tests.server.openai_client import connect, picture, png, read

from darkroom.api.jobs import JobStatus

PROMPT = "a red circle on a blue background"


def stream(client: OpenAI, kind: str, **fields: Any) -> list[Any]:  # noqa: ANN401
    """All events of a streamed request; `fields` beyond the schema are sent as well."""
    known = ("n", "size", "partial_images", "output_format")
    given = {name: fields.pop(name) for name in known if name in fields}
    if kind == "image_edit":
        given["image"] = png(picture(128, 128))
    draw = client.images.edit if kind == "image_edit" else client.images.generate
    return list(draw(prompt=PROMPT, stream=True, extra_body=fields, **given))


@pytest.mark.parametrize("kind", ["image_generation", "image_edit"])
@pytest.mark.parametrize("partials", [0, 1, 2, 3])
def test_partial_images(server: RunningServer, kind: str, partials: int) -> None:
    strength = {"strength": 1} if kind == "image_edit" else {}
    events = stream(
        connect(server), kind, size="128x128", partial_images=partials, steps=8, seed=7, **strength
    )
    *early, last = events
    assert last.type == f"{kind}.completed"
    assert [event.type for event in early] == [f"{kind}.partial_image"] * len(early)
    assert [event.partial_image_index for event in early] == list(range(partials))
    for event in events:
        image = read(event.b64_json)
        assert (image.format, image.size, event.size) == ("PNG", (128, 128), "128x128")
        assert (event.output_format, event.background, event.quality) == ("png", "opaque", "medium")
    assert last.usage.output_tokens == 16 * 16
    assert last.usage.total_tokens == last.usage.input_tokens + last.usage.output_tokens


def test_partials_are_steps_on_the_way(server: RunningServer) -> None:
    *partials, last = stream(
        connect(server), "image_generation", partial_images=3, steps=12, seed=7, sampler="euler"
    )
    first, second, third = (np.asarray(read(event.b64_json), float) for event in partials)
    assert np.abs(first - third).mean() > np.abs(second - third).mean() > 0
    assert likeness(third, np.asarray(read(last.b64_json), float)) > 0.8


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two pictures' pixels; a preview's colours are near, not exact."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_the_streamed_picture_is_the_usual_one(server: RunningServer) -> None:
    client = connect(server)
    few = {"steps": 3, "seed": 5}
    (event,) = stream(client, "image_generation", size="64x64", **few)
    data = client.images.generate(prompt=PROMPT, size="64x64", extra_body=few).data
    assert data
    assert data[0].b64_json == event.b64_json


def test_one_completed_event_for_each_picture(server: RunningServer) -> None:
    events = stream(
        connect(server), "image_generation", n=2, size="64x64", partial_images=1, steps=4, seed=3,
        output_format="webp",
    )  # fmt: skip
    finished = [event for event in events if event.type.endswith("completed")]
    assert [(event.image_index, event.seed) for event in finished] == [(0, 3), (1, 4)]
    assert {read(event.b64_json).format for event in events} == {"WEBP"}
    assert finished[0].usage.input_tokens > 0 == finished[1].usage.input_tokens
    partials = [event for event in events if event.type.endswith("partial_image")]
    assert sorted(event.image_index for event in partials) == [0, 1]


def test_the_wire(server: RunningServer) -> None:
    body = {"prompt": PROMPT, "stream": True, "partial_images": 1, "size": "64x64", "steps": 4}
    with server.http.stream("POST", "/v1/images/generations", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        text = answer.read().decode()
    events = [block.split("\n") for block in text.strip().split("\n\n") if not block.startswith(":")]
    for name, data in events:
        assert name == "event: " + json.loads(data.removeprefix("data: "))["type"]
    assert len(events) == 2


def test_an_error_in_the_middle_is_raised(server: RunningServer) -> None:
    client = connect(server)
    events = client.images.generate(
        prompt=PROMPT, stream=True, partial_images=3, size="64x64", extra_body={"steps": 400}
    )
    next(iter(events))
    (job,) = running(server.http)
    server.http.post(f"/sdcpp/v1/jobs/{job}/cancel")
    with pytest.raises(APIError, match="cancelled") as caught:
        list(events)
    assert caught.value.code == "cancelled"


def test_errors_before_the_first_event_are_answers(server: RunningServer) -> None:
    for fields in ({"partial_images": 4}, {"size": "33x33"}, {"output_format": "gif"}):
        with pytest.raises(APIError) as caught:
            stream(connect(server), "image_generation", **fields)
        assert caught.value.param in fields


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_client_that_leaves_cancels(server: RunningServer, is_streamed: bool) -> None:
    before = set(all_jobs(server.http))
    body = {"prompt": PROMPT, "stream": is_streamed, "steps": 2000, "seed": 1}
    with httpx2.Client(base_url=server.url, trust_env=False, timeout=1.0) as client:
        if is_streamed:
            with client.stream("POST", "/v1/images/generations", json=body):
                pass
        else:
            with pytest.raises(httpx2.ReadTimeout):
                client.post("/v1/images/generations", json=body)
    (job,) = set(all_jobs(server.http)) - before
    wait_for(lambda: all_jobs(server.http)[job] == JobStatus.CANCELLED, "the job is cancelled")


def test_a_server_may_be_told_to_draw_on(start_server: StartServer) -> None:
    server = start_server("--keep-going-on-disconnect")
    server.wait_until_ready()
    body = {"prompt": PROMPT, "stream": True, "steps": 20, "size": "64x64"}
    with server.http.stream("POST", "/v1/images/generations", json=body):
        pass
    (job,) = all_jobs(server.http)
    wait_for(lambda: JobStatus(all_jobs(server.http)[job]).is_final, "the job is over")
    assert all_jobs(server.http)[job] == JobStatus.COMPLETED


def all_jobs(http: httpx2.Client) -> dict[str, str]:
    """The status of every job."""
    return {job["id"]: job["status"] for job in http.get("/sdcpp/v1/jobs").json()["jobs"]}


def running(http: httpx2.Client) -> list[str]:
    return [job for job, status in all_jobs(http).items() if status == JobStatus.GENERATING]
