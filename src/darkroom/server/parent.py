"""Notices that the process which started this one is gone, so that no server is left behind."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from types import FrameType

import psutil

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Parent:
    """A process as it is now: its number may later be another's, its time of creation not."""

    def __init__(self, pid: int) -> None:
        self._process: psutil.Process | None = None
        try:
            process = psutil.Process(pid)
            is_older = process.create_time() <= psutil.Process().create_time()
            self._process = process if is_older else None  # a younger one has taken the number over
        except psutil.NoSuchProcess:
            pass

    def is_alive(self) -> bool:
        """Whether it still runs; one that nobody has buried yet does not."""
        try:
            process = self._process
            return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # another user's, but there
            return True


async def watch_parent(pid: int | None, stop: asyncio.Event) -> None:
    """Sets `stop` when the process `pid` has ended: within a second, on Linux at once if it is the parent."""
    if pid is None:
        return
    parent = Parent(pid)
    looked = asyncio.Event()
    _ask_for_signal(pid, looked)
    while parent.is_alive():
        try:
            await asyncio.wait_for(looked.wait(), POLL_SECONDS)
        except TimeoutError:
            continue
        looked.clear()
    logger.warning("parent: process %d has ended, and so does this server", pid)
    stop.set()


def _ask_for_signal(pid: int, look: asyncio.Event) -> None:
    """Has the kernel wake us when the parent ends. It also does when only the thread that started us ends."""
    if sys.platform != "linux" or os.getppid() != pid:
        return
    loop = asyncio.get_running_loop()

    def heard(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(look.set)

    signal.signal(signal.SIGUSR1, heard)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
