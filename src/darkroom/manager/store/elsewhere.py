"""Files of other programs that the store uses where they are: it never writes to them, never deletes them.

A Hugging Face cache names the blobs of large files by their sha256, so nothing has to be read. The files of
any other folder are known by size first; one is read when a wanted file is as large, and the sum is
remembered for as long as device, inode, size and modification time stay the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from darkroom.manager.store.errors import StoreError
from darkroom.manager.store.folders import sha256_of
from darkroom.manager.store.ledger import Ledger

MODEL_SUFFIXES = frozenset({".safetensors", ".sft", ".ckpt", ".gguf", ".pt", ".pth", ".bin"})

_SHA256 = re.compile(r"[0-9a-f]{64}")
_Stat = tuple[int, int, int, int]


@dataclass(frozen=True)
class Adopted:
    """A folder whose files are used in place. kind: `hf-cache` or `folder`; size: bytes."""

    folder: Path
    kind: str
    files: int
    size: int


class Elsewhere:
    """What is known of adopted files. The methods block."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def adopt(self, folder: Path) -> Adopted:
        """Looks through a folder, or again. Files that are gone since are forgotten.

        Errors: StoreError when it is no folder that can be read.
        """
        folder = folder.expanduser().absolute()
        if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
            raise StoreError(f"{folder}: not a folder that can be read; give one with model files")
        kind = "hf-cache" if any(folder.glob("models--*")) else "folder"
        found = list(_cache_blobs(folder) if kind == "hf-cache" else _model_files(folder))
        with self._ledger.write() as db:
            db.execute("INSERT OR REPLACE INTO roots VALUES (?, ?)", (str(folder), kind))
            known = {
                row["path"]: (tuple(row[k] for k in ("dev", "inode", "size", "mtime_ns")), row["sha256"])
                for row in db.execute("SELECT * FROM elsewhere WHERE root = ?", (str(folder),))
            }
            db.execute("DELETE FROM elsewhere WHERE root = ?", (str(folder),))
            for path, stat, sha256 in found:
                before, summed = known.get(str(path), ((), ""))
                sha256 = sha256 or (summed if before == stat else "")
                db.execute(
                    "INSERT OR REPLACE INTO elsewhere VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (str(path), str(folder), *stat, sha256),
                )
        return Adopted(folder, kind, len(found), sum(stat[2] for _, stat, _ in found))

    def forget(self, folder: Path) -> None:
        """A folder is not used any more; its files stay as they are."""
        with self._ledger.write() as db:
            db.execute("DELETE FROM elsewhere WHERE root = ?", (str(folder.expanduser().absolute()),))
            db.execute("DELETE FROM roots WHERE path = ?", (str(folder.expanduser().absolute()),))

    def roots(self) -> list[Adopted]:
        """The adopted folders."""
        rows = self._ledger.rows(
            "SELECT roots.path, kind, count(elsewhere.path) AS files, total(size) AS size FROM roots"
            " LEFT JOIN elsewhere ON root = roots.path GROUP BY roots.path"
        )
        return [Adopted(Path(row["path"]), row["kind"], row["files"], int(row["size"])) for row in rows]

    def add(self, file: Path, sha256: str) -> None:
        """A single file whose sum is known is used in place."""
        with self._ledger.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO elsewhere VALUES (?, '', ?, ?, ?, ?, ?)",
                (str(file), *_identity(file), sha256),
            )

    def sum_of(self, file: Path, *, stop: Callable[[], bool] = lambda: False) -> str:
        """A file's sha256, remembered if the file is an adopted one.

        Errors: OSError; folders.Stopped.
        """
        stat = _identity(file)
        row = self._ledger.row("SELECT * FROM elsewhere WHERE path = ?", str(file))
        if row is not None and row["sha256"] and _row_identity(row) == stat:
            return str(row["sha256"])
        sha256 = sha256_of(file, stop=stop)
        if row is not None and _identity(file) == stat:
            with self._ledger.write() as db:
                db.execute(
                    "UPDATE elsewhere SET dev = ?, inode = ?, size = ?, mtime_ns = ?, sha256 = ?"
                    " WHERE path = ?",
                    (*stat, sha256, str(file)),
                )
        return sha256

    def find(self, sha256: str) -> Path | None:
        """An adopted file with this sum that nobody has touched since it was read."""
        for row in self._ledger.rows("SELECT * FROM elsewhere WHERE sha256 = ? ORDER BY path", sha256):
            file = Path(row["path"])
            try:
                if _identity(file) == _row_identity(row):
                    return file
            except OSError:
                pass
            with self._ledger.write() as db:
                db.execute("UPDATE elsewhere SET sha256 = '' WHERE path = ?", (str(file),))
        return None

    def search(
        self, sha256: str, size: int | None, *, stop: Callable[[], bool] = lambda: False
    ) -> Path | None:
        """Like `find`, and reads files of the right size whose sum is not known yet.

        Errors: folders.Stopped.
        """
        if found := self.find(sha256):
            return found
        if size is None:
            return None
        for file in self.unread({size}):
            try:
                if file.stat().st_size == size and self.sum_of(file, stop=stop) == sha256:
                    return file
            except OSError:
                continue
        return None

    def unread(self, sizes: set[int]) -> list[Path]:
        """Adopted files of these sizes whose sums are not known."""
        rows = self._ledger.rows("SELECT path, size FROM elsewhere WHERE sha256 = '' ORDER BY path")
        return [Path(row["path"]) for row in rows if row["size"] in sizes]

    def in_hf_cache(self, cache: Path, sha256: str, size: int | None) -> Path | None:
        """A file of a Hugging Face cache that was not adopted as a whole; from now on it is."""
        for blob in cache.glob(f"models--*/blobs/{sha256}"):
            try:
                stat = _identity(blob)
            except OSError:
                continue
            if size is None or stat[2] == size:
                self.add(blob, sha256)
                return blob
        return None


def _identity(file: Path) -> _Stat:
    now = file.stat()
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns


def _row_identity(row: object) -> _Stat:
    return tuple(row[k] for k in ("dev", "inode", "size", "mtime_ns"))  # type: ignore


def _cache_blobs(cache: Path) -> Iterator[tuple[Path, _Stat, str]]:
    """Only `models--*/blobs`: the shared `blobs` folder beside them is named by xet's own sums."""
    for blob in sorted(cache.glob("models--*/blobs/*")):
        if _SHA256.fullmatch(blob.name) and blob.is_file():
            yield blob, _identity(blob), blob.name


def _model_files(folder: Path) -> Iterator[tuple[Path, _Stat, str]]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            file = Path(parent, name)
            if file.suffix.lower() in MODEL_SUFFIXES:
                try:
                    yield file, _identity(file), ""
                except OSError:
                    continue
