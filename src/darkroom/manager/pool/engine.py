"""The programs that can serve a model, and how one finds out which flags a program knows."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from darkroom.api.config import EngineConfig
from darkroom.api.options import flags
from darkroom.api.request import GenerationRequest
from darkroom.manager.pool.errors import FailureKind, LoadFailed
from darkroom.manager.pool.process import clean_environment
from darkroom.manager.pool.state import Capabilities

_HELP_SECONDS = 60
_FLAG = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")


@dataclass(frozen=True)
class Engine:
    """A program with sd-server's flags and HTTP API.

    name: "darkroom" for our own sd-server and what speaks like it, else "stable-diffusion.cpp".
    flags: those it knows; the two differ, and so do versions of one.
    """

    name: str
    command: tuple[str, ...]
    flags: frozenset[str]

    @property
    def is_darkroom(self) -> bool:
        """Whether it answers /health, tells progress over HTTP and watches its parent."""
        return self.name == "darkroom"

    @property
    def capabilities(self) -> Capabilities:
        """What it can do besides drawing."""
        return Capabilities(self.is_darkroom, self.is_darkroom, self.is_darkroom)

    @property
    def slots(self) -> int:
        """Requests that may be with it at once: stable-diffusion.cpp's draws one and lets others wait."""
        return 8 if self.is_darkroom else 1


_SERVER_FLAGS = {"--listen-ip", "--listen-port", "--parent-pid"}


def own_engine() -> Engine:
    """The sd-server of this installation."""
    known = {
        name
        for options in (EngineConfig, GenerationRequest)
        for flag, _ in flags(options).values()
        for name in (*flag.names, *flag.aliases)
    }
    command = (sys.executable, "-P", "-m", "darkroom.server.main")
    return Engine("darkroom", command, frozenset(known | _SERVER_FLAGS))


class Engines:
    """Programs by path, each asked once for its flags as long as the file does not change."""

    def __init__(self) -> None:
        self._own = own_engine()
        self._known: dict[tuple[Path, int, int], Engine] = {}

    async def get(self, path: Path | None) -> Engine:
        """The program at `path`, None for our own. Errors: LoadFailed when it cannot be run."""
        if path is None:
            return self._own
        try:
            status = path.stat()
        except OSError as error:
            raise LoadFailed(f"engine {path}: {error.strerror}", FailureKind.NOT_STARTED, ()) from None
        key = (path, status.st_mtime_ns, status.st_size)
        if key not in self._known:
            self._known[key] = await asyncio.to_thread(_ask, path)
        return self._known[key]


def _ask(path: Path) -> Engine:
    try:
        answer = subprocess.run(
            [path, "--help"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=clean_environment(),
            timeout=_HELP_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoadFailed(f"engine {path}: cannot be run: {error}", FailureKind.NOT_STARTED, ()) from None
    text = answer.stdout.decode("utf-8", "replace")
    known = frozenset(_FLAG.findall(text))
    if "--listen-port" not in known:
        tail = tuple(text.splitlines()[-20:])
        raise LoadFailed(
            f"engine {path}: not an sd-server, its --help names no --listen-port",
            FailureKind.NOT_STARTED,
            tail,
        )
    name = "darkroom" if "--parent-pid" in known else "stable-diffusion.cpp"
    return Engine(name, (str(path),), known)
