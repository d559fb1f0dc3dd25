"""The queue, cancelling, expiry, and how soon the server answers while it draws."""

from __future__ import annotations

import base64
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from PIL import Image
from tests.server.conftest import RunningServer, StartServer, wait_for

FOREVER = 10_000
"""Steps that nobody waits for."""


def ask(server: RunningServer, steps: int = 1, **body: object) -> httpx2.Response:
    sizes = {"width": 64, "height": 64}
    return server.http.post(
        "/sdcpp/v1/img_gen",
        json={"prompt": "x", **sizes, "sample_params": {"sample_steps": steps}, **body},
    )


def submit(server: RunningServer, steps: int = 1, **body: object) -> str:
    answer = ask(server, steps, **body)
    assert answer.status_code == 202, answer.text
    id: str = answer.json()["id"]
    return id


def job(server: RunningServer, id: str) -> dict[str, Any]:
    state: dict[str, Any] = server.http.get(f"/sdcpp/v1/jobs/{id}").json()
    return state


def cancel(server: RunningServer, id: str) -> dict[str, Any]:
    answer = server.http.post(f"/sdcpp/v1/jobs/{id}/cancel")
    assert answer.status_code == 200, answer.text
    state: dict[str, Any] = answer.json()
    return state


def wait_until(server: RunningServer, id: str, *states: str) -> dict[str, Any]:
    wait_for(lambda: job(server, id)["status"] in states, f"{id} is {states}")
    return job(server, id)


def draws(server: RunningServer, id: str) -> bool:
    state = job(server, id)
    return state["status"] == "generating" and state["step"] > 1


@pytest.fixture(scope="module")
def small(module_server: StartServer) -> RunningServer:
    """A server with a short queue that draws up to four pictures at once."""
    server = module_server("--max-queue", "6", "--max-batch", "4", "-v")
    server.wait_until_ready()
    return server


@pytest.fixture
def busy(server: RunningServer) -> Any:  # noqa: ANN401
    """The id of a job that is being drawn, for as long as the test lasts."""
    id = submit(server, FOREVER)
    wait_for(lambda: draws(server, id), "it is being drawn")
    yield id
    assert cancel(server, id)["status"] in ("cancelled", "completed")


def test_a_running_job_tells_how_far_it_is_and_is_cancelled_within_a_step(
    server: RunningServer, busy: str
) -> None:
    state = job(server, busy)
    assert state["phase"] == "sample"
    assert state["eta"] > 0
    assert state["steps"] > 100
    wait_for(lambda: job(server, busy)["preview"], "there is a preview")
    assert job(server, busy)["preview"]["mime_type"] == "image/jpeg"
    over = cancel(server, busy)
    assert (over["status"], over["error"]) == ("cancelled", {"code": "cancelled", "message": "cancelled"})
    assert over["preview"] is None
    assert cancel(server, busy) == over


def test_waiting_jobs_know_their_place_and_leave_at_once(server: RunningServer, busy: str) -> None:
    first, second, third = (submit(server) for _ in range(3))
    assert [job(server, id)["queue_position"] for id in (first, second, third)] == [1, 2, 3]
    assert server.health()["queued"] == 3
    assert cancel(server, second)["status"] == "cancelled"
    assert [job(server, id)["queue_position"] for id in (first, second, third)] == [1, 0, 2]
    cancel(server, busy)
    for id in (first, third):
        assert wait_until(server, id, "completed")["result"]["images"]


def test_it_answers_while_it_draws(
    server: RunningServer,
    busy: str,
    record_property: Any,  # noqa: ANN401
) -> None:
    taken = []
    for _ in range(50):
        start = time.perf_counter()
        assert server.health()["generating"] == 1
        taken.append(1000 * (time.perf_counter() - start))
    taken.sort()
    figure = f"/health while drawing: median {taken[25]:.1f} ms, slowest {taken[-1]:.1f} ms"
    print(figure)
    record_property("health", figure)
    assert taken[25] < 2000, "the event loop waits for the worker"


def test_more_than_the_queue_holds_is_refused(small: RunningServer) -> None:
    server = small
    running = submit(server, FOREVER)
    wait_for(lambda: draws(server, running), "it is being drawn")
    *_, waiting = [submit(server) for _ in range(5)]
    answer = ask(server)
    assert answer.status_code == 429
    assert answer.json()["error"].startswith("job queue is full")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.headers["x-should-retry"] == "true"
    cancel(server, running)
    wait_until(server, waiting, "completed")
    wait_until(server, submit(server), "completed")


