"""Progress while a picture is drawn, interrupting and skipping."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from tests.server.a1111_client import PROMPT, connect, read
from tests.server.conftest import RunningServer, StartServer, wait_for

LONG = {"prompt": PROMPT, "steps": 2000, "width": 64, "height": 64}


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def draw(server: RunningServer, threads: ThreadPoolExecutor, **fields: Any) -> Future[httpx2.Response]:  # noqa: ANN401
    return threads.submit(server.http.post, "/sdapi/v1/txt2img", json=LONG | fields)


def progress(server: RunningServer, **query: object) -> dict[str, Any]:
    answer: dict[str, Any] = server.http.get("/sdapi/v1/progress", params=query).json()
    return answer


def wait_until_drawing(server: RunningServer, job_no: int = 0) -> None:
    wait_for(
        lambda: (state := progress(server)["state"])["job_no"] >= job_no and state["sampling_step"] > 2,
        "steps are done",
    )


def test_nothing_is_drawn(server: RunningServer) -> None:
    connect(server).util_wait_for_ready(check_interval=0.1)
    answer = progress(server)
    assert (answer["progress"], answer["eta_relative"], answer["current_image"]) == (0, 0, None)
    assert answer["state"]["job_count"] == 0


def test_progress_of_a_picture(server: RunningServer, threads: ThreadPoolExecutor) -> None:
    drawing = draw(server, threads)
    wait_for(lambda: progress(server)["current_image"], "a preview")
    answer = progress(server)
    assert 0 < answer["progress"] < 1
    assert answer["eta_relative"] > 0
    assert answer["textinfo"] == "sample"
    state = answer["state"]
    assert (state["job_count"], state["job_no"], state["sampling_steps"]) == (1, 0, 2000)
    assert 0 < state["sampling_step"] < 2000
    assert len(state["job_timestamp"]) == 14
    preview = read(answer["current_image"])
    assert preview.width == preview.height > 0
    assert len(set(preview.convert("L").tobytes())) > 1, "something is seen"
    assert progress(server, skip_current_image=True)["current_image"] is None
    later = progress(server)
    wait_for(
        lambda: progress(server)["state"]["sampling_step"] > later["state"]["sampling_step"], "it goes on"
    )
    server.http.post("/sdapi/v1/interrupt")
    drawing.result()


def test_interrupting_a_picture_ends_it(server: RunningServer, threads: ThreadPoolExecutor) -> None:
    drawing = draw(server, threads)
    wait_until_drawing(server)
    assert connect(server).interrupt() == {}
    answer = drawing.result()
    assert answer.status_code == 409
    assert "interrupted" in answer.json()["error"]
    assert connect(server).txt2img(prompt=PROMPT, width=64, height=64).image.size == (64, 64)


def test_interrupting_and_skipping_keep_what_is_finished(
    start_server: StartServer, threads: ThreadPoolExecutor
) -> None:
    server = start_server("--max-batch", "1")
    server.wait_until_ready()
    for path, images in (("skip", 2), ("interrupt", 1)):
        drawing = draw(server, threads, n_iter=3, steps=60, seed=3)
        wait_until_drawing(server, job_no=1)
        assert server.http.post(f"/sdapi/v1/{path}").status_code == 200
        answer = drawing.result()
        assert answer.status_code == 200, answer.text
        seeds = read_info(answer)["all_seeds"]
        assert len(seeds) == len(answer.json()["images"]) >= images
        assert seeds[0] == 3, "the one that was finished is there"
        assert len(seeds) < 3


def test_a_client_that_leaves_ends_its_picture(server: RunningServer) -> None:
    with (
        httpx2.Client(base_url=server.url, trust_env=False, timeout=httpx2.Timeout(60, read=1)) as client,
        pytest.raises(httpx2.ReadTimeout),
    ):
        client.post("/sdapi/v1/txt2img", json=LONG)
    wait_for(lambda: progress(server)["state"]["job_count"] == 0, "nothing is drawn any more")


def test_interrupt_and_skip_without_a_picture_do_nothing(server: RunningServer) -> None:
    assert connect(server).interrupt() == {}
    assert connect(server).skip() is None


def test_pictures_of_other_apis_are_left_alone(server: RunningServer, threads: ThreadPoolExecutor) -> None:
    body = {"prompt": PROMPT, "size": "64x64", "steps": 100, "seed": 1}
    drawing = threads.submit(server.http.post, "/v1/images/generations", json=body)
    wait_for(lambda: progress(server)["state"]["job_count"] == 1, "it is drawn")
    server.http.post("/sdapi/v1/interrupt")
    server.http.post("/sdapi/v1/skip")
    assert drawing.result().status_code == 200


def read_info(answer: httpx2.Response) -> dict[str, Any]:
    info: dict[str, Any] = json.loads(answer.json()["info"])
    return info


def test_pictures_that_are_drawn_together(start_server: StartServer, threads: ThreadPoolExecutor) -> None:
    server = start_server("--max-batch", "4")
    server.wait_until_ready()
    drawing = draw(server, threads, batch_size=4, steps=100)
    wait_for(lambda: progress(server)["progress"] > 0.3, "more is done than one picture alone would be")
    answer = progress(server)
    assert (answer["state"]["job_no"], answer["state"]["job_count"]) == (0, 4)
    assert answer["eta_relative"] < 1000
    server.http.post("/sdapi/v1/skip")
    answer = drawing.result()
    assert answer.status_code == 409, "skipping leaves out all that are drawn together"


def test_interrupting_beside_a_job_of_another_api(
    start_server: StartServer, threads: ThreadPoolExecutor
) -> None:
    server = start_server("--max-batch", "4")
    server.wait_until_ready()
    body = {"prompt": PROMPT, "width": 64, "height": 64, "sample_params": {"sample_steps": 2000}}
    first = server.http.post("/sdcpp/v1/img_gen", json=body).json()
    wait_for(lambda: server.health()["generating"], "the first is drawn")
    other = server.http.post("/sdcpp/v1/img_gen", json=body).json()
    drawing = draw(server, threads)
    wait_for(lambda: server.health()["queued"] == 2, "both wait")
    server.http.post(first["cancel_url"])
    wait_for(lambda: server.health()["generating"] == 2, "both are drawn together")
    assert connect(server).interrupt() == {}
    assert drawing.result().status_code == 409
    assert server.http.get(other["poll_url"]).json()["status"] == "generating"
    server.http.post(other["cancel_url"])
