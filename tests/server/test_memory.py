"""Memory that really runs out: the system refuses it, and only one request is lost."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import psutil
import pytest
from tests.server.conftest import RunningServer, StartServer

from darkroom.api.errors import DarkroomError, OutOfMemoryError
from darkroom.server.answers import as_api_error
from darkroom.server.errors import fault
from darkroom.server.spare import PIECES, Spare, prepare

SPARE = 64 * 2**20
"""Of memory beyond what the server has: the features of one large picture take several times as much."""


def drawn(server: RunningServer, side: int) -> Any:  # noqa: ANN401
    body = {"prompt": "a red circle", "size": f"{side}x{side}", "steps": 1}
    return server.http.post("/v1/images/generations", json=body)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of another process")
def test_a_picture_that_is_too_much_costs_one_request(start_server: StartServer) -> None:
    import resource

    server = start_server()
    server.wait_until_ready()
    assert drawn(server, 64).status_code == 200
    used = psutil.Process(server.process.pid).memory_info().vms
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (used + SPARE, resource.RLIM_INFINITY))
    for _ in range(2):
        answer = drawn(server, 1536)
        assert answer.status_code == 507, answer.text
        assert answer.json()["error"]["code"] == "out_of_memory"
        assert "out of memory while running diffusion" in answer.json()["error"]["message"]
        assert drawn(server, 64).status_code == 200
    assert server.health()["status"] == "ok"
    assert server.stop() == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of another process")
def test_a_picture_that_cannot_fit_is_refused_before_it_is_drawn(start_server: StartServer) -> None:
    import resource

    server = start_server()
    server.wait_until_ready()
    used = psutil.Process(server.process.pid).memory_info().vms
    resource.prlimit(server.process.pid, resource.RLIMIT_AS, (used + SPARE, resource.RLIM_INFINITY))
    answer = drawn(server, 4096)
    assert answer.status_code == 400, answer.text
    assert "needs about" in answer.json()["error"]["message"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_what_python_says_of_memory_is_out_of_memory(error: Exception) -> None:
    assert isinstance(fault(error), OutOfMemoryError)
    told = as_api_error(error)
    assert (told.status, told.code) == (507, "out_of_memory")


def test_other_faults_are_faults() -> None:
    assert type(fault(RuntimeError("no such thing"))) is DarkroomError
    assert as_api_error(RuntimeError("no such thing")).status == 500


def test_spare_memory_is_given_up_when_the_loop_lacks_some() -> None:
    spare = Spare()
    assert len(spare._pieces) == PIECES

    async def run_out() -> None:
        loop = asyncio.get_running_loop()
        prepare(loop, spare)
        loop.call_exception_handler({"message": "reading", "exception": ValueError()})
        assert len(spare._pieces) == PIECES
        loop.call_exception_handler({"message": "reading", "exception": MemoryError()})

    asyncio.run(run_out())
    assert not spare._pieces
    spare.take()
    assert len(spare._pieces) == PIECES
    spare.give_up()
