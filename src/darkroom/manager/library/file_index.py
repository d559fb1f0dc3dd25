"""What is known of files that were read before, so that a second scan reads none of them.

A file is recognised by device, inode, size and time of change: it may be renamed and stays known.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import asdict
from os import stat_result
from pathlib import Path
from typing import Any, NamedTuple

from darkroom.manager.library.parts import FileFormat, Identity, Part, PartKind

logger = logging.getLogger(__name__)

VERSION = 1
"""Of how files are identified; another one starts anew."""


class Stamp(NamedTuple):
    """Which file it is, and which state of it."""

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: stat_result) -> Stamp:
        """The stamp of a file."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class Known(NamedTuple):
    """What reading a file gave."""

    format: FileFormat | None
    identity: Identity
    problem: str


class FileIndex:
    """The cache, in SQLite; in memory alone where its file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open(str(path))
        except (OSError, sqlite3.Error) as err:
            logger.warning("%s: cannot be used (%s); every start reads all files anew", path, err)
            self._db = self._open(":memory:")

    @staticmethod
    def _open(path: str) -> sqlite3.Connection:
        db = sqlite3.connect(path, timeout=10.0, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            db.executescript(
                "DROP TABLE IF EXISTS files;"
                "CREATE TABLE files (device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER,"
                " known TEXT NOT NULL, PRIMARY KEY (device, inode)) WITHOUT ROWID;"
                f"PRAGMA user_version = {VERSION};"
            )
        return db

    def all(self) -> dict[Stamp, Known]:
        """Everything that is known."""
        with self._lock:
            rows = self._db.execute("SELECT device, inode, size, mtime_ns, known FROM files").fetchall()
        return {Stamp(*row[:4]): _decoded(row[4]) for row in rows}

    def add(self, entries: Iterable[tuple[Stamp, Known]]) -> None:
        """Remembers what reading files gave, in place of earlier states of them."""
        rows = [(*_signed(stamp), _encoded(known)) for stamp, known in entries]
        try:
            with self._lock, self._db:
                self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as err:
            logger.warning("what was learned of %d files is not kept: %s", len(rows), err)

    def forget(self, stamps: Iterable[Stamp]) -> None:
        """Drops files that are gone."""
        with self._lock, self._db:
            self._db.executemany(
                "DELETE FROM files WHERE device = ? AND inode = ?", [_signed(stamp)[:2] for stamp in stamps]
            )

    def close(self) -> None:
        """Closes it."""
        with self._lock:
            self._db.close()


def _signed(stamp: Stamp) -> tuple[int, ...]:
    """SQLite's integers have 64 bits and a sign; inodes may use all bits."""
    return tuple(value - (1 << 64) if value >= 1 << 63 else value for value in stamp)


def _encoded(known: Known) -> str:
    return json.dumps([known.format, asdict(known.identity), known.problem], separators=(",", ":"))


def _decoded(text: str) -> Known:
    format, identity, problem = json.loads(text)
    parts = tuple(_part(part) for part in identity.pop("parts"))
    return Known(FileFormat(format) if format else None, Identity(parts, **identity), problem)


def _part(values: dict[str, Any]) -> Part:
    return Part(PartKind(values.pop("kind")), **values)
