"""What this process may use of its machine: cores and memory, limits of containers and shells included."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells a container its limits (cgroup v2)."""


def physical_cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may keep busy; hyper-threads of one core count once."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    quota, _, period = _limit(cgroup / "cpu.max").partition(" ")
    if quota.isdigit():
        cores = min(cores, -(-int(quota) // int(period)))
    return max(cores, 1)


def free_and_total_memory(cgroup: Path = CGROUP) -> tuple[int, int]:
    """Bytes of main memory that can be had now, and in total."""
    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    limits = [_address_space()]
    limit, used = _limit(cgroup / "memory.max"), _limit(cgroup / "memory.current")
    if limit.isdigit() and used.isdigit():
        limits.append((int(limit), int(used)))
    for most, taken in limits:
        if most is not None:
            free, total = min(free, max(most - taken, 0)), min(total, most)
    return free, total


def _address_space() -> tuple[int | None, int]:
    """What `ulimit -v` allows, None for all, and what of it is in use."""
    if sys.platform == "win32":
        return None, 0
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None, 0
    return limit, psutil.Process().memory_info().vms


def _limit(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
