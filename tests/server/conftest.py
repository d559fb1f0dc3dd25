"""Real sd-server processes on the built-in model."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import httpx2
import pytest

DEADLINE = 120.0
"""Seconds that anything may take on a machine that others use, too."""


def wait_for(condition: Callable[[], object], what: str = "", seconds: float = DEADLINE) -> None:
    """Returns once `condition` holds; fails when it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not in {seconds:g} s: {what or condition}"
        time.sleep(0.02)


@dataclass
class RunningServer:
    """One process of sd-server. log: what it has said on standard error."""

    process: subprocess.Popen[str]
    url: str
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.http = httpx2.Client(base_url=self.url, timeout=DEADLINE, trust_env=False)

    def health(self) -> dict[str, object]:
        answer = self.http.get("/health")
        assert answer.status_code == 200, answer.text
        health: dict[str, object] = answer.json()
        return health

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.health()["status"] != "loading", "the model is loaded")
        health = self.health()
        assert health["status"] == "ok", health

    def stop(self) -> int:
        """Asks it to end, and gives its exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=30)


StartServer = Callable[..., RunningServer]


def _start(*argv: str, **variables: str) -> RunningServer:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | variables
    process = subprocess.Popen(
        [sys.executable, "-m", "darkroom.server.main", "--listen-port", "0", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout
    assert process.stderr
    line = process.stdout.readline()
    if not line.startswith("listening on "):
        process.kill()
        raise AssertionError(f"sd-server did not start: {line}{process.stderr.read()}")
    server = RunningServer(process, line.removeprefix("listening on ").strip())
    for stream in (process.stdout, process.stderr):
        threading.Thread(target=server.log.extend, args=(stream,), daemon=True).start()
    return server


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """A server on the built-in model, ready, for all tests that do not change it."""
    running = _start("-v")
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts a server with more options (and environment variables); it is not waited for to be ready."""
    with ExitStack() as stopping:
        yield partial(_start_for, stopping)


@pytest.fixture(scope="module")
def module_server() -> Iterator[StartServer]:
    """As `start_server`, for all tests of a module."""
    with ExitStack() as stopping:
        yield partial(_start_for, stopping)


def _start_for(stopping: ExitStack, *argv: str, **variables: str) -> RunningServer:
    running = _start(*argv, **variables)
    stopping.callback(running.stop)
    return running
