"""Cores and memory of the machine, a container's limits included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from darkroom.runtime.host import free_and_total_memory, physical_cores

NOWHERE = Path("/nonexistent")


def test_cores_are_no_more_than_the_process_may_use() -> None:
    assert 1 <= physical_cores(NOWHERE) <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("quota", "cores"), [("100000 100000", 1), ("50000 100000", 1), ("150000 100000", 2), ("max 100000", 64)]
)
def test_quota_of_a_container_limits_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert physical_cores(tmp_path) == cores


def test_memory_is_the_machines_without_a_container() -> None:
    free, total = free_and_total_memory(NOWHERE)
    assert total == psutil.virtual_memory().total
    assert 0 < free < total


def test_limit_of_a_container_is_all_the_memory_there_is(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("100000000\n")
    (tmp_path / "memory.current").write_text("90000000\n")
    assert free_and_total_memory(tmp_path) == (10_000_000, 100_000_000)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no ulimit")
def test_limit_of_address_space_counts() -> None:
    program = (
        "from darkroom.runtime.host import free_and_total_memory; import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (300_000_000, resource.RLIM_INFINITY))\n"
        "free, total = free_and_total_memory()\n"
        "sys.exit(not (total == 300_000_000 and 0 < free < 300_000_000))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
