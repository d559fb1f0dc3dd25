"""Downloads that break, stall, stop, and go on."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.manager.store.conftest import MIB, OpenStore, content, fetching_process, until
from tests.manager.store.hub_server import HubServer, Serve, Served

from darkroom.api.errors import Cancelled
from darkroom.manager.config import Paths
from darkroom.manager.store.download import Download
from darkroom.manager.store.errors import DownloadFailed, StoreFull
from darkroom.manager.store.options import StoreOptions
from darkroom.manager.store.progress import State
from darkroom.manager.store.store import Store
from darkroom.manager.store.wanted import Wanted

pytestmark = pytest.mark.anyio

REPO, PATH = "owner/repo", "t5.safetensors"
SIZE = 6 * MIB
THIRD = SIZE * 37 // 100


@pytest.fixture
def served(hub: HubServer) -> Served:
    return hub.add(REPO, PATH, content(SIZE))


def wanted(served: Served) -> Wanted:
    return Wanted("t5xxl", PATH, len(served.content), served.sha256, REPO, PATH)


def part_size(paths: Paths) -> int:
    return sum(part.stat().st_size for part in (paths.store / "partial").glob("*.part"))


async def held(hub: HubServer, store: Store, served: Served) -> tuple[Download, Serve]:
    """A download that waits for its server at 37 %."""
    serve = Serve(hold_at=THIRD)
    served.script.append(serve)
    download = store.start(wanted(served))
    await until(lambda: download.progress.received == THIRD or download.is_over)
    assert download.state is State.DOWNLOADING
    return download, serve


async def test_connections_that_break_off(hub: HubServer, store: Store, served: Served) -> None:
    served.script += [Serve(cut_at=MIB), Serve(cut_at=4 * MIB)]
    assert (await store.fetch(wanted(served))).read_bytes() == served.content
    assert [a.start for a in hub.gets()] == [0, MIB, 4 * MIB]
    assert hub.sent == SIZE


async def test_a_stall_is_noticed(hub: HubServer, open_store: OpenStore, served: Served) -> None:
    served.script.append(Serve(hold_at=2 * MIB))
    assert (await open_store(stall_s=0.3).fetch(wanted(served))).read_bytes() == served.content
    assert [a.start for a in hub.gets()] == [0, 2 * MIB]


async def test_slow_is_no_stall(hub: HubServer, open_store: OpenStore) -> None:
    served = hub.add(REPO, PATH, content(MIB))
    served.script.append(Serve(drip_s=0.02))
    store = open_store(stall_s=10.0)
    seen = [p.received async for p in store.start(wanted(served)).events()]
    assert len(set(seen)) > 3
    assert len(hub.gets()) == 1


async def test_a_server_without_ranges(hub: HubServer, store: Store, served: Served) -> None:
    served.script += [Serve(cut_at=MIB), Serve(ranges=False)]
    assert (await store.fetch(wanted(served))).read_bytes() == served.content
    assert [a.status for a in hub.gets()] == [200, 200]


async def test_busy_servers_are_asked_again_when_they_say(
    hub: HubServer, store: Store, served: Served
) -> None:
    served.script += [Serve(status=429, headers={"Retry-After": "0"}), Serve(status=502), Serve(cut_at=MIB)]
    assert (await store.fetch(wanted(served))).read_bytes() == served.content
    assert [a.status for a in hub.gets()] == [429, 502, 200, 206]


async def test_tries_are_counted_from_the_last_byte(
    hub: HubServer, open_store: OpenStore, served: Served
) -> None:
    served.script += [Serve(cut_at=n * MIB) for n in range(1, 6)] + [Serve(status=500)] * 3
    with pytest.raises(DownloadFailed, match="given up after 3 tries"):
        await open_store(tries=3).fetch(wanted(served))
    assert (await open_store(tries=3).fetch(wanted(served))).read_bytes() == served.content
    assert hub.sent == SIZE


async def test_a_file_that_changes_midway_is_begun_anew(hub: HubServer, store: Store) -> None:
    old, new = content(SIZE, seed=1), content(SIZE - 100, seed=2)
    hub.add("any", "m.gguf", old).script += [Serve(cut_at=4 * MIB), Serve(swap=new)]
    path = await store.fetch(Wanted("model", "m.gguf", url=hub.plain("any", "m.gguf")))
    assert path.read_bytes() == new
    first, second = hub.gets()
    assert second.headers["if-range"] == f'"{Served(old).sha256}"'
    assert (second.start, second.status, second.sent) == (4 * MIB, 200, len(new))
    assert first.sent == 4 * MIB


async def test_pause_and_resume(hub: HubServer, store: Store, served: Served, paths: Paths) -> None:
    download, serve = await held(hub, store, served)
    waiter = asyncio.create_task(store.fetch(wanted(served)))
    await download.pause()
    assert download.state is State.PAUSED
    assert part_size(paths) == THIRD
    assert not waiter.done()
    serve.release.set()
    await download.resume()
    assert (await waiter).read_bytes() == served.content
    assert [a.start for a in hub.gets()] == [0, THIRD]


async def test_cancel(hub: HubServer, store: Store, served: Served, paths: Paths) -> None:
    download, _ = await held(hub, store, served)
    waiter = asyncio.create_task(store.fetch(wanted(served)))
    await asyncio.sleep(0)
    await store.cancel(store.download(download.id))
    with pytest.raises(Cancelled):
        await waiter
    assert not list((paths.store / "partial").iterdir())
    assert (await store.fetch(wanted(served))).read_bytes() == served.content
    assert [a.start for a in hub.gets()] == [0, 0]


async def test_who_waits_may_go_away(hub: HubServer, store: Store, served: Served) -> None:
    download, serve = await held(hub, store, served)
    waiter = asyncio.create_task(store.fetch(wanted(served)))
    await asyncio.sleep(0)
    waiter.cancel()
    serve.release.set()
    assert (await download.wait()).read_bytes() == served.content


async def test_many_who_want_one_file(hub: HubServer, store: Store, served: Served) -> None:
    paths = await asyncio.gather(*(store.fetch(wanted(served)) for _ in range(20)))
    assert len(set(paths)) == 1
    assert len(hub.gets()) == 1


async def test_two_files_at_once_and_no_more(hub: HubServer, store: Store) -> None:
    files = [hub.add(REPO, f"{n}.gguf", content(MIB, seed=n)) for n in range(3)]
    for file in files:
        file.script.append(Serve(hold_at=1000))
    downloads = [
        store.start(Wanted("vae", f"{n}.gguf", MIB, file.sha256, REPO, f"{n}.gguf"))
        for n, file in enumerate(files)
    ]
    first, second, third = (file.script[0] for file in files)
    await until(lambda: first.held.is_set() and second.held.is_set())
    assert downloads[2].state is State.QUEUED
    assert not third.held.is_set()
    first.release.set()
    await downloads[0].wait()
    await until(third.held.is_set)
    second.release.set()
    third.release.set()
    for download, file in zip(downloads, files, strict=True):
        assert (await download.wait()).read_bytes() == file.content


async def test_progress_has_speed_and_time_left(hub: HubServer, store: Store, served: Served) -> None:
    seen = [p async for p in store.start(wanted(served)).events()]
    running = [p for p in seen if p.state is State.DOWNLOADING and p.speed > 0]
    assert running
    assert all(p.eta is not None and p.eta >= 0 and p.total == SIZE for p in running)
    assert seen[-1].state is State.COMPLETED


async def test_a_closed_store_goes_on_where_it_was(
    hub: HubServer, open_store: OpenStore, served: Served
) -> None:
    store = open_store()
    _, serve = await held(hub, store, served)
    await store.close()
    serve.release.set()
    again = open_store()
    (download,) = again.downloads()
    assert (download.state, download.progress.received) == (State.INTERRUPTED, THIRD)
    assert again.resume_interrupted() == [download]
    assert (await download.wait()).read_bytes() == served.content
    assert [a.start for a in hub.gets()] == [0, THIRD]


async def test_kill_9_at_37_percent(
    hub: HubServer, open_store: OpenStore, paths: Paths, served: Served
) -> None:
    serve = Serve(hold_at=THIRD)
    served.script.append(serve)
    process = fetching_process(paths, wanted(served), HF_ENDPOINT=hub.endpoint)
    await until(lambda: part_size(paths) == THIRD)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    serve.release.set()
    store = open_store()
    (download,) = store.downloads()
    assert (download.state, download.progress.received) == (State.INTERRUPTED, THIRD)
    assert (await store.fetch(wanted(served))).read_bytes() == served.content
    last = hub.gets()[-1]
    assert (last.start, last.sent) == (THIRD, SIZE - THIRD)


async def test_two_processes_one_download(hub: HubServer, paths: Paths, served: Served) -> None:
    serve = Serve(hold_at=THIRD)
    served.script.append(serve)
    first = fetching_process(paths, wanted(served), HF_ENDPOINT=hub.endpoint)
    await until(serve.held.is_set)
    others = [fetching_process(paths, wanted(served), HF_ENDPOINT=hub.endpoint) for _ in range(2)]
    serve.release.set()
    answers = [process.communicate(timeout=30)[0].strip() for process in (first, *others)]
    assert len(set(answers)) == 1
    assert Path(answers[0]).read_bytes() == served.content
    assert len(hub.gets()) == 1


async def test_another_process_takes_over_from_one_that_died(
    hub: HubServer, store: Store, paths: Paths, served: Served
) -> None:
    serve = Serve(hold_at=THIRD)
    served.script.append(serve)
    process = fetching_process(paths, wanted(served), HF_ENDPOINT=hub.endpoint)
    await until(lambda: part_size(paths) == THIRD)
    download = store.start(wanted(served))
    await until(lambda: download.progress.received == THIRD)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert (await download.wait()).read_bytes() == served.content
    assert [a.start for a in hub.gets()] == [0, THIRD]


async def test_damaged_remains_are_fetched_anew_once(
    hub: HubServer, open_store: OpenStore, served: Served, paths: Paths
) -> None:
    store = open_store()
    _, serve = await held(hub, store, served)
    await store.close()
    serve.release.set()
    (part,) = (paths.store / "partial").glob("*.part")
    part.write_bytes(bytes(THIRD))
    assert (await open_store().fetch(wanted(served))).read_bytes() == served.content
    assert [a.start for a in hub.gets()] == [0, THIRD, 0]


async def test_no_room_is_said_before_the_first_byte(
    hub: HubServer, open_store: OpenStore, served: Served
) -> None:
    store = open_store(reserve=MIB, free_space=lambda folder: SIZE + MIB - 1)
    with pytest.raises(StoreFull) as caught:
        await store.fetch(wanted(served))
    assert (caught.value.needed, caught.value.free) == (SIZE, SIZE + MIB - 1)
    assert "gc" in str(caught.value)
    assert hub.sent == 0


async def test_room_is_shared_by_the_downloads(hub: HubServer, open_store: OpenStore) -> None:
    files = [hub.add(REPO, f"{n}.gguf", content(MIB, seed=n)) for n in range(2)]
    store = open_store(free_space=lambda folder: MIB + MIB // 2)
    files[0].script.append(Serve(hold_at=1000))
    first = store.start(Wanted("vae", "0.gguf", MIB, files[0].sha256, REPO, "0.gguf"))
    serve = files[0].script[0]
    await until(serve.held.is_set)
    with pytest.raises(StoreFull):
        await store.fetch(Wanted("vae", "1.gguf", MIB, files[1].sha256, REPO, "1.gguf"))
    serve.release.set()
    await first.wait()
    await store.fetch(Wanted("vae", "1.gguf", MIB, files[1].sha256, REPO, "1.gguf"))


async def test_room_that_goes_away_pauses(hub: HubServer, open_store: OpenStore, served: Served) -> None:
    free = {"bytes": SIZE}
    store = open_store(recheck=MIB, free_space=lambda folder: free["bytes"])
    download, serve = await held(hub, store, served)
    free["bytes"] = MIB
    serve.release.set()
    with pytest.raises(StoreFull):
        await download.wait()
    assert download.state is State.PAUSED
    kept = download.progress.received
    assert kept >= THIRD
    free["bytes"] = SIZE
    await download.resume()
    assert (await download.wait()).read_bytes() == served.content
    assert hub.gets()[-1].start >= kept


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_happens_the_bytes_are_right(
    hub: HubServer, store: Store, served: Served, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(chance.randint(3, 9)):
        served.script.append(
            chance.choice(
                [
                    Serve(cut_at=chance.randrange(SIZE)),
                    Serve(cut_at=chance.randrange(SIZE), ranges=False),
                    Serve(status=chance.choice([403, 429, 500, 503]), headers={"Retry-After": "0"}),
                ]
            )
        )
    assert (await store.fetch(wanted(served))).read_bytes() == served.content


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "small"
    disk.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=4m", "darkroom-test", str(disk)]
    if not shutil.which("mount") or subprocess.run(argv, capture_output=True).returncode:
        pytest.skip("mounting takes root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


async def test_a_disk_that_is_full(
    hub: HubServer, small_disk: Path, options: StoreOptions, served: Served
) -> None:
    promises = replace(options, free_space=lambda folder: SIZE)
    async with Store(Paths.under(small_disk), promises) as store:
        with pytest.raises(StoreFull, match="no room left"):
            await store.fetch(wanted(served))
        (download,) = store.downloads()
        assert download.state is State.PAUSED
        kept = download.progress.received
        assert kept > MIB
        subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
        await download.resume()
        assert (await download.wait()).read_bytes() == served.content
        assert hub.gets()[-1].start == kept
