"""What is there of a file that is being downloaded. It outlives the process, killed or not."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from io import FileIO
from pathlib import Path
from typing import Any

_CHUNK = 4 * 1024**2


class Partial:
    """`<key>.part`, and `<key>.json` beside it, which says what version of the file it is a part of.

    The methods that touch the disk block; run them in a thread. Only the holder of the key's lock may write.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.file = folder / f"{key}.part"
        self.notes_file = folder / f"{key}.json"
        self.notes: dict[str, Any] = {}
        self.received = 0
        """bytes"""
        self.inherited = 0
        """bytes that an earlier run left"""
        self._handle: FileIO | None = None
        self._digest = hashlib.sha256()
        self._lock = threading.Lock()
        self._stop = False

    def open(self) -> None:
        """Takes over what an earlier run left, reading it again for its sum."""
        with self._lock:
            self.notes = self._read_notes()
            self._handle = self.file.open("ab+", buffering=0)
            self._digest = hashlib.sha256()
            self.received = 0
            self._handle.seek(0)
            while not self._stop and (chunk := self._handle.read(_CHUNK)):
                self._digest.update(chunk)
                self.received += len(chunk)
            self.inherited = self.received

    def _read_notes(self) -> dict[str, Any]:
        try:
            notes = json.loads(self.notes_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) else {}

    def write_notes(self, **notes: Any) -> None:  # noqa: ANN401 - JSON
        """Remembers what version of the file this is."""
        if notes == self.notes:
            return
        self.notes = notes
        new = self.notes_file.with_suffix(".tmp")
        new.write_text(json.dumps(notes), encoding="utf-8")
        new.replace(self.notes_file)

    def write(self, data: bytes) -> None:
        """Adds bytes. Raises OSError; what was written before stays."""
        with self._lock:
            if self._handle is None:
                return
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[self._handle.write(rest) :]
            except OSError:
                os.truncate(self.file, self.received)
                raise
            self._digest.update(data)
            self.received += len(data)

    def restart(self) -> None:
        """Forgets all bytes."""
        with self._lock:
            os.truncate(self.file, 0)
            self._digest = hashlib.sha256()
            self.received = self.inherited = 0

    @property
    def sha256(self) -> str:
        """Of all bytes there are."""
        return self._digest.hexdigest()

    def begin(self, count: int) -> bytes:
        """The first `count` bytes."""
        with self.file.open("rb") as handle:
            return handle.read(count)

    def stop(self) -> None:
        """Makes `open` return early: nobody waits for it any more."""
        self._stop = True

    def close(self) -> None:
        """Waits for a write that is under way."""
        self.stop()
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    def finish(self) -> None:
        """It is no part any more, but the whole."""
        self.close()
        self.notes_file.unlink(missing_ok=True)

    def discard(self) -> None:
        """Deletes it."""
        self.close()
        self.file.unlink(missing_ok=True)
        self.notes_file.unlink(missing_ok=True)

    def reject(self, quarantine: Path) -> Path:
        """Moves bytes that are not what was wanted out of the way. Returns where they are."""
        self.close()
        target = quarantine / f"rejected-{self.file.stem[:16]}-{int(time.time())}"
        self.file.replace(target)
        self.notes_file.unlink(missing_ok=True)
        return target
