"""Where durable jobs are kept: SQLite with a write-ahead log, so that a killed manager loses none."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from darkroom.manager.gateway.errors import GatewayError
from darkroom.manager.gateway.jobs import Fault, Job, Status

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT,
    status TEXT NOT NULL,
    completed REAL,
    document TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status);
CREATE TABLE IF NOT EXISTS idempotency (
    owner TEXT NOT NULL,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    PRIMARY KEY (owner, key)
);
"""
_VERSION = 1


class JobStore:
    """The jobs of one file. Calls take well under a millisecond and are made from the event loop."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.execute("PRAGMA busy_timeout = 5000")
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version = {_VERSION}")

    def close(self) -> None:
        """Nothing may be asked afterwards."""
        self._db.close()

    def add(self, job: Job, idempotency_key: str | None = None) -> tuple[Job, bool]:
        """The job, and whether it is new: an idempotency key that was used gives the job it made.

        Errors: GatewayError 422 where the key was used for another request.
        """
        digest = hashlib.sha256(
            json.dumps([job.model, job.request], sort_keys=True, ensure_ascii=False).encode()
        ).hexdigest()
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if idempotency_key and (old := self._used(job.owner, idempotency_key, digest)):
                return old, False
            self._db.execute(
                "INSERT INTO jobs (id, owner, status, completed, document) VALUES (?, ?, ?, ?, ?)",
                (job.id, job.owner, job.status, job.completed, job.model_dump_json()),
            )
            if idempotency_key:
                self._db.execute(
                    "INSERT INTO idempotency (owner, key, digest, job) VALUES (?, ?, ?, ?)",
                    (job.owner or "", idempotency_key, digest, job.id),
                )
        return job, True

    def _used(self, owner: str | None, key: str, digest: str) -> Job | None:
        row = self._db.execute(
            "SELECT digest, job FROM idempotency WHERE owner = ? AND key = ?", (owner or "", key)
        ).fetchone()
        if row is None:
            return None
        if row[0] != digest:
            raise GatewayError(
                f"Idempotency-Key '{key[:80]}': used for another request already; send a new one",
                status=422,
                code="idempotency_key_reused",
                retry=False,
            )
        return self.get(row[1])

    def save(self, job: Job) -> None:
        """Writes how the job is now."""
        self._db.execute(
            "UPDATE jobs SET status = ?, completed = ?, document = ? WHERE id = ?",
            (job.status, job.completed, job.model_dump_json(), job.id),
        )

    def get(self, id: str) -> Job | None:
        """The job of that id."""
        row = self._db.execute("SELECT document FROM jobs WHERE id = ?", (id,)).fetchone()
        return Job.model_validate_json(row[0]) if row else None

    def with_status(self, *statuses: Status) -> list[Job]:
        """Jobs in these states, oldest first."""
        marks = ", ".join("?" * len(statuses))
        return self._jobs(
            f"SELECT document FROM jobs WHERE status IN ({marks}) ORDER BY number",
            statuses,
        )

    def page(
        self, *, owner: str | None, status: Status | None, before: str | None, limit: int
    ) -> tuple[list[Job], bool]:
        """Jobs from the newest to the oldest, those older than the job `before`, and whether there are more.

        owner: None for everyone's.
        """
        wanted: list[Any] = []
        where = "1"
        if owner is not None:
            where, wanted = f"{where} AND owner = ?", [*wanted, owner]
        if status is not None:
            where, wanted = f"{where} AND status = ?", [*wanted, status]
        if before is not None:
            where, wanted = f"{where} AND number < (SELECT number FROM jobs WHERE id = ?)", [*wanted, before]
        found = self._jobs(
            f"SELECT document FROM jobs WHERE {where} ORDER BY number DESC LIMIT ?",
            (*wanted, limit + 1),
        )
        return found[:limit], len(found) > limit

    def position(self, id: str) -> int:
        """How many queued jobs are as old or older: 1 for the next one, 0 for one that does not wait."""
        row = self._db.execute(
            "SELECT COUNT(*) FROM jobs WHERE status = 'queued' AND number <= "
            "(SELECT number FROM jobs WHERE id = ? AND status = 'queued')",
            (id,),
        ).fetchone()
        return int(row[0])

    def count(self, status: Status) -> int:
        """How many jobs are in that state."""
        return int(self._db.execute("SELECT COUNT(*) FROM jobs WHERE status = ?", (status,)).fetchone()[0])

    def interrupt(self, job: Job, now: float) -> None:
        """Marks a job that a manager was drawing when it ended."""
        job.status, job.completed = Status.INTERRUPTED, now
        job.error = Fault(
            code="interrupted",
            message=f"job {job.id}: the manager stopped while it was drawn; POST its /retry to go on",
        )
        job.last_event += 1000  # beyond what clients of the dead manager may have seen
        self.save(job)

    def delete_older(self, before: float) -> list[Job]:
        """Forgets jobs that ended before then, and returns them."""
        old = self._jobs("SELECT document FROM jobs WHERE completed < ?", (before,))
        self._db.execute("DELETE FROM jobs WHERE completed < ?", (before,))
        return old

    def _jobs(self, query: str, values: Iterable[Any]) -> list[Job]:
        return [Job.model_validate_json(row[0]) for row in self._db.execute(query, tuple(values))]
