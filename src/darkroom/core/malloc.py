"""The C library's memory allocator, tuned for tensors that come and go."""

from __future__ import annotations

import ctypes
import functools
import platform

# Option numbers of mallopt, glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


@functools.cache
def keep_freed_memory() -> bool:
    """Lets this process reuse the memory of freed tensors instead of giving each back to the system at once.

    glibc maps anything above 32 MB anew each time it is asked for, and the system clears every page of it: a
    sum of two activations then takes six times as long. Freed memory stays with the process until
    `release_freed_memory`.

    Returns whether it took effect: on Linux with glibc. Does nothing at a second call.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    results = (libc.mallopt(_M_MMAP_MAX, 0), libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    return results == (1, 1)


def release_freed_memory() -> None:
    """Gives the memory of freed tensors back to the system, where the C library is glibc."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
