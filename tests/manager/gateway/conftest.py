"""Real `darkroom serve` processes, with stand-ins for sd-server or with our own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import httpx2
import psutil
import pytest
import yaml
from tests.manager.fake_sidecar import write_engine

T = TypeVar("T")

DEADLINE = 60.0
FIRST_PORT = 39240
"""of the sidecars of these tests, apart from those of others"""


def wait_for(condition: Callable[[], T], what: str, seconds: float = DEADLINE) -> T:
    """The first true answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not in {seconds:.0f} s: {what}")


class Served:
    """A home and the manager that serves it. Its models are small: `darkroom`, `other`."""

    def __init__(self, home: Path, **config: object) -> None:
        self.home = home
        self.engine = write_engine(home / "sd-server")
        self.upstream = write_engine(home / "upstream-server", "--fake-upstream")
        self.log = home / "fake.log"
        self.config: dict[str, object] = {
            "first_port": FIRST_PORT,
            "last_port": FIRST_PORT + 19,
            "port": 0,
            **config,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "DARKROOM_HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
        }

    def add_model(self, name: str) -> None:
        folder = self.home / "data/models"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(files("darkroom").joinpath("data/builtin.gguf")), folder / f"{name}.gguf")

    def set_flags(self, model: str, *flags: str) -> None:
        """What the model's stand-in is told, with the file that it notes its pictures in."""
        folder = self.home / "config/models"
        folder.mkdir(parents=True, exist_ok=True)
        words = ["--fake-log", str(self.log), *flags]
        (folder / f"{model}.yaml").write_text(yaml.safe_dump({"extra_args": words}))

    def start(self) -> Served:
        (self.home / "config").mkdir(parents=True, exist_ok=True)
        (self.home / "config/config.yaml").write_text(yaml.safe_dump(self.config))
        command = [sys.executable, "-c", "from darkroom.manager.cli import main; main()", "serve"]
        self.process = subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=(self.home / "serve.log").open("ab"),
        )
        assert self.process.stdout
        line = self.process.stdout.readline().decode()
        found = re.search(r"http://\S+", line)
        assert found, (self.home / "serve.log").read_text()
        self.url = found[0]
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        wait_for(lambda: httpx2.get(f"{self.url}/readyz").status_code == 200, "readyz")
        return self

    def stop(self) -> int:
        assert self.process
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=DEADLINE)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait(timeout=DEADLINE)

    def client(self, key: str = "", **headers: str) -> httpx2.Client:
        given = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx2.Client(base_url=self.url, timeout=DEADLINE, trust_env=False, headers=given | headers)

    def sidecars(self) -> list[psutil.Process]:
        """Processes that listen where the sidecars of this home do."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            ports = [words[at + 1] for at, word in enumerate(words[:-1]) if word == "--listen-port"]
            home = str(self.home) in " ".join(words)
            if home and any(FIRST_PORT <= int(port) < FIRST_PORT + 20 for port in ports):
                found.append(process)
        return found

    def notes(self, what: str) -> int:
        """How often the stand-ins noted it: `start`, `picture`."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return sum(line.startswith(what) for line in lines)


@contextlib.contextmanager
def serving(home: Path, *, fake: bool = True, **config: object) -> Iterator[Served]:
    """A manager until the block ends; it must leave no process."""
    served = Served(home, **config)
    if fake:
        served.config["engine"] = str(served.engine)
        served.add_model("other")
        for model in ("darkroom", "other"):
            served.set_flags(model)
    try:
        yield served.start()
    finally:
        served.stop()
        wait_for(lambda: not served.sidecars(), "all sidecars gone")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One for a module of tests, with stand-ins."""
    with serving(tmp_path_factory.mktemp("home")) as running:
        yield running
