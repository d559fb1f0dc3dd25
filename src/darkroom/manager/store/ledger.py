"""What the store knows of its files, in SQLite; several processes may have it open."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from darkroom.manager.store.errors import StoreError
from darkroom.manager.store.locks import FileLock
from darkroom.manager.store.wanted import Wanted

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (
    sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, added_at REAL NOT NULL,
    quarantined_at REAL);
CREATE TABLE IF NOT EXISTS names (
    role TEXT NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (role, name));
CREATE TABLE IF NOT EXISTS sources (
    sha256 TEXT NOT NULL, origin TEXT NOT NULL, url TEXT NOT NULL, repo TEXT NOT NULL, revision TEXT NOT NULL,
    etag TEXT NOT NULL, licence TEXT NOT NULL, fetched_at REAL NOT NULL, PRIMARY KEY (sha256, origin));
CREATE TABLE IF NOT EXISTS uses (
    model TEXT NOT NULL, role TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (model, role, sha256));
CREATE TABLE IF NOT EXISTS pins (sha256 TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS roots (path TEXT PRIMARY KEY, kind TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS elsewhere (
    path TEXT PRIMARY KEY, root TEXT NOT NULL, dev INTEGER NOT NULL, inode INTEGER NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS elsewhere_by_size ON elsewhere (size);
CREATE INDEX IF NOT EXISTS elsewhere_by_sum ON elsewhere (sha256);
CREATE TABLE IF NOT EXISTS downloads (
    key TEXT PRIMARY KEY, wanted TEXT NOT NULL, state TEXT NOT NULL, total INTEGER, error TEXT NOT NULL,
    since REAL NOT NULL);
"""


@dataclass(frozen=True)
class Source:
    """Where bytes came from. revision: the commit; etag: the server's word for the version."""

    origin: str
    url: str = ""
    repo: str = ""
    revision: str = ""
    etag: str = ""
    licence: str = ""
    fetched_at: float = 0.0


@dataclass(frozen=True)
class Use:
    """A model that uses a file, and as what."""

    model: str
    role: str
    sha256: str


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """One process at a time: SQLite does not wait for its turn to change a new file's journal mode."""
    lock = FileLock(path.with_suffix(".lock"))
    deadline = time.monotonic() + 30.0
    while not lock.acquire():
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process holds {path.with_suffix('.lock')}")
        time.sleep(0.01)
    try:
        yield
    finally:
        lock.release()


