"""Memory of freed tensors goes back to the system when asked."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Freed tensors that lie between living ones, which the allocator keeps.
MEASURE = """
import psutil, torch
from darkroom.core.malloc import release_freed_memory
def resident():
    return psutil.Process().memory_info().rss
block = 1 << 20
for _ in range(2):  # the allocator maps large blocks one by one until it has seen them come back
    tensors = [torch.ones(block // 16 if i % 2 else block * 16, dtype=torch.uint8) for i in range(40)]
    del tensors[::2]
freed = resident()
release_freed_memory()
print(freed - resident() > 100 * block)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
def test_freed_memory_is_released() -> None:
    run = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True"]
