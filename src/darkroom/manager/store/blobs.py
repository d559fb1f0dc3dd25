"""The bytes that the store owns, and their names."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from darkroom.manager.store.folders import Folders, place
from darkroom.manager.store.ledger import Ledger
from darkroom.manager.store.links import fsync_folder, hard_link, reflink, symlink

_log = logging.getLogger(__name__)


class Blobs:
    """Content-addressed files."""

    def __init__(self, folders: Folders, ledger: Ledger) -> None:
        self._folders = folders
        self._ledger = ledger

    def find(self, sha256: str) -> Path | None:
        """These bytes, unless they are garbage or were changed behind the store's back."""
        file = self._folders.blob(sha256)
        row = self._ledger.row("SELECT * FROM blobs WHERE sha256 = ?", sha256)
        if row is not None and row["quarantined_at"] is not None:
            return None
        try:
            now = file.stat()
        except OSError:
            if row is not None:
                _log.warning("store: %s is gone from %s", sha256, file)
                self._drop(sha256)
            return None
        if row is None:
            self._ledger.add_blob(sha256, now.st_size, now.st_mtime_ns)
        elif (now.st_size, now.st_mtime_ns) != (row["size"], row["mtime_ns"]):
            _log.warning("store: %s was changed by somebody; it is not used any more", file)
            file.replace(self._folders.quarantine / f"changed-{sha256[:16]}-{int(time.time())}")
            self._drop(sha256)
            return None
        return file

    def find_or_restore(self, sha256: str) -> Path | None:
        """Like `find`, and brings garbage back."""
        row = self._ledger.row("SELECT * FROM blobs WHERE sha256 = ?", sha256)
        if row is not None and row["quarantined_at"] is not None:
            with suppress(FileNotFoundError):
                self._restore(sha256)
        return self.find(sha256)

    def _drop(self, sha256: str) -> None:
        with self._ledger.write() as db:
            db.execute("DELETE FROM blobs WHERE sha256 = ?", (sha256,))

    def _restore(self, sha256: str) -> None:
        target = self._folders.blob(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        (self._folders.quarantine / sha256).replace(target)
        now = target.stat()
        self._ledger.add_blob(sha256, now.st_size, now.st_mtime_ns)
        for role, name in self._ledger.names(sha256):
            self.link(target, role, name, sha256)

    def take(self, sha256: str, part: Path) -> Path:
        """Verified bytes from inside the store become a blob."""
        target = self._folders.blob(sha256)
        place(part, target)
        self._note(sha256, target)
        return target

    def bring(self, sha256: str, source: Path, *, copy: bool) -> Path | None:
        """Bytes from elsewhere become a blob without a second copy: by reflink, else hard link.

        copy: a real copy where neither works; None otherwise.
        """
        target = self._folders.blob(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        new = self._folders.partial / f"{sha256}.new"
        new.unlink(missing_ok=True)
        if reflink(source, new):
            place(new, target)
        elif hard_link(source, new):
            new.replace(target)  # its mode is the owner's, who has the same file
            fsync_folder(target.parent)
        elif copy:
            shutil.copyfile(source, new)
            place(new, target)
        else:
            return None
        self._note(sha256, target)
        return target

    def _note(self, sha256: str, file: Path) -> None:
        now = file.stat()
        self._ledger.add_blob(sha256, now.st_size, now.st_mtime_ns)

    def link(self, file: Path, role: str, name: str, sha256: str) -> Path:
        """Gives a file its name for people.

        Returns: that path, or `file` where the file system knows no links.
        """
        in_the_way = os.path.lexists(self._folders.link(role, name))
        name = self._ledger.add_name(role, name, sha256, avoid=in_the_way)
        path = self._folders.link(role, name)
        if _is_same(path, file):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{name}.{os.getpid()}.new")
        new.unlink(missing_ok=True)
        own = file.is_relative_to(self._folders.root)
        ways = (hard_link, reflink, symlink) if own else (symlink, hard_link)
        if not any(way(file, new) for way in ways):
            return file
        new.replace(path)
        new.unlink(missing_ok=True)  # renaming one link of a file onto another does nothing
        return path

    def unlink_names(self, sha256: str) -> None:
        """Takes the names away; the ledger remembers them."""
        for role, name in self._ledger.names(sha256):
            with suppress(OSError):
                self._folders.link(role, name).unlink(missing_ok=True)

    def quarantine(self, sha256: str) -> None:
        """Takes a blob out of use; `find_or_restore` brings it back."""
        self.unlink_names(sha256)
        self._folders.blob(sha256).replace(self._folders.quarantine / sha256)
        with self._ledger.write() as db:
            db.execute("UPDATE blobs SET quarantined_at = ? WHERE sha256 = ?", (time.time(), sha256))

    def delete(self, sha256: str) -> None:
        """Deletes a blob that is in quarantine."""
        (self._folders.quarantine / sha256).unlink(missing_ok=True)
        with self._ledger.write() as db:
            db.execute("DELETE FROM blobs WHERE sha256 = ?", (sha256,))
            db.execute("DELETE FROM names WHERE sha256 = ?", (sha256,))
            db.execute("DELETE FROM sources WHERE sha256 = ?", (sha256,))

    def all(self) -> Iterator[str]:
        """Their sums, quarantined ones left out."""
        for row in self._ledger.rows("SELECT sha256 FROM blobs WHERE quarantined_at IS NULL ORDER BY sha256"):
            yield row["sha256"]


def _is_same(path: Path, file: Path) -> bool:
    try:
        return path.samefile(file)
    except OSError:
        return False
