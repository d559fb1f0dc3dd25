"""Which processes this manager has started, on disk, so that the next one can clean up after it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from darkroom.api.health import NONCE_VARIABLE
from darkroom.manager.model_settings import write_atomically

_log = logging.getLogger(__name__)
_SAME_TIME = 2.0  # psutil computes creation times from the clock, which may be set


@dataclass(frozen=True)
class Entry:
    """One sidecar. pid 0: it was about to be started. created: seconds since 1970."""

    nonce: str
    model: str
    port: int
    pid: int = 0
    created: float = 0.0


class RunFile:
    """`pool-PID.json`: this manager's own file, rewritten whole at each change, from any thread.

    A file that cannot be written costs the next manager its knowledge, not this one its work.
    """

    def __init__(self, folder: Path) -> None:
        self._entries: dict[str, Entry] = {}
        self._file = folder / f"pool-{os.getpid()}.json"
        self._created = psutil.Process().create_time()
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._save()

    def put(self, entry: Entry) -> None:
        """Before the start with pid 0, so that nothing is lost between start and writing; then with it."""
        with self._lock:
            self._entries[entry.nonce] = entry
            self._save()

    def drop(self, nonce: str) -> None:
        """The process is gone."""
        with self._lock:
            if self._entries.pop(nonce, None):
                self._save()

    def close(self) -> None:
        """The manager stops with nothing left."""
        _remove(self._file)

    def _save(self) -> None:
        document = {
            "manager": {"pid": os.getpid(), "created": self._created},
            "sidecars": [asdict(entry) for entry in self._entries.values()],
        }
        try:
            write_atomically(self._file, json.dumps(document, indent=1))
        except OSError as error:
            _log.warning("%s: processes are not recorded: %s", self._file, error)


def reap(folder: Path) -> list[Entry]:
    """Kills what dead managers have left and removes their files. Returns what was killed.

    A process is killed only when it carries the nonce in its environment, and the one that was recorded only
    when pid and creation time are the recorded ones too. Files of managers that live are left alone.
    """
    stale = [(file, entries) for file in folder.glob("pool-*.json") if (entries := _stale(file)) is not None]
    wanted = {entry.nonce: entry for _, entries in stale for entry in entries}
    killed = []
    for process, nonce in _carriers(wanted):
        entry = wanted[nonce]
        if process.pid == entry.pid and abs(process.create_time() - entry.created) > _SAME_TIME:
            continue
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            process.send_signal(signal.SIGKILL)
            _await_end(process)
            if entry not in killed:
                killed.append(entry)
        _log.warning("process %d for '%s' was left by an earlier manager: killed", process.pid, entry.model)
    for file, _ in stale:
        _remove(file)
    return killed


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s: stays: %s", file, error)


def _await_end(process: psutil.Process) -> None:
    """Until it holds nothing any more: gone, or a zombie that its parent has not buried."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.is_running():
        if process.status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.02)


def _stale(file: Path) -> list[Entry] | None:
    """The file's entries, None when its manager lives."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        manager = document["manager"]
        entries = [Entry(**entry) for entry in document["sidecars"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s: not readable, removed: %s", file, error)
        return []
    with contextlib.suppress(psutil.Error):
        owner = psutil.Process(manager["pid"])
        if abs(owner.create_time() - manager["created"]) <= _SAME_TIME and owner.is_running():
            return None if owner.status() != psutil.STATUS_ZOMBIE else entries
    return entries


def _carriers(wanted: Mapping[str, Entry]) -> Iterator[tuple[psutil.Process, str]]:
    """The processes whose environment holds one of the nonces, their children included."""
    if not wanted:
        return
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            nonce = process.environ().get(NONCE_VARIABLE, "")
            if nonce in wanted and process.pid != os.getpid():
                yield process, nonce
