"""The manager that serves this home: a file that says where it is, for the command line to find it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from darkroom.api.errors import RequestError
from darkroom.manager.config import Paths


@dataclass(frozen=True)
class Running:
    """A manager. created: its process's start, seconds since 1970, so that a pid used again is no match."""

    url: str
    pid: int
    created: float


def running(paths: Paths) -> Running | None:
    """The manager that serves this home now."""
    import psutil

    try:
        found = Running(**json.loads((paths.run / "manager.json").read_text(encoding="utf-8")))
        process = psutil.Process(found.pid)
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return found if alive and abs(process.create_time() - found.created) < 2 else None
    except (OSError, ValueError, TypeError, psutil.Error):
        return None


def require_alone(paths: Paths) -> None:
    """Errors: RequestError when another manager serves this home: jobs and downloads have one owner."""
    other = running(paths)
    if other and other.pid != os.getpid():
        raise RequestError(
            f"{paths.state}: a manager runs here already, {other.url} (process {other.pid}); "
            "stop it, or set DARKROOM_HOME to another folder"
        )


@contextmanager
def announced(paths: Paths, url: str) -> Iterator[None]:
    """Says where this process serves, for as long as it does."""
    import psutil

    file = paths.run / "manager.json"
    paths.run.mkdir(parents=True, exist_ok=True)
    me = Running(url, os.getpid(), psutil.Process().create_time())
    fresh = file.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(asdict(me)), encoding="utf-8")
    fresh.replace(file)
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink()
