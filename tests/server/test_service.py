"""The service without HTTP, on the built-in model, with faults that a test can only make from within."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from darkroom.api.config import EngineConfig
from darkroom.api.errors import DarkroomError, OutOfMemoryError
from darkroom.api.health import HealthStatus
from darkroom.api.jobs import JobStatus
from darkroom.server.errors import NotReady, ShuttingDown
from darkroom.server.model import LoadedModel
from darkroom.server.options import ServerOptions
from darkroom.server.service import Service

SMALL = {"prompt": "x", "width": 64, "height": 64, "steps": 1}


def with_service(test: Callable[[Service], Awaitable[None]]) -> None:
    async def run() -> None:
        service = Service(EngineConfig(), ServerOptions())
        service.start()
        while service.health().status is HealthStatus.LOADING:
            await asyncio.sleep(0.01)
        try:
            await asyncio.wait_for(test(service), 120)
        finally:
            await service.stop(30)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (OutOfMemoryError("cpu: out of memory while decoding"), "out_of_memory"),
        (RuntimeError("could not create a primitive"), "generation_failed"),
    ],
)
def test_a_fault_costs_one_request(
    fault: Exception, code: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    draw = LoadedModel.generate
    calls = []

    def failing(self: LoadedModel, requests: list[object]) -> object:
        calls.append(requests)
        if len(calls) > 1:
            return draw(self, requests)  # type: ignore[arg-type]
        if isinstance(fault, DarkroomError):
            return [fault]
        raise fault

    monkeypatch.setattr(LoadedModel, "generate", failing)

    async def test(service: Service) -> None:
        first, second = [await service.submit(service.request(**SMALL), api="sdcpp") for _ in range(2)]
        with pytest.raises(DarkroomError, match=str(fault)):
            await service.result(first)
        error = first.state().error
        assert error is not None
        assert (first.status, error.code) == (JobStatus.FAILED, code)
        assert len((await service.result(second)).images) == 1

    with_service(test)


def test_an_unloaded_model_comes_back_when_it_is_needed() -> None:
    async def test(service: Service) -> None:
        before = await service.result(await service.submit(service.request(**SMALL, seed=3), api="sdcpp"))
        await service.unload()
        assert not service.health().loaded
        assert service.health().status is HealthStatus.OK
        assert service.info().family == "sd1"
        after = await service.result(await service.submit(service.request(**SMALL, seed=3), api="sdcpp"))
        assert service.health().loaded
        assert before.images[0].tobytes() == after.images[0].tobytes()

    with_service(test)


def test_tokens_are_the_models() -> None:
    async def test(service: Service) -> None:
        assert service.tokens("a red circle") == 3
        assert service.tokens("") == 0

    with_service(test)


def test_nothing_is_taken_before_the_start_and_after_the_end() -> None:
    async def run() -> None:
        service = Service(EngineConfig(), ServerOptions())
        with pytest.raises(NotReady):
            await service.submit(service.request(**SMALL), api="sdcpp")
        with pytest.raises(NotReady):
            service.tokens("x")
        service.start()
        while service.health().status is HealthStatus.LOADING:
            await asyncio.sleep(0.01)
        assert await service.stop(30)
        with pytest.raises(ShuttingDown):
            await service.submit(service.request(**SMALL), api="sdcpp")

    asyncio.run(run())
