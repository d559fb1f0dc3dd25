"""Processes that never outlive the manager: started in a group of their own, stopped as a group."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY", re.IGNORECASE)

# The kernel's signal at the parent's death means the thread that started the child: one that never ends.
_owner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sidecar-owner")


def clean_environment() -> dict[str, str]:
    """What a sidecar gets to see: everything but tokens, passwords and keys."""
    return {name: value for name, value in os.environ.items() if not _SECRET.search(name)}


_SILENCE_SECONDS = 1.0
"""for the output of a dead process; one that left its group can hold the pipe open"""


class Process:
    """A child and everything it starts."""

    def __init__(
        self, child: subprocess.Popen[bytes], ended: asyncio.Future[None], silent: asyncio.Future[None]
    ) -> None:
        self._child = child
        self._ended = ended
        self._silent = silent
        self.pid = child.pid
        try:
            self.created = psutil.Process(child.pid).create_time()
        except psutil.Error:
            self.created = 0.0

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        on_output: Callable[[bytes], None],
    ) -> Process:
        """Starts `argv` in `folder`; `on_output` gets what it prints, in the event loop.

        Errors: OSError where the program is not there or cannot be run.
        """
        loop = asyncio.get_running_loop()
        if sys.platform == "linux":
            wrapper = str(Path(__file__).with_name("exec_child.py"))
            argv = [sys.executable, "-I", "-S", wrapper, str(os.getpid()), *argv]
        child = await loop.run_in_executor(_owner, _start, list(argv), dict(environment), folder)
        ended: asyncio.Future[None] = loop.create_future()
        silent: asyncio.Future[None] = loop.create_future()
        await loop.connect_read_pipe(lambda: _Output(on_output, silent), child.stdout)
        threading.Thread(target=_wait, args=(child, loop, ended), daemon=True).start()
        return cls(child, ended, silent)

    @property
    def is_alive(self) -> bool:
        """Whether the child itself still runs."""
        return not self._ended.done()

    async def wait(self) -> int:
        """Its exit status, below 0 the signal that ended it; what is left of its group is killed.

        Returns when all that was printed has been handed on.
        """
        await asyncio.shield(self._ended)
        self._signal(signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SILENCE_SECONDS):
                await asyncio.shield(self._silent)
        return self._child.wait()

    async def stop(self, grace: float) -> int:
        """SIGTERM to the group, after `grace` seconds SIGKILL. Its exit status."""
        if self.is_alive:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await asyncio.shield(self._ended)
        return await self.kill()

    async def kill(self) -> int:
        """SIGKILL to the group. Its exit status."""
        self.kill_now()
        return await self.wait()

    def kill_now(self) -> None:
        """SIGKILL to the group; does not wait for its end."""
        self._signal(signal.SIGKILL)

    def owns(self, port: int) -> bool:
        """Whether the child or one of its own listens on the port."""
        try:
            child = psutil.Process(self.pid)
            family = [child, *child.children(recursive=True)]
        except psutil.Error:
            return False
        return any(_listens(process, port) for process in family)

    def _signal(self, number: signal.Signals) -> None:
        if self._child.returncode is None:  # not reaped, so the number is still this group's
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def _start(argv: list[str], environment: dict[str, str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=folder,
        start_new_session=True,
    )


def _wait(
    child: subprocess.Popen[bytes], loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]
) -> None:
    """Waits without reaping, so that the process group's number stays taken until it has been cleared."""
    if hasattr(os, "waitid"):
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    else:
        child.wait()
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_settle, ended)


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _listens(process: psutil.Process, port: int) -> bool:
    try:
        connections = process.net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(item.status == psutil.CONN_LISTEN and item.laddr.port == port for item in connections)


class _Output(asyncio.Protocol):
    """Hands on what a pipe brings."""

    def __init__(self, on_output: Callable[[bytes], None], silent: asyncio.Future[None]) -> None:
        self._on_output = on_output
        self._silent = silent

    def data_received(self, data: bytes) -> None:
        self._on_output(data)

    def connection_lost(self, exc: Exception | None) -> None:
        _settle(self._silent)
