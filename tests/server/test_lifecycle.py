from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import psutil
import pytest
from tests.server.conftest import RunningServer, StartServer, wait_for

FOREVER = {"prompt": "x", "width": 64, "height": 64, "sample_params": {"sample_steps": 10_000}}


def draw(server: RunningServer) -> None:
    """Keeps the server busy."""
    server.wait_until_ready()
    assert server.http.post("/sdcpp/v1/img_gen", json=FOREVER).status_code == 202
    wait_for(lambda: server.health()["generating"] == 1, "it is being drawn")


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_five_seconds(start_server: StartServer, number: signal.Signals) -> None:
    server = start_server("-v")
    draw(server)
    start = time.monotonic()
    server.process.send_signal(number)
    assert server.process.wait(timeout=30) == 0
    print(f"{number.name}: {time.monotonic() - start:.2f} s")
    wait_for(lambda: any("cancelled" in line for line in server.log), "the job is told to be cancelled")
    assert not any("Traceback" in line for line in server.log)


def test_it_can_be_ended_while_it_loads(start_server: StartServer) -> None:
    server = start_server()
    server.process.terminate()
    assert server.process.wait(timeout=30) == 0


def test_a_stream_ends_with_the_server(start_server: StartServer) -> None:
    server = start_server()
    server.wait_until_ready()
    id = server.http.post("/sdcpp/v1/img_gen", json=FOREVER).json()["id"]
    with server.http.stream("GET", f"/sdcpp/v1/jobs/{id}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "id: 1"
        server.process.terminate()
        rest = list(lines)
    assert "event: cancelled" in rest
    assert server.process.wait(timeout=30) == 0


PARENT = """
import subprocess, sys, os
child = subprocess.Popen([*sys.argv[1:], "--parent-pid", str(os.getpid())], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().split()[-1], flush=True)
child.wait()
"""


def test_it_ends_with_its_parent() -> None:
    command = [sys.executable, "-m", "darkroom.server.main", "--listen-port", "0"]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *command], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid, url = parent.stdout.readline().split()
    server = psutil.Process(int(pid))
    assert httpx2.get(f"{url}/health", trust_env=False).status_code == 200
    parent.kill()
    parent.wait()
    assert server.wait(timeout=30) in (0, None)  # None: no child of ours, its code is not told
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/health", trust_env=False)


def test_it_ends_at_once_when_the_parent_is_gone_already(start_server: StartServer) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    server = start_server("--parent-pid", str(gone.pid))
    assert server.process.wait(timeout=30) == 0


def test_it_stays_with_a_parent_that_lives(start_server: StartServer) -> None:
    server = start_server("--parent-pid", str(os.getpid()))
    server.wait_until_ready()
    assert server.process.poll() is None
    assert server.stop() == 0


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "darkroom.server.main", "--listen-port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: --listen-port: 127.0.0.1:{port} cannot be listened on")
