"""What goes wrong with processes, and what the pool makes of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest
from tests.manager.pool.conftest import (
    Darkroom,
    draw,
    draw_with,
    heard,
    impatient,
    until,
    until_status,
)

from darkroom.api.errors import OutOfMemoryError, RequestError
from darkroom.manager.model_settings import ModelSettings
from darkroom.manager.pool import (
    FailureKind,
    Lease,
    LoadFailed,
    ModelState,
    Quarantined,
    SidecarLost,
)
from darkroom.manager.pool.ports import can_bind

MB = 1024**2


def test_a_port_that_is_taken_in_the_last_moment(darkroom: Darkroom, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    darkroom.flags["a"] = ["--fake-port-taken", str(tmp_path / "taken")]

    async def story() -> None:
        async with darkroom.pool() as pool:
            assert (await draw_with(pool, "a"))["data"]
            assert pool.status("a").restarts == 0
        assert len(darkroom.started()) == 2

    asyncio.run(story())


@pytest.mark.parametrize("engine", ["darkroom", "stable-diffusion.cpp"])
def test_a_crash_fails_the_request_and_the_next_one_reloads(
    darkroom: Darkroom, tmp_path: Path, engine: str
) -> None:
    (tmp_path / "crash").touch()
    darkroom.flags["a"] = ["--fake-crash-once", str(tmp_path / "crash")]
    if engine != "darkroom":
        darkroom.settings["a"] = ModelSettings(engine=darkroom.upstream)

    async def story() -> None:
        async with darkroom.pool() as pool:
            with pytest.raises(SidecarLost) as error:
                await draw_with(pool, "a")
            assert error.value.kind is FailureKind.CRASH
            assert "std::runtime_error" in error.value.tail[-1]
            assert "std::runtime_error" in str(error.value)
            failed = pool.status("a")
            assert failed.state is ModelState.FAILED
            assert failed.failure
            assert (await draw_with(pool, "a"))["data"]
            assert (pool.status("a").loads, pool.status("a").restarts) == (2, 1)

    asyncio.run(story())


def test_run_repeats_once_what_its_process_died_under(darkroom: Darkroom, tmp_path: Path) -> None:
    crash = tmp_path / "crash"
    darkroom.flags["a"] = ["--fake-crash", str(crash)]
    darkroom.flags["b"] = ["--fake-crash-once", str(crash)]

    async def story() -> None:
        async with darkroom.pool() as pool:
            crash.touch()
            with pytest.raises(SidecarLost):
                await pool.run("b", draw, may_repeat=lambda: False)
            crash.touch()
            assert (await pool.run("b", draw))["data"]
            crash.touch()
            with pytest.raises(SidecarLost):
                await pool.run("a", draw)
            assert pool.status("a").restarts == 2

    asyncio.run(story())


def test_three_crashes_are_quarantined_and_time_heals(darkroom: Darkroom, tmp_path: Path) -> None:
    crash = tmp_path / "crash"
    crash.touch()
    darkroom.flags["a"] = ["--fake-crash", str(crash)]

    async def story() -> None:
        async with darkroom.pool(patience=impatient(quarantine=(1.0, 2.0))) as pool:
            for _ in range(3):
                with pytest.raises(SidecarLost):
                    await draw_with(pool, "a")
            status = pool.status("a")
            assert status.state is ModelState.QUARANTINED
            assert status.quarantined_for
            with pytest.raises(Quarantined, match="failed too often") as error:
                await draw_with(pool, "a")
            assert error.value.retry_after
            assert "Segmentation fault" in error.value.tail[-1]
            assert len(darkroom.started()) == 3
            assert (await draw_with(pool, "b"))["data"]  # the others live on
            crash.unlink()
            await until_status(pool, "a", lambda status: status.state is not ModelState.QUARANTINED)
            assert (await draw_with(pool, "a"))["data"]

    asyncio.run(story())


def test_a_person_may_load_what_is_quarantined(darkroom: Darkroom) -> None:
    fault = "[ERROR] model.cpp - get sd version from file failed: 'x.safetensors'"
    darkroom.flags["a"] = ["--fake-load-fault", fault]

    async def story() -> None:
        async with darkroom.pool(patience=impatient(quarantine=(600.0,))) as pool:
            for _ in range(3):
                with pytest.raises(LoadFailed, match="of no known model") as error:
                    await draw_with(pool, "a")
                assert error.value.kind is FailureKind.UNKNOWN_MODEL
                assert fault in error.value.tail
            with pytest.raises(Quarantined):
                await draw_with(pool, "a")
            darkroom.flags["a"] = []
            assert (await pool.load("a")).state is ModelState.READY
            assert pool.status("a").failure is None

    asyncio.run(story())


@pytest.mark.parametrize("engine", ["darkroom", "stable-diffusion.cpp"])
def test_a_hang_is_judged_by_progress(darkroom: Darkroom, tmp_path: Path, engine: str) -> None:
    hang = tmp_path / "hang"
    darkroom.flags["a"] = ["--fake-hang", str(hang), "--fake-step", "0.15"]
    if engine != "darkroom":
        darkroom.settings["a"] = ModelSettings(engine=darkroom.upstream)

    async def story() -> None:
        patience = impatient(hang_steps=1.0)
        async with darkroom.pool(patience=patience, hang_timeout=0.5) as pool:
            assert (await draw_with(pool, "a", steps=12))["data"]  # long, but it gets on
            hang.touch()
            with pytest.raises(SidecarLost, match="no progress for") as error:
                await draw_with(pool, "a")
            assert error.value.kind is FailureKind.HANG
            hang.unlink()
            assert (await draw_with(pool, "a"))["data"]

    asyncio.run(story())


def test_a_load_without_progress_has_failed(darkroom: Darkroom) -> None:
    darkroom.flags["a"] = ["--fake-load", "0.2", "--fake-stall"]
    darkroom.flags["b"] = ["--fake-load", "1.5"]

    async def story() -> None:
        async with darkroom.pool(load_timeout=0.6) as pool:
            with pytest.raises(LoadFailed) as error:
                await pool.load("a")
            assert error.value.kind is FailureKind.STALLED_LOAD
            assert (await pool.load("b")).state is ModelState.READY  # longer, but it gets on

    asyncio.run(story())


def test_a_lower_rung_lets_the_same_request_succeed(darkroom: Darkroom) -> None:
    darkroom.flags["a"] = ["--fake-draw-oom", "3"]

    async def story() -> None:
        async with darkroom.pool() as pool, heard(pool) as events:
            await draw_with(pool, "idle1")
            await draw_with(pool, "idle2")
            await draw_with(pool, "idle3")
            assert (await pool.run("a", draw))["data"]
            status = pool.status("a")
            assert (status.rung, status.loads) == (3, 4)
            assert "block by block" in status.rung_name
            assert {pool.status(f"idle{n}").state for n in (1, 2, 3)} == {ModelState.ABSENT}
            evicted = [event.status.model for event in events if event.type == "evicted"]
            assert evicted == ["idle1", "idle2", "idle3"]
            assert sum(event.type == "out_of_memory" for event in events) == 5
            assert status.settings["backend"].engaged == "te=cpu"
            assert status.settings["params_backend"].reason.startswith("memory was short")
        async with darkroom.pool() as pool:  # another manager remembers
            assert (await draw_with(pool, "a"))["data"]
            assert pool.status("a").rung == 3
            await pool.unload("a")
            await pool.pardon("a")
            darkroom.flags["a"] = []
            await draw_with(pool, "a")
            assert pool.status("a").rung == 0

    asyncio.run(story())


def test_requests_that_run_out_of_memory_together_cost_one_rung(darkroom: Darkroom) -> None:
    darkroom.flags["a"] = ["--fake-draw-oom", "1"]

    async def story() -> None:
        async with darkroom.pool() as pool:
            answers = await asyncio.gather(*(pool.run("a", draw) for _ in range(8)))
            assert len(answers) == 8
            assert (pool.status("a").rung, pool.status("a").loads) == (1, 2)

    asyncio.run(story())


def test_a_request_that_is_too_large_leaves_the_rung_as_it_was(darkroom: Darkroom) -> None:
    darkroom.flags["a"] = ["--fake-draw-oom", "4"]

    async def story() -> None:
        async with darkroom.pool() as pool:
            with pytest.raises(OutOfMemoryError):
                await pool.run("a", draw)
            assert pool.status("a").rung == 0
            darkroom.flags["a"] = ["--fake-draw-oom", "1"]
            await pool.run("a", draw)
            assert pool.status("a").rung == 1
            await pool.unload("a")
            darkroom.flags["a"] = ["--fake-draw-oom", "4"]
            with pytest.raises(OutOfMemoryError):
                await asyncio.gather(*(pool.run("a", draw) for _ in range(3)))
            assert pool.status("a").rung == 1

    asyncio.run(story())


def test_a_load_that_needs_a_lower_rung(darkroom: Darkroom) -> None:
    darkroom.flags["a"] = ["--fake-load-oom", "2"]
    darkroom.flags["b"] = ["--fake-load-oom", "4"]

    async def story() -> None:
        async with darkroom.pool() as pool:
            assert (await draw_with(pool, "a"))["data"]
            assert (pool.status("a").rung, pool.status("a").restarts) == (2, 0)
            with pytest.raises(LoadFailed, match="out of memory") as error:
                await draw_with(pool, "b")
            assert error.value.kind is FailureKind.OUT_OF_MEMORY
            assert [line.split()[-1] for line in darkroom.started()] == [*"012", *"00123"]

    asyncio.run(story())


def test_an_engine_that_dies_when_memory_is_short(darkroom: Darkroom) -> None:
    darkroom.settings["a"] = ModelSettings(
        engine=darkroom.upstream, extra_args=("--fake-draw-oom", "1", "--fake-die-of-oom")
    )

    async def story() -> None:
        async with darkroom.pool() as pool:
            assert (await pool.run("a", draw))["data"]
            assert pool.status("a").rung == 1

    asyncio.run(story())


def test_an_engine_that_tells_of_short_memory_on_its_output_alone(darkroom: Darkroom) -> None:
    darkroom.settings["a"] = ModelSettings(engine=darkroom.upstream, extra_args=("--fake-draw-oom", "1"))

    async def work(lease: Lease) -> int:
        async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
            answer = await client.post(f"{lease.url}/v1/images/generations", json={"prompt": "x"})
        if answer.status_code == 500 and lease.ran_out_of_memory():
            raise OutOfMemoryError("the engine has said so")
        return answer.status_code

    async def story() -> None:
        async with darkroom.pool() as pool:
            assert await pool.run("a", work) == 200
            assert pool.status("a").rung == 1

    asyncio.run(story())


def test_what_another_engine_lacks_is_said(darkroom: Darkroom) -> None:
    darkroom.settings["a"] = ModelSettings(engine=darkroom.upstream)
    darkroom.weights["a"] = 1000

    async def story() -> None:
        async with darkroom.pool() as pool, heard(pool) as events:
            async with pool.lease("a") as lease:
                assert not lease.capabilities.progress
                assert not lease.capabilities.previews
                assert not lease.capabilities.cancel_running
                drawing = asyncio.create_task(draw(lease, steps=1000))
                await until(lambda: any("s/it" in line for line in pool.logs("a")), "first step")
                lease.cancel_hard()
                with pytest.raises(Exception, match=r"disconnect|closed|reset|read"):
                    await drawing
            status = await until_status(pool, "a", lambda status: status.loads == 2)
            assert status.state is ModelState.READY
            assert status.engine == "stable-diffusion.cpp"
            assert status.restarts == 0
            assert any(0 < event.status.bytes_read < 1000 for event in events)

    asyncio.run(story())


def test_errors_of_specify_reach_the_caller_and_leave_nothing(darkroom: Darkroom) -> None:
    async def story() -> None:
        async with darkroom.pool() as pool:
            pool._running._specify = refuse  # the seam's other side
            with pytest.raises(RequestError, match="no such model"):
                await draw_with(pool, "x")
            assert pool.state() == []

    async def refuse(model: str) -> None:
        raise RequestError(f"model '{model}': no such model")

    asyncio.run(story())


def test_a_wrong_engine_and_wrong_flags(darkroom: Darkroom, tmp_path: Path) -> None:
    darkroom.settings["none"] = ModelSettings(engine=tmp_path / "nothing")
    darkroom.settings["other"] = ModelSettings(engine=Path("/bin/true"))
    darkroom.settings["flag"] = ModelSettings(extra_args="--no-such-flag 1")
    darkroom.settings["port"] = ModelSettings(extra_args="--listen-ip 0.0.0.0")

    async def story() -> None:
        free = [port for port in range(39200, 39220) if can_bind(port, reuse=True)]
        async with darkroom.pool() as pool:
            for model, message in {
                "none": "No such file",
                "other": "not an sd-server",
                "flag": "--no-such-flag is not known",
                "port": "--listen-ip is the pool's own",
            }.items():
                with pytest.raises(LoadFailed, match=message):
                    await pool.load(model)
            assert all(can_bind(port, reuse=True) for port in free)

    asyncio.run(story())
