"""The downloads of a store: those of this process, and those that earlier ones left unfinished."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

from darkroom.api.errors import RequestError
from darkroom.manager.store.download import Download
from darkroom.manager.store.errors import StoreError
from darkroom.manager.store.folders import Folders
from darkroom.manager.store.ledger import Ledger
from darkroom.manager.store.locks import FileLock
from darkroom.manager.store.partial import Partial
from darkroom.manager.store.progress import Progress, State
from darkroom.manager.store.wanted import Wanted

_log = logging.getLogger(__name__)

_OVER = (State.COMPLETED, State.CANCELLED)


class Downloads:
    """One download for each wanted file."""

    def __init__(
        self, folders: Folders, ledger: Ledger, obtain: Callable[[Download], Awaitable[Path]]
    ) -> None:
        self._folders = folders
        self._ledger = ledger
        self._obtain = obtain
        self._by_key: dict[str, Download] = {}
        for row in ledger.downloads():
            self._recall(row["wanted"], State(row["state"]), row["total"], row["error"])

    def _recall(self, wanted: Wanted, state: State, total: int | None, error: str) -> None:
        try:
            received = (self._folders.partial / f"{wanted.key}.part").stat().st_size
        except OSError:
            received = 0
        state = State.INTERRUPTED if state.is_active else state
        download = Download(wanted, self._obtain, self._note, Progress(state, received, total))
        download.error = StoreError(error) if error else None
        self._by_key[wanted.key] = download

    def _note(self, download: Download) -> None:
        """Keeps in the ledger what the next process has to know."""
        try:
            if download.state in _OVER:
                self._ledger.drop_download(download.wanted.key)
            else:
                error = str(download.error or "")
                self._ledger.set_download(download.wanted, download.state, download.progress.total, error)
        except sqlite3.OperationalError as error:  # the disk is full, which must not keep it from pausing
            _log.warning("store's ledger: %s", error)

    def start(self, wanted: Wanted) -> Download:
        """The download of a file that is under way, one that stopped and goes on, or a new one."""
        download = self._by_key.get(wanted.key)
        if download is None or (download.is_over and download.wanted != wanted) or download.state in _OVER:
            download = Download(wanted, self._obtain, self._note, Progress(State.QUEUED, 0, wanted.size))
            self._by_key[wanted.key] = download
        download.start()
        return download

    def all(self) -> list[Download]:
        """The oldest first."""
        return list(self._by_key.values())

    def resume_interrupted(self) -> list[Download]:
        """Starts those that another process began."""
        found = [download for download in self._by_key.values() if download.state is State.INTERRUPTED]
        for download in found:
            download.start()
        return found

    def active(self) -> set[str]:
        """Keys of those that are not over."""
        return {key for key, download in self._by_key.items() if not download.is_over}

    def get(self, id: str) -> Download:
        """By its id, or by a file's name.

        Errors: RequestError.
        """
        for download in self._by_key.values():
            if id in (download.id, download.wanted.key, download.wanted.name):
                return download
        known = ", ".join(download.id for download in self._by_key.values()) or "none"
        raise RequestError(f"download '{id}': there is none; known: {known}")

    async def cancel(self, download: Download) -> None:
        """Stops a download and drops what is there of it."""
        await download.cancel()
        key = download.wanted.key
        lock = FileLock(self._folders.partial / f"{key}.lock")
        if lock.acquire():  # otherwise another process goes on with it
            Partial(self._folders.partial, key).discard()
            lock.release()
        self._ledger.drop_download(key)

    async def interrupt(self) -> None:
        """Stops all, so that the next process can go on with them."""
        for download in self._by_key.values():
            await download.interrupt()
