"""What this process may use of its machine: cores and memory, a container's limits included."""

from __future__ import annotations

import os
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
    limit, used = _limit(cgroup / "memory.max"), _limit(cgroup / "memory.current")
    if limit.isdigit() and used.isdigit():
        return min(memory.available, max(int(limit) - int(used), 0)), min(memory.total, int(limit))
    return memory.available, memory.total


def _limit(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
