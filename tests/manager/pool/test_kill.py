"""What is left when a manager is killed: nothing, after the next one's start at the latest."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from tests.manager.pool.conftest import DEADLINE, Darkroom, draw_with, until

from darkroom.api.health import NONCE_VARIABLE
from darkroom.manager.pool import LoadFailed
from darkroom.manager.pool.ports import can_bind
from darkroom.manager.pool.run_file import Entry, RunFile, reap

MANAGER = """
import asyncio, sys
from pathlib import Path
import os
from darkroom.manager.config import ManagerConfig, Paths
from darkroom.manager.model_settings import ModelSettings
from darkroom.manager.pool import LaunchSpec, Pool

async def main(home, name, *words):
    engine = Path(home) / name
    async def specify(model):
        return LaunchSpec(model, settings=ModelSettings(engine=engine, extra_args=words))
    first = 20000 + os.getpid() % 900 * 10
    config = ManagerConfig(first_port=first, last_port=first + 9)
    pool = Pool(config, Paths.under(Path(home) / "home"), specify)
    await pool.start()
    for model in ("a", "b"):
        status = await pool.load(model)
        print(status.pid, status.port, flush=True)
    async with pool.lease("a") as lease:
        print("leased", lease.url, flush=True)
        await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


def start_manager(
    darkroom: Darkroom, *words: str, engine: str = "sd-server"
) -> tuple[subprocess.Popen[str], list[int], list[int]]:
    """A process with a pool of two models, and their pids and ports."""
    arguments = ("-c", MANAGER, str(darkroom.home), engine, *words)
    manager = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert manager.stdout
    rows = [manager.stdout.readline().split() for _ in range(3)]
    assert rows[2][0] == "leased"
    return manager, [int(row[0]) for row in rows[:2]], [int(row[1]) for row in rows[:2]]


def kill(manager: subprocess.Popen[str]) -> None:
    manager.kill()
    manager.wait()
    assert manager.stdout
    manager.stdout.close()


def is_there(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel to kill orphans")
@pytest.mark.parametrize("engine", ["sd-server", "upstream-server"])
def test_sidecars_die_with_a_killed_manager(darkroom: Darkroom, engine: str) -> None:
    manager, pids, ports = start_manager(darkroom, engine=engine)
    assert all(is_there(pid) for pid in pids)
    kill(manager)

    async def story() -> None:
        await until(lambda: not any(is_there(pid) for pid in pids), "the sidecars' end")
        async with darkroom.pool(first_port=ports[0], last_port=ports[1]) as pool:
            assert len(list(darkroom.paths.run.glob("pool-*.json"))) == 1
            await draw_with(pool, "a")
            await draw_with(pool, "b")

    asyncio.run(story())


def test_what_outlives_the_manager_is_reaped_by_the_next(darkroom: Darkroom) -> None:
    manager, pids, ports = start_manager(darkroom, "--fake-child")
    children = [child.pid for pid in pids for child in psutil.Process(pid).children()]
    assert len(children) == 2
    kill(manager)  # the children of sidecars asked nobody to be killed
    assert all(is_there(pid) for pid in children)

    async def story() -> None:
        async with darkroom.pool() as pool:
            assert {entry.model for entry in pool.reaped} == {"a", "b"}
            assert not any(is_there(pid) for pid in (*pids, *children))
            assert all(can_bind(port, reuse=True) for port in ports)

    asyncio.run(story())


def test_a_living_manager_is_left_alone(darkroom: Darkroom) -> None:
    manager, pids, _ = start_manager(darkroom)
    try:
        assert reap(darkroom.paths.run) == []
        assert all(is_there(pid) for pid in pids)
    finally:
        kill(manager)


@pytest.fixture
def orphan(tmp_path: Path) -> subprocess.Popen[bytes]:
    """Somebody's process that carries a nonce."""
    return subprocess.Popen(["/bin/sleep", "600"], env={NONCE_VARIABLE: "n" * 32})


def write_run_file(folder: Path, entry: Entry) -> None:
    folder.mkdir(parents=True)
    document = {"manager": {"pid": 2**22 + 1, "created": 1.0}, "sidecars": [vars(entry)]}
    (folder / "pool-4194305.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("nonce", "shift", "dies"), [("n" * 32, 0.0, True), ("m" * 32, 0.0, False), ("n" * 32, -100.0, False)]
)
def test_only_what_matches_is_killed(
    tmp_path: Path, orphan: subprocess.Popen[bytes], nonce: str, shift: float, dies: bool
) -> None:
    created = psutil.Process(orphan.pid).create_time() + shift
    write_run_file(tmp_path / "run", Entry(nonce, "a", 39100, orphan.pid, created))
    try:
        assert bool(reap(tmp_path / "run")) is dies
        assert (orphan.poll() is not None) is dies
        assert list((tmp_path / "run").iterdir()) == []
    finally:
        orphan.kill()
        orphan.wait()


def test_a_process_that_was_about_to_start_is_found_by_its_nonce(
    tmp_path: Path, orphan: subprocess.Popen[bytes]
) -> None:
    write_run_file(tmp_path / "run", Entry("n" * 32, "a", 39100))
    killed = reap(tmp_path / "run")
    assert [entry.model for entry in killed] == ["a"]
    assert orphan.wait(10) == -signal.SIGKILL


def test_run_files_are_whole_and_go_away(tmp_path: Path) -> None:
    run_file = RunFile(tmp_path)
    file = tmp_path / f"pool-{os.getpid()}.json"
    run_file.put(Entry("1", "a", 39100))
    run_file.put(Entry("1", "a", 39100, 12, 3.0))
    run_file.put(Entry("2", "b", 39101))
    run_file.drop("2")
    document = json.loads(file.read_text())
    assert document["sidecars"] == [{"nonce": "1", "model": "a", "port": 39100, "pid": 12, "created": 3.0}]
    assert abs(document["manager"]["created"] - time.time()) < 3600 * 24
    run_file.close()
    assert list(tmp_path.iterdir()) == []


def test_a_run_file_that_cannot_be_written_is_warned_of(
    darkroom: Darkroom, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with darkroom.pool() as pool:
            await draw_with(pool, "a")
            shutil.rmtree(darkroom.paths.run)
            darkroom.paths.run.touch()  # so that it cannot be made again
            with pytest.raises(LoadFailed, match="Not a directory"):
                await draw_with(pool, "b")
            await draw_with(pool, "a")
            await pool.unload("a")
            await asyncio.wait_for(pool.shutdown(), DEADLINE)

    asyncio.run(story())
    assert "processes are not recorded" in caplog.text


def test_a_broken_run_file_is_removed(tmp_path: Path) -> None:
    (tmp_path / "pool-1.json").write_text("{")
    assert reap(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
