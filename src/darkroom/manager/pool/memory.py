"""How much memory processes hold and devices have, as the system tells it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import psutil

from darkroom.api.names import Module
from darkroom.manager.model_settings import ModelSettings

_log = logging.getLogger(__name__)
RAM = "ram"
_QUERY_SECONDS = 5
_RESERVE = 512 * 1024**2
"""bytes of a device that are left to others"""


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA device. name: as --backend calls it. total, free: bytes."""

    name: str
    uuid: str
    total: int
    free: int


@dataclass(frozen=True)
class Measurement:
    """Bytes by device of each process asked for, by its pid, and what the devices have."""

    used: dict[int, dict[str, int]]
    gpus: tuple[Gpu, ...]
    ram_free: int

    def available(self, ours: Iterable[dict[str, int]], budget: int | None) -> dict[str, int]:
        """What our processes may hold together, by device: what is free and what they hold already.

        budget: bytes on one device, None for no other limit.
        """
        held: dict[str, int] = {}
        for memory in ours:
            for device, count in memory.items():
                held[device] = held.get(device, 0) + count
        limits = {RAM: self.ram_free} | {gpu.name: gpu.free for gpu in self.gpus}
        rooms = {device: free + held.get(device, 0) - _RESERVE for device, free in limits.items()}
        if budget is not None:
            rooms = {device: min(room, budget) for device, room in rooms.items()}
        return rooms


async def measure(pids: Iterable[int]) -> Measurement:
    """Asks the system and nvidia-smi, where there is one, in a thread."""
    return await asyncio.to_thread(_measure, tuple(pids))


def _measure(pids: tuple[int, ...]) -> Measurement:
    gpus, used_on = _nvidia()
    used = {}
    for pid in pids:
        memory, family = _resident(pid)
        for member in family:
            for name, count in used_on.get(member, {}).items():
                memory[name] = memory.get(name, 0) + count
        used[pid] = memory
    return Measurement(used, gpus, psutil.virtual_memory().available)


def _resident(pid: int) -> tuple[dict[str, int], list[int]]:
    """The RAM of a process and its children, shared pages by share, and their pids."""
    total, family = 0, []
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                family.append(process.pid)
                info = process.memory_full_info()
                total += getattr(info, "pss", 0) or info.rss
    return ({RAM: total} if total else {}), family


def _nvidia() -> tuple[tuple[Gpu, ...], dict[int, dict[str, int]]]:
    """The devices, and by pid the bytes on each."""
    if not shutil.which("nvidia-smi"):
        return (), {}
    gpus = [
        Gpu(f"cuda{index}", uuid, int(total) * 1024**2, int(free) * 1024**2)
        for index, uuid, total, free in _query("--query-gpu=index,uuid,memory.total,memory.free", 4)
        if total.isdecimal() and free.isdecimal()
    ]
    names = {gpu.uuid: gpu.name for gpu in gpus}
    used: dict[int, dict[str, int]] = {}
    for pid, uuid, count in _query("--query-compute-apps=pid,gpu_uuid,used_memory", 3):
        if pid.isdecimal() and count.isdecimal() and uuid in names:
            devices = used.setdefault(int(pid), {})
            devices[names[uuid]] = devices.get(names[uuid], 0) + int(count) * 1024**2
    return tuple(gpus), used


def _query(what: str, columns: int) -> list[list[str]]:
    try:
        answer = subprocess.run(
            ["nvidia-smi", what, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_QUERY_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        _log.debug("nvidia-smi: %s", error)
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines()]
    return [row for row in rows if len(row) == columns]


def main_device(settings: ModelSettings, gpus: Sequence[Gpu]) -> tuple[str, str]:
    """Where a model's diffusion network will run, as far as one can tell, and a name that stays the same."""
    parts = [part.partition("=") for part in settings.backend.lower().split(",") if part.strip()]
    devices = {Module.parse(key) if is_pair else None: value for key, is_pair, value in parts} | {
        None: next((key for key, is_pair, _ in reversed(parts) if not is_pair), "")
    }
    name = (devices.get(Module.DIFFUSION) or devices[None] or "").split("&")[0].strip()
    if name == "cpu" or not gpus:
        return RAM, name or RAM
    gpu = next((gpu for gpu in gpus if gpu.name == name), gpus[0])
    return gpu.name, gpu.uuid


async def await_return(freed: Mapping[str, int], before: Sequence[Gpu], limit: float) -> bool:
    """Waits until three quarters of what a dead process held are free again, `limit` seconds at most."""
    free_before = {gpu.name: gpu.free for gpu in before}
    deadline = time.monotonic() + limit
    while True:
        gpus = (await measure(())).gpus
        if all(gpu.free >= free_before.get(gpu.name, 0) + 0.75 * freed.get(gpu.name, 0) for gpu in gpus):
            return True
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(0.25)
