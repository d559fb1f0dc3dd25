"""The pool with stand-ins for sd-server: real processes, real ports."""

from __future__ import annotations

import asyncio
import math

import psutil
import pytest
from tests.manager.pool.conftest import (
    Darkroom,
    draw,
    draw_with,
    heard,
    impatient,
    listener,
    until,
    until_status,
)

from darkroom.manager.model_settings import ModelSettings
from darkroom.manager.pool import (
    ModelState,
    PoolError,
    PoolFull,
    ShuttingDown,
    SidecarLost,
)
from darkroom.manager.pool.ports import can_bind

MB = 1024**2


def test_a_model_is_loaded_on_demand_and_serves(darkroom: Darkroom) -> None:
    darkroom.flags["a"] = ["--fake-load", "0.2", "--fake-bytes", "5000"]

    async def story() -> None:
        async with darkroom.pool() as pool, heard(pool) as events:
            assert pool.status("a").state is ModelState.ABSENT
            async with pool.lease("a") as lease:
                assert lease.url == f"http://127.0.0.1:{pool.status('a').port}"
                assert pool.status("a").state is ModelState.BUSY
                assert (await draw(lease))["data"]
            status = pool.status("a")
            assert (status.state, status.loads, status.leases) == (ModelState.READY, 1, 0)
            assert status.bytes_read == status.bytes_total == 5000
            assert status.settings["steps"].engaged == 4
            seen = list(dict.fromkeys(event.status.state for event in events))
            assert seen == ["validating", "queued", "starting", "loading", "ready", "busy"]
            reads = [event.status.bytes_read for event in events if event.status.state == "loading"]
            assert reads == sorted(reads)
            assert len(set(reads)) > 2

    asyncio.run(story())


def test_fifty_callers_of_a_cold_model_cause_one_load(darkroom: Darkroom) -> None:
    darkroom.flags["a"] = ["--fake-load", "0.3", "--fake-step", "0.001"]

    async def story() -> None:
        async with darkroom.pool() as pool:
            answers = await asyncio.gather(*(draw_with(pool, "a") for _ in range(50)))
            assert len({answer["fake"]["pid"] for answer in answers}) == 1
            assert pool.status("a").loads == 1
            assert darkroom.specified == ["a"]
            assert len(darkroom.started()) == 1

    asyncio.run(story())


def test_a_caller_that_goes_away_does_not_end_the_load(darkroom: Darkroom) -> None:
    darkroom.flags["a"] = darkroom.flags["b"] = ["--fake-load", "0.4"]

    async def story() -> None:
        async with darkroom.pool() as pool:
            first = asyncio.create_task(draw_with(pool, "a"))
            second = asyncio.create_task(draw_with(pool, "a"))
            await until_status(pool, "a", lambda status: status.state is ModelState.LOADING)
            first.cancel()
            assert (await second)["data"]
            assert pool.status("a").loads == 1
            only = asyncio.create_task(draw_with(pool, "b"))
            await until_status(pool, "b", lambda status: status.state is ModelState.LOADING)
            only.cancel()
            await until_status(pool, "b", lambda status: status.state is ModelState.READY)
            assert pool.status("b").leases == 0

    asyncio.run(story())


def test_memory_for_two_of_three_models(darkroom: Darkroom) -> None:
    for model in "abc":
        darkroom.flags[model] = ["--fake-memory", str(64 * MB), "--fake-step", "0.001"]
        darkroom.weights[model] = 64 * MB

    async def story() -> None:
        async with darkroom.pool(memory_budget=200 * MB) as pool:
            await draw_with(pool, "a")
            await draw_with(pool, "b")
            await until(lambda: all(s.memory.get("ram", 0) > 64 * MB for s in pool.state()), "measurement")
            async with pool.lease("a") as lease:  # used longer ago than b, but busy
                await pool.load("c")
                assert pool.status("b").state is ModelState.ABSENT
                assert pool.status("a").state is ModelState.BUSY
                await draw(lease)
            requests = [draw_with(pool, "abc"[index % 3], steps=2) for index in range(100)]
            answers = await asyncio.gather(*requests)
            assert len(answers) == 100
            assert sum(status.loads for status in pool.state()) <= 12

    asyncio.run(story())


def test_a_foreign_listener_is_never_taken_for_ours(darkroom: Darkroom) -> None:
    async def story() -> None:
        foreign = await asyncio.create_subprocess_exec(
            str(darkroom.engine), "--listen-port", "39240", "--fake-step", "0"
        )
        try:
            await until(lambda: not can_bind(39240))
            async with darkroom.pool(first_port=39240, last_port=39241) as pool:
                assert (await draw_with(pool, "a"))["fake"]["pid"] != foreign.pid
                assert pool.status("a").port == 39241
                await pool.pin("a")
                with pytest.raises(PoolFull, match="no room for 'b' beside the pinned models"):
                    await pool.load("b")
            assert foreign.returncode is None
        finally:
            foreign.terminate()
            await foreign.wait()

    asyncio.run(story())


def test_all_ports_are_held_by_others(darkroom: Darkroom) -> None:
    async def story() -> None:
        with listener(39242):
            async with darkroom.pool(first_port=39242, last_port=39242) as pool:
                with pytest.raises(PoolFull, match="all ports from 39242 to 39242"):
                    await pool.load("a")

    asyncio.run(story())


