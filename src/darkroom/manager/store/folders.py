"""Where things are inside a store, and how bytes come to rest there.

```
blobs/sha256/ab/<64 digits>    the bytes, read-only; nothing else holds any
companions/<role>/<name>       the same files under the names that people and programs know
models/<name>                  likewise, for files that are models themselves
partial/<key>.{part,json}      downloads that are not finished
quarantine/                    garbage that can still be brought back, and what was rejected
links.sqlite                   names, origins, who uses what, files elsewhere
```
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from darkroom.manager.store.errors import StoreError
from darkroom.manager.store.links import fsync_folder
from darkroom.manager.store.wanted import MAIN_ROLES

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 4 * 1024**2


@dataclass(frozen=True)
class Folders:
    """The store's own folders."""

    root: Path

    def make(self) -> None:
        """Creates what is missing.

        Errors: StoreError when the place cannot be written to.
        """
        try:
            for folder in (self.partial, self.quarantine, self.blobs):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"store {self.root}: cannot be made ({error.strerror}); give a folder that can be written to"
            ) from error

    @property
    def ledger(self) -> Path:
        """SQLite."""
        return self.root / "links.sqlite"

    @property
    def partial(self) -> Path:
        """Downloads that are not finished."""
        return self.root / "partial"

    @property
    def quarantine(self) -> Path:
        """What will be deleted."""
        return self.root / "quarantine"

    @property
    def blobs(self) -> Path:
        """The bytes."""
        return self.root / "blobs" / "sha256"

    def blob(self, sha256: str) -> Path:
        """Where the bytes with this sum are, if the store has them."""
        if not _SHA256.fullmatch(sha256):
            raise StoreError(f"sha256 '{sha256}': not 64 small hexadecimal digits")
        return self.blobs / sha256[:2] / sha256

    def link(self, role: str, name: str) -> Path:
        """The name for people."""
        if role in MAIN_ROLES:
            return self.root / "models" / name
        return self.root / "companions" / role / name


def place(file: Path, target: Path) -> None:
    """Makes verified bytes a blob: on the disk, read-only, under their name, all or nothing."""
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())
    file.chmod(0o444)
    target.parent.mkdir(parents=True, exist_ok=True)
    file.replace(target)
    fsync_folder(target.parent)


class Stopped(Exception):
    """The reading thread was told to stop."""


def sha256_of(file: Path, *, stop: Callable[[], bool] = lambda: False) -> str:
    """64 hexadecimal digits.

    Errors: OSError; Stopped once `stop()` says so.
    """
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
            if stop():
                raise Stopped
    return digest.hexdigest()
