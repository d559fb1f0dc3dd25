"""Processes, ports and programs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from tests.manager.fake_sidecar import write_engine
from tests.manager.pool.conftest import listener, until

from darkroom.manager.pool import LoadFailed
from darkroom.manager.pool.engine import Engines
from darkroom.manager.pool.ports import Ports, can_bind
from darkroom.manager.pool.process import Process, clean_environment


def run(argv: list[str], folder: Path, grace: float | None = None) -> tuple[int, bytes, int]:
    """Exit status, output and pid; with `grace` it is stopped as soon as it has printed."""
    printed: list[bytes] = []

    async def story() -> tuple[int, int]:
        process = await Process.start(argv, dict(os.environ), folder, printed.append)
        if grace is not None:
            await until(lambda: printed)
            return await process.stop(grace), process.pid
        status = await process.wait()
        await until(lambda: printed)
        return status, process.pid

    status, pid = asyncio.run(story())
    return status, b"".join(printed), pid


def test_output_status_and_folder(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd(), os.getsid(0) == os.getpid(), flush=True); sys.exit(7)"
    status, printed, _ = run([sys.executable, "-c", code], tmp_path)
    assert status == 7
    assert printed.decode().split() == [str(tmp_path), "True"]


def test_stop_is_gentle_first(tmp_path: Path) -> None:
    gentle = (
        "import signal, sys; signal.signal(15, lambda *_: sys.exit(3)); print(1, flush=True); signal.pause()"
    )
    assert run([sys.executable, "-c", gentle], tmp_path, grace=10)[0] == 3
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True); signal.pause()"
    assert run([sys.executable, "-c", deaf], tmp_path, grace=0.1)[0] == -signal.SIGKILL


def test_the_whole_family_goes(tmp_path: Path) -> None:
    code = "import os, time; pid = os.fork(); pid and (print(pid, flush=True), os._exit(0)); time.sleep(600)"
    _, printed, _ = run([sys.executable, "-c", code], tmp_path)
    child = int(printed)
    asyncio.run(until(lambda: not is_there(child), "the child's end"))


def is_there(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    status, printed, _ = run([str(tmp_path / "nothing")], tmp_path)
    assert status == 1
    assert b"cannot be started: No such file" in printed


def test_secrets_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "DARKROOM_API_KEY", "DB_PASSWORD"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    environment = clean_environment()
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert "PATH" in environment
    assert not {name for name in environment if "KEY" in name or "TOKEN" in name or "PASSWORD" in name}


def four_free_ports() -> range:
    """In a row, where no outgoing connection takes them."""
    starts = (20000 + (os.getpid() + step) % 2000 * 4 for step in range(2000))
    return next(range(start, start + 4) for start in starts if all(can_bind(start + n) for n in range(4)))


def test_ports_go_round_and_skip_others() -> None:
    first, taken, third, fourth = four = four_free_ports()
    ports = Ports(four)
    with listener(taken):
        assert not can_bind(taken)
        assert not can_bind(taken, reuse=True)
        assert [ports.take() for _ in range(4)] == [first, third, fourth, None]
    ports.give_back(third)
    ports.give_back(first)
    assert ports.free() == 3  # the one that was taken as well, now
    assert [ports.take() for _ in range(2)] == [first, taken]
    ports.give_back(first)
    assert ports.take() == third


def test_a_program_is_asked_for_its_flags_once(tmp_path: Path) -> None:
    async def story() -> None:
        engines = Engines()
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        write_engine(ours)
        write_engine(theirs, "--fake-upstream")
        assert (await engines.get(ours)).is_darkroom
        assert (await engines.get(ours)) is (await engines.get(ours))
        theirs_engine = await engines.get(theirs)
        assert (theirs_engine.name, theirs_engine.slots) == ("stable-diffusion.cpp", 1)
        assert "--backend" in theirs_engine.flags
        assert "--parent-pid" not in theirs_engine.flags
        write_engine(theirs).write_text(theirs.read_text() + "# changed\n")
        assert (await engines.get(theirs)).is_darkroom
        own = await engines.get(None)
        assert {"--n-gpu-layers", "--vae-tiling", "--stream-layers", "--parent-pid"} <= own.flags
        (tmp_path / "text").write_text("not a program")
        with pytest.raises(LoadFailed, match="cannot be run"):
            await engines.get(tmp_path / "text")

    asyncio.run(story())