def test_one_place_for_two_models_neither_thrashes_nor_starves(darkroom: Darkroom) -> None:
    for model in "ab":
        darkroom.flags[model] = ["--fake-step", "0.01"]
        darkroom.settings[model] = ModelSettings(engine=darkroom.upstream)  # one request at a time

    async def story() -> None:
        async with darkroom.pool(max_loaded=1, age_bound=4.0) as pool:
            clock = asyncio.get_running_loop().time
            drawn: list[str] = []

            async def client(model: str) -> None:
                for _ in range(15):
                    async with pool.lease(model) as lease:
                        await draw(lease, steps=2)
                    drawn.append(model)

            began = clock()
            await asyncio.gather(*(client("ab"[number % 2]) for number in range(6)))
            lasted = clock() - began
            loads = sum(status.loads for status in pool.state())
            assert loads <= 3 + lasted / 4, f"{loads} loads in {lasted:.1f} s of turns that last four"
            assert len(drawn) == 90

    asyncio.run(story())


def test_keep_alive_of_the_manager_the_model_and_the_request(darkroom: Darkroom) -> None:
    darkroom.settings["stays"] = ModelSettings(keep_alive=-1)
    darkroom.settings["goes"] = ModelSettings(keep_alive=0)

    async def story() -> None:
        async with darkroom.pool(keep_alive=0.5) as pool:
            for model in ("usual", "stays", "pinned"):
                await draw_with(pool, model)
            await pool.pin("pinned")
            async with pool.lease("asked", keep_alive=math.inf) as lease:
                await draw(lease)
            async with pool.lease("at once", keep_alive=0.0) as lease:
                await draw(lease)
            await draw_with(pool, "goes")
            for model in ("usual", "at once", "goes"):
                await until_status(pool, model, lambda status: status.state is ModelState.ABSENT)
            for model in ("stays", "pinned", "asked"):
                status = pool.status(model)
                assert (status.state, status.unloads_in) == (ModelState.READY, None)

    asyncio.run(story())


def test_the_least_recently_used_goes_and_the_pinned_stays(darkroom: Darkroom) -> None:
    async def story() -> None:
        async with darkroom.pool(max_loaded=2) as pool:
            await draw_with(pool, "a")
            await draw_with(pool, "b")
            await draw_with(pool, "a")
            await draw_with(pool, "c")
            assert pool.status("b").state is ModelState.ABSENT
            await pool.pin("a")
            await draw_with(pool, "b")
            assert pool.status("c").state is ModelState.ABSENT
            assert pool.status("a").pinned
            await pool.pin("b")
            with pytest.raises(PoolFull, match=r"pinned models \(a, b\)"):
                await draw_with(pool, "c")
            await pool.pin("a", False)
            await draw_with(pool, "c")

    asyncio.run(story())


def test_unload_waits_for_the_work_unless_forced(darkroom: Darkroom) -> None:
    darkroom.flags["a"] = ["--fake-step", "0.05"]

    async def story() -> None:
        async with darkroom.pool() as pool:
            async with pool.lease("a") as lease:
                unloading = asyncio.create_task(pool.unload("a"))
                await until_status(pool, "a", lambda status: status.state is ModelState.DRAINING)
                assert (await draw(lease))["data"]
            await unloading
            assert pool.status("a").state is ModelState.ABSENT
            drawing = asyncio.create_task(draw_with(pool, "a", steps=500))
            await until_status(pool, "a", lambda status: status.state is ModelState.BUSY)
            await pool.unload("a", force=True)
            with pytest.raises(SidecarLost, match="was stopped"):
                await drawing
            darkroom.flags["b"] = ["--fake-load", "30"]
            waiting = asyncio.create_task(draw_with(pool, "b"))
            await until_status(pool, "b", lambda status: status.state is ModelState.LOADING)
            await pool.unload("b")
            with pytest.raises(PoolError, match="was unloaded while it loaded"):
                await waiting

    asyncio.run(story())


def test_shutdown_drains_and_kills_the_deaf_with_their_children(darkroom: Darkroom) -> None:
    darkroom.flags["a"] = ["--fake-step", "0.05"]
    darkroom.flags["deaf"] = ["--fake-deaf", "--fake-child"]

    async def story() -> None:
        async with darkroom.pool(patience=impatient(stop=0.3)) as pool:
            await draw_with(pool, "deaf")
            pid = pool.status("deaf").pid
            assert pid
            family = [psutil.Process(pid), *psutil.Process(pid).children()]
            assert len(family) == 2
            async with pool.lease("a") as lease:
                drawing = asyncio.create_task(draw(lease, steps=10))
                stopping = asyncio.create_task(pool.shutdown(20))
                await until(lambda: pool.status("deaf").state is ModelState.STOPPING)
                with pytest.raises(ShuttingDown):
                    await draw_with(pool, "b")
                assert (await drawing)["data"]
            await stopping
            await until(lambda: not any(is_alive(process) for process in family), "end of the family")
            with pytest.raises(ShuttingDown):
                await draw_with(pool, "a")
            assert list(darkroom.paths.run.glob("pool-*.json")) == []

    asyncio.run(story())


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_preload_and_logs(darkroom: Darkroom) -> None:
    darkroom.flags["bad"] = ["--fake-load-fault", "invalid header: bad.gguf"]

    async def story() -> None:
        async with darkroom.pool(preload=("a", "bad")) as pool:
            await until_status(pool, "a", lambda status: status.state is ModelState.READY)
            await until_status(pool, "bad", lambda status: status.state is ModelState.FAILED)
            assert "loading tensors completed" in pool.logs("a")
            assert "invalid header: bad.gguf" in pool.logs("bad")
            assert "--listen-port" in pool.log_file("a").read_text()

    asyncio.run(story())
