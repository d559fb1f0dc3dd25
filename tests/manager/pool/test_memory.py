"""Memory as the system and nvidia-smi tell it; rungs; stalls."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.manager.pool.conftest import Darkroom, draw_with, heard, until, until_status

from darkroom.manager.model_settings import ModelSettings
from darkroom.manager.pool.activity import Activity
from darkroom.manager.pool.ladder import Rung, Rungs
from darkroom.manager.pool.memory import Gpu, Measurement, await_return, main_device, measure

MIB = 1024**2
NVIDIA_SMI = """#!/bin/sh
case "$1" in
--query-gpu*) printf '0, GPU-aaa, 24564, 20000\\n1, GPU-bbb, 81559, [N/A]\\n2, GPU-ccc, 49140, 1024\\n' ;;
--query-compute-apps*) cat "$APPS" ;;
esac
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    pid = os.getpid()
    apps = tmp_path / "apps"
    apps.write_text(f"{pid}, GPU-aaa, 4000\n{pid}, GPU-ccc, 100\n1, GPU-aaa, 7\n")
    monkeypatch.setenv("APPS", str(apps))


def test_a_process_and_its_children() -> None:
    code = "import sys; held = bytearray(64 << 20); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        child.stdout.readline()
        measured = asyncio.run(measure([child.pid, os.getpid(), 2**22 + 1]))
        assert child.stdin
        child.stdin.close()
    assert measured.used[child.pid]["ram"] > 64 * MIB
    assert measured.used[os.getpid()]["ram"] > measured.used[child.pid]["ram"]
    assert measured.used[2**22 + 1] == {}
    assert measured.ram_free > 0


@pytest.mark.usefixtures("nvidia_smi")
def test_gpus() -> None:
    measured = asyncio.run(measure([os.getpid()]))
    assert [gpu.name for gpu in measured.gpus] == ["cuda0", "cuda2"]  # cuda1 does not say
    used = measured.used[os.getpid()]
    assert (used["cuda0"], used["cuda2"]) == (4000 * MIB, 100 * MIB)
    room = measured.available([used], None)
    assert room["cuda0"] == (20000 + 4000 - 512) * MIB
    assert measured.available([used], 6000 * MIB)["cuda0"] == 6000 * MIB


@pytest.mark.usefixtures("nvidia_smi")
def test_memory_of_a_dead_process_comes_back_or_not() -> None:
    before = [Gpu("cuda0", "GPU-aaa", 24564 * MIB, 16000 * MIB)]
    assert asyncio.run(await_return({"cuda0": 4000 * MIB}, before, 0.0))
    assert not asyncio.run(await_return({"cuda0": 9000 * MIB}, before, 0.0))


@pytest.mark.usefixtures("nvidia_smi")
def test_a_dead_process_gets_no_requests_while_its_memory_is_awaited(
    darkroom: Darkroom, tmp_path: Path
) -> None:
    async def story() -> None:
        async with darkroom.pool() as pool:
            first = (await draw_with(pool, "a"))["fake"]["pid"]
            (tmp_path / "apps").write_text(f"{first}, GPU-aaa, 4000\n")
            status = await until_status(pool, "a", lambda status: "cuda0" in status.memory)
            assert status.memory["cuda0"] == 4000 * MIB
            async with heard(pool) as events:
                os.kill(first, signal.SIGKILL)
                await until(lambda: any(event.status.state == "stopping" for event in events), "its death")
                assert (await draw_with(pool, "a"))["fake"]["pid"] != first

    asyncio.run(story())


GPUS = (Gpu("cuda0", "GPU-aaa", 1, 1), Gpu("cuda1", "GPU-bbb", 1, 1))


@pytest.mark.parametrize(
    ("backend", "gpus", "device"),
    [
        ("", GPUS, ("cuda0", "GPU-aaa")),
        ("", (), ("ram", "ram")),
        ("cpu", GPUS, ("ram", "cpu")),
        ("cuda1", GPUS, ("cuda1", "GPU-bbb")),
        ("te=cpu,dit=cuda1", GPUS, ("cuda1", "GPU-bbb")),
        ("cuda1&cuda0", GPUS, ("cuda1", "GPU-bbb")),
        ("te=cpu", GPUS, ("cuda0", "GPU-aaa")),
    ],
)
def test_where_a_model_will_run(backend: str, gpus: tuple[Gpu, ...], device: tuple[str, str]) -> None:
    assert main_device(ModelSettings(backend=backend), gpus) == device


def test_nothing_is_available_twice() -> None:
    measured = Measurement({}, (), 1000 * MIB)
    assert measured.available([{"ram": 100 * MIB}, {"ram": 200 * MIB}], None) == {"ram": 788 * MIB}


def test_rungs_are_remembered_by_model_and_device(tmp_path: Path) -> None:
    rungs = Rungs(tmp_path / "state" / "rungs.json")
    assert rungs.get("a", "GPU-1") is Rung.FULL
    rungs.set("a", "GPU-1", Rung.TEXT_ON_CPU)
    again = Rungs(tmp_path / "state" / "rungs.json")
    assert again.get("a", "GPU-1") is Rung.TEXT_ON_CPU
    assert again.get("a", "GPU-2") is Rung.FULL
    again.forget("a")
    assert Rungs(tmp_path / "state" / "rungs.json").get("a", "GPU-1") is Rung.FULL
    assert Rung.FULL.below is Rung.TILED_VAE
    assert Rung.STREAMED.below is None


@pytest.mark.parametrize("text", ["", "[]", '{"a": {"d": 9}}', '{"a": 1}'])
def test_a_broken_file_of_rungs_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "rungs.json").write_text(text)
    assert Rungs(tmp_path / "rungs.json").get("a", "d") is Rung.FULL


def test_slow_steps_make_patient() -> None:
    activity = Activity(0.0)
    assert activity.limit(60, 20) == 60
    for step in range(1, 6):
        activity.step(step * 10.0)
    activity.step(51.0, seconds=10.0)
    assert activity.limit(60, 20) == 260
    assert activity.stalled_for(111.0) == 60
    activity.beat(111.0)
    assert activity.stalled_for(111.0) == 0