def test_jobs_that_are_alike_are_drawn_together(small: RunningServer) -> None:
    server = small
    alone = wait_until(server, submit(server, 8, seed=5, prompt="a cat"), "completed")
    running = submit(server, FOREVER)
    wait_for(lambda: draws(server, running), "it is being drawn")
    cat = submit(server, 8, seed=5, prompt="a cat")
    other = submit(server, 8, width=128)
    dog = submit(server, 8, seed=6, prompt="a dog")
    leaving = submit(server, 8, seed=7, prompt="a bird")
    cancel(server, running)
    wait_for(lambda: job(server, leaving)["status"] == "generating", "they are drawn")
    cancel(server, leaving)
    states = [wait_until(server, id, "completed", "failed", "cancelled") for id in (cat, dog, other)]
    assert [state["status"] for state in states] == ["completed"] * 3
    assert states[0]["step"] == states[1]["step"] == 8
    (begun,) = [line for line in server.log if "drawn together" in line and cat in line]
    assert all(id in begun for id in (dog, leaving))
    assert other not in begun
    assert alike(alone, states[0])


def test_who_leaves_a_batch_does_not_wait_for_the_others(small: RunningServer) -> None:
    running = submit(small, FOREVER)
    wait_for(lambda: draws(small, running), "it is being drawn")
    staying, leaving = submit(small, FOREVER, seed=1), submit(small, FOREVER, seed=2)
    cancel(small, running)
    wait_for(lambda: draws(small, staying) and draws(small, leaving), "both are drawn")
    cancel(small, leaving)
    wait_until(small, leaving, "cancelled")
    assert draws(small, staying)
    cancel(small, staying)
    wait_until(small, staying, "cancelled")


def alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two jobs drew the same picture, but for the last bits of its numbers."""

    def pixels(state: dict[str, Any]) -> bytes:
        (image,) = state["result"]["images"]
        return Image.open(io.BytesIO(base64.b64decode(image["b64_json"]))).tobytes()

    return max(abs(a - b) for a, b in zip(pixels(one), pixels(other), strict=True)) <= 2


def test_finished_jobs_expire_and_are_forgotten(start_server: StartServer) -> None:
    server = start_server("--job-ttl", "2")
    server.wait_until_ready()
    id = submit(server)

    def status() -> int:
        return server.http.get(f"/sdcpp/v1/jobs/{id}").status_code

    assert status() == 200
    wait_for(lambda: status() == 410, "it has expired")
    answer = server.http.post(f"/sdcpp/v1/jobs/{id}/cancel")
    assert (answer.status_code, answer.json()["error"][:11]) == (410, "job expired")
    wait_for(lambda: status() == 404, "it is forgotten")


def test_a_flood_is_answered_in_full(small: RunningServer) -> None:
    server = small
    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(lambda _: ask(server), range(60)))
    codes = {answer.status_code for answer in answers}
    assert codes <= {202, 429}
    taken = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    assert len(taken) >= 6
    for id in taken:
        assert wait_until(server, id, "completed", "failed")["status"] == "completed"
    assert server.health()["status"] == "ok"


def test_a_client_that_leaves_cancels_its_request(server: RunningServer) -> None:
    def leave() -> None:
        with (
            httpx2.Client(base_url=server.url, timeout=1, trust_env=False) as client,
            pytest.raises(httpx2.ReadTimeout),
        ):
            client.post("/v1/images/generations", json={"prompt": "x", "size": "64x64", "steps": FOREVER})

    client = threading.Thread(target=leave)
    client.start()
    wait_for(lambda: server.health()["generating"] == 1, "it is being drawn")
    client.join()
    wait_for(lambda: server.health()["generating"] == 0, "it was cancelled")
    last = server.http.get("/sdcpp/v1/jobs").json()["jobs"][-1]
    assert last["error"] == {"code": "cancelled", "message": "cancelled: the client is gone"}


def test_a_picture_of_no_numbers_costs_one_request(server: RunningServer) -> None:
    levels = {"custom_sigmas": [1e38, 1e30, 0.0]}
    state = wait_until(server, submit(server, sample_params=levels), "failed", "completed")
    assert state["status"] == "failed"
    assert state["error"]["code"] == "generation_failed"
    assert "no numbers" in state["error"]["message"]
    assert wait_until(server, submit(server), "completed", "failed")["status"] == "completed"
