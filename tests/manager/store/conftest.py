from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.manager.store.hub_server import HubServer

from darkroom.manager.config import Paths
from darkroom.manager.store.options import StoreOptions
from darkroom.manager.store.store import Store
from darkroom.manager.store.wanted import Wanted

MIB = 1024**2
OpenStore = Callable[..., Store]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.under(tmp_path / "home")


@pytest.fixture
def options(hub: HubServer, tmp_path: Path) -> StoreOptions:
    """For the server above; quick to give up, no Hugging Face cache but the test's."""
    return StoreOptions(
        endpoint=hub.endpoint,
        token="",
        offline=False,
        hf_cache=tmp_path / "hf",
        allow_private=True,
        backoff_s=0.01,
        reserve=0,
        grace_s=0.0,
    )


@pytest.fixture
async def open_store(paths: Paths, options: StoreOptions) -> AsyncIterator[OpenStore]:
    """`open_store(tries=2)`: a store on the test's folder, closed in the end."""
    opened: list[Store] = []

    def make(**changes: object) -> Store:
        opened.append(Store(paths, replace(options, **changes)))  # type: ignore[arg-type]
        return opened[-1]

    yield make
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return open_store()


def content(size: int = 3 * MIB, seed: int = 0) -> bytes:
    """Bytes that no two places of the file share."""
    return random.Random(seed).randbytes(size)


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Waits for a condition; fails when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


def bytes_on_disk(folder: Path) -> int:
    """Without counting a file twice that has two names."""
    seen = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            stat = Path(parent, name).lstat()
            if not Path(parent, name).is_symlink() and "sqlite" not in name:
                seen[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(seen.values())


_FETCH = """
import asyncio, json, sys
from pathlib import Path
from darkroom.manager.config import Paths
from darkroom.manager.store.options import StoreOptions
from darkroom.manager.store.store import Store
from darkroom.manager.store.wanted import Wanted
from darkroom.manager.store.wanted import Wanted

async def main(home, wanted):
    async with Store(Paths.under(Path(home)), StoreOptions(reserve=0)) as store:
        print(await store.fetch(Wanted(**json.loads(wanted))))

asyncio.run(main(*sys.argv[1:]))
"""


def fetching_process(paths: Paths, file: Wanted, **environment: str) -> subprocess.Popen[str]:
    """A process that fetches one file with the environment's settings and prints where it is."""
    home = paths.config.parent
    argv = [sys.executable, "-c", _FETCH, str(home), json.dumps(file.to_dict())]
    own = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=own | {"HF_HOME": str(home / "hf-home")} | environment,
    )
