"""The allocator keeps what it is told to keep, and gives it back when asked."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEASURE = """
import psutil, torch
from darkroom.core.malloc import keep_freed_memory, release_freed_memory
assert keep_freed_memory() and keep_freed_memory()
size = 256 << 20
def resident():
    return psutil.Process().memory_info().rss
before = resident()
tensor = torch.ones(size, dtype=torch.uint8)
del tensor
kept = resident() - before
release_freed_memory()
print(kept > size // 2, resident() - before < size // 2)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tunes glibc")
def test_freed_memory_is_kept_until_released() -> None:
    run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True"]
