"""The pool with our own sd-server on the built-in model."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest
from tests.manager.pool.conftest import heard, until, until_status

from darkroom.api.names import Role
from darkroom.manager.config import ManagerConfig, Paths
from darkroom.manager.model_settings import ModelSettings
from darkroom.manager.pool import FailureKind, LaunchSpec, LoadFailed, ModelState, Pool


def test_two_models_side_by_side_and_one_after_the_other(tmp_path: Path) -> None:
    settings = {
        "a": ModelSettings(steps=2, sampler="eulera", threads=1),
        "b": ModelSettings(steps=1, gpu_layers=0, threads=1),
        "c": ModelSettings(threads=1, extra_args="--vae-tiling"),
    }

    async def specify(model: str) -> LaunchSpec:
        return LaunchSpec(model, settings=settings[model], weight_bytes=16_000_000)

    async def story() -> None:
        config = ManagerConfig(first_port=39270, last_port=39279, max_loaded=2, eviction="lru")
        pool = Pool(config, Paths.under(tmp_path), specify)
        await pool.start()
        try:
            async with heard(pool) as events, httpx2.AsyncClient(trust_env=False, timeout=120) as client:
                await asyncio.gather(pool.load("a"), pool.load("b"))
                totals = [event.status.bytes_total for event in events if event.status.model == "a"]
                assert max(totals) > 10_000_000
                status = pool.status("a")
                assert status.settings["steps"].engaged == 2
                assert status.settings["sampler"].engaged == "euler_a"
                assert status.settings["cfg_scale"].engaged  # what the model starts from by itself
                assert pool.status("b").settings["gpu_layers"].engaged == 0
                assert status.capabilities
                assert status.capabilities.progress
                assert status.capabilities.cancel_running
                for model in "ba":
                    async with pool.lease(model) as lease:
                        body = {"prompt": "a house", "size": "64x64"}
                        answer = await client.post(f"{lease.url}/v1/images/generations", json=body)
                        assert answer.status_code == 200, answer.text
                await until(lambda: all(status.memory for status in pool.state()), "memory")
                assert (await pool.load("c")).state is ModelState.READY
                assert pool.status("b").state is ModelState.ABSENT
                assert pool.status("a").state is ModelState.READY
        finally:
            await pool.shutdown()
        assert "listening on" in (tmp_path / "state" / "logs" / "a.log").read_text()

    asyncio.run(story())


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"not a checkpoint")

    async def specify(model: str) -> LaunchSpec:
        return LaunchSpec(model, {Role.MODEL: broken}, weight_bytes=16)

    async def story() -> None:
        pool = Pool(ManagerConfig(first_port=39280, last_port=39281), Paths.under(tmp_path), specify)
        await pool.start()
        try:
            with pytest.raises(LoadFailed, match=r"broken\.safetensors") as error:
                await pool.load("broken")
            assert error.value.kind in (FailureKind.BAD_FILE, FailureKind.UNKNOWN_MODEL)
            await until_status(pool, "broken", lambda status: status.state is ModelState.FAILED)
        finally:
            await pool.shutdown()

    asyncio.run(story())
