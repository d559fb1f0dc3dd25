"""What the manager needs of its machine, checked one by one."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from darkroom.api.errors import DarkroomError
from darkroom.manager.library.library import BUILTIN
from darkroom.manager.service import Manager
from darkroom.manager.units import count_of, readable_bytes

_LEAST_DISK = 5 * 1000**3
_LEAST_MEMORY = 2 * 1000**3


@dataclass(frozen=True)
class Check:
    """One thing. detail: what was found, and what would be right where it is wrong."""

    name: str
    ok: bool
    detail: str


async def checks(manager: Manager) -> list[Check]:
    """All of them."""
    await manager.scanned()
    return [
        _python(),
        _torch(),
        await _models(manager),
        _ports(manager),
        _folders(manager),
        _disk(manager.paths.store),
        _memory(),
        _keys(manager),
        *await asyncio.to_thread(_broken, manager),
    ]


def _python() -> Check:
    return Check("python", sys.version_info >= (3, 11), sys.version.split()[0])


def _torch() -> Check:
    found = importlib.util.find_spec("torch") is not None
    return Check("torch", found, "installed" if found else "missing; sd-server cannot draw without it")


async def _models(manager: Manager) -> Check:
    try:
        await manager.specify(BUILTIN)
    except DarkroomError as error:
        return Check("built-in model", False, str(error))
    return Check("built-in model", True, f"{count_of(manager.library.models(), 'model')} in the library")


def _ports(manager: Manager) -> Check:
    ports = manager.config.ports
    own = {status.port for status in manager.pool.state()}
    free = [port for port in ports if port in own or _is_free(port)]
    text = f"{len(free)} of {len(ports)} free ({ports[0]}-{ports[-1]})"
    return Check("ports", bool(free), text)


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _folders(manager: Manager) -> Check:
    paths = manager.paths
    bad = [str(p) for p in (paths.data, paths.state, paths.models) if not os.access(p, os.W_OK)]
    bad += [str(folder) for folder in manager.config.folders if not folder.is_dir()]
    return Check(
        "folders", not bad, f"not there or not writable: {', '.join(bad)}" if bad else str(paths.data)
    )


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    return Check("disk", free > _LEAST_DISK, f"{readable_bytes(free)} free at {folder}")


def _memory() -> Check:
    free = psutil.virtual_memory().available
    return Check("memory", free > _LEAST_MEMORY, f"{readable_bytes(free)} free")


def _keys(manager: Manager) -> Check:
    file = manager.paths.keys_file
    if not file.exists():
        return Check("keys", manager.config.is_loopback, "none: whoever reaches the address may use it")
    private = os.name == "nt" or not file.stat().st_mode & 0o077
    text = count_of(manager.keys.all(), "key") if private else f"{file} can be read by others; chmod 600"
    return Check("keys", private, text)


def _broken(manager: Manager) -> list[Check]:
    return [
        Check(f"file {file.path.name}", False, file.problem)
        for file in manager.library.files()
        if file.problem
    ]