class Ledger:
    """The tables. Every method is one transaction."""

    def __init__(self, path: Path) -> None:
        """Raises StoreError when the file is none of ours or cannot be opened."""
        self._lock = threading.RLock()
        try:
            with _opening(path):
                self._open(path)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"store's ledger {path}: {error}; it must be a file of this program that can be written to"
            ) from error

    def _open(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)  # addresses may have tokens in them
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Ends the connection."""
        with self._lock:
            self._db.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction that takes the write lock at once, so that it never has to be tried again."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled it back already
                    self._db.execute("ROLLBACK")
                raise

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """What a query finds."""
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def row(self, query: str, *values: object) -> sqlite3.Row | None:
        """The first that a query finds."""
        found = self.rows(query, *values)
        return found[0] if found else None

    def add_blob(self, sha256: str, size: int, mtime_ns: int) -> None:
        """The store has these bytes now."""
        with self.write() as db:
            db.execute(
                "INSERT INTO blobs VALUES (?, ?, ?, ?, NULL) ON CONFLICT (sha256) DO UPDATE SET"
                " size = excluded.size, mtime_ns = excluded.mtime_ns, added_at = excluded.added_at,"
                " quarantined_at = NULL",
                (sha256, size, mtime_ns, time.time()),
            )

    def add_name(self, role: str, name: str, sha256: str, *, avoid: bool = False) -> str:
        """Gives bytes a name; a name that other bytes have gets digits of the sum.

        avoid: the name is taken by something that the ledger does not know.
        Returns: the name they have now.
        """
        with self.write() as db:
            row = db.execute("SELECT sha256 FROM names WHERE role = ? AND name = ?", (role, name)).fetchone()
            if (row and row["sha256"] != sha256) or (avoid and not row):
                file = PurePath(name)
                name = f"{file.stem}-{sha256[:8]}{file.suffix}"
            db.execute("INSERT OR REPLACE INTO names VALUES (?, ?, ?)", (role, name, sha256))
            return name

    def has_name(self, role: str, name: str) -> bool:
        """Whether the store gave this name to something."""
        return self.row("SELECT 1 FROM names WHERE role = ? AND name = ?", role, name) is not None

    def names(self, sha256: str) -> list[tuple[str, str]]:
        """Every (role, name) of these bytes."""
        rows = self.rows("SELECT role, name FROM names WHERE sha256 = ? ORDER BY role, name", sha256)
        return [(row["role"], row["name"]) for row in rows]

    def add_source(self, sha256: str, source: Source) -> None:
        """Remembers where bytes came from."""
        with self.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    sha256,
                    source.origin,
                    source.url,
                    source.repo,
                    source.revision,
                    source.etag,
                    source.licence,
                    source.fetched_at or time.time(),
                ),
            )

    def sources(self, sha256: str) -> list[Source]:
        """Where bytes came from."""
        rows = self.rows("SELECT * FROM sources WHERE sha256 = ? ORDER BY fetched_at", sha256)
        return [Source(**{k: row[k] for k in row.keys() if k != "sha256"}) for row in rows]  # noqa: SIM118

    def last_from(self, origin: str) -> tuple[str, Source] | None:
        """The newest bytes that came from `origin`."""
        row = self.row("SELECT * FROM sources WHERE origin = ? ORDER BY fetched_at DESC", origin)
        if row is None:
            return None
        return row["sha256"], Source(**{k: row[k] for k in row.keys() if k != "sha256"})  # noqa: SIM118

    def use(self, model: str, files: dict[str, str]) -> None:
        """`model` uses these files and no others: sha256 by role."""
        with self.write() as db:
            db.execute("DELETE FROM uses WHERE model = ?", (model,))
            db.executemany("INSERT INTO uses VALUES (?, ?, ?)", [(model, r, s) for r, s in files.items()])

    def add_use(self, model: str, role: str, sha256: str) -> None:
        """`model` uses these bytes as well."""
        with self.write() as db:
            db.execute("INSERT OR REPLACE INTO uses VALUES (?, ?, ?)", (model, role, sha256))

    def uses(self, sha256: str | None = None) -> list[Use]:
        """Who uses these bytes, or everything."""
        rows = (
            self.rows("SELECT * FROM uses ORDER BY model, role")
            if sha256 is None
            else self.rows("SELECT * FROM uses WHERE sha256 = ? ORDER BY model, role", sha256)
        )
        return [Use(row["model"], row["role"], row["sha256"]) for row in rows]

    def pin(self, sha256: str, pinned: bool) -> None:
        """Keeps bytes from being collected, or not."""
        with self.write() as db:
            if pinned:
                db.execute("INSERT OR REPLACE INTO pins VALUES (?)", (sha256,))
            else:
                db.execute("DELETE FROM pins WHERE sha256 = ?", (sha256,))

    def drop_names(self, sha256: str) -> None:
        """These bytes have no name any more."""
        with self.write() as db:
            db.execute("DELETE FROM names WHERE sha256 = ?", (sha256,))

    def set_download(self, wanted: Wanted, state: str, total: int | None, error: str) -> None:
        """Where an unfinished download stands, for the next process."""
        with self.write() as db:
            db.execute(
                "INSERT INTO downloads VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
                " state = excluded.state, total = excluded.total, error = excluded.error",
                (wanted.key, json.dumps(wanted.to_dict()), state, total, error, time.time()),
            )

    def drop_download(self, key: str) -> None:
        """A download is over."""
        with self.write() as db:
            db.execute("DELETE FROM downloads WHERE key = ?", (key,))

    def downloads(self) -> list[dict[str, Any]]:
        """Those that were not finished: wanted, state, total, error."""
        rows = self.rows("SELECT * FROM downloads ORDER BY since")
        return [dict(row) | {"wanted": Wanted.from_dict(json.loads(row["wanted"]))} for row in rows]
