"""Garbage: files of the store that nothing uses any more."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from darkroom.manager.store.blobs import Blobs
from darkroom.manager.store.folders import Folders
from darkroom.manager.store.ledger import Ledger
from darkroom.manager.store.locks import FileLock
from darkroom.manager.store.options import StoreOptions
from darkroom.manager.store.wanted import MAIN_ROLES


@dataclass(frozen=True)
class Item:
    """One file and what becomes of it. sha256: empty for remains of downloads; size: bytes on the disk."""

    sha256: str
    name: str
    size: int
    reason: str


@dataclass(frozen=True)
class Garbage:
    """What a collection did, or would do.

    removed: taken out of use now, deleted later; deleted: gone for good; kept: with the reason for each.
    """

    dry_run: bool
    removed: list[Item] = field(default_factory=list)
    deleted: list[Item] = field(default_factory=list)
    kept: list[Item] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What the disk has more, once everything removed is deleted as well."""
        return sum(item.size for item in (*self.removed, *self.deleted))


def collect(
    folders: Folders,
    ledger: Ledger,
    blobs: Blobs,
    options: StoreOptions,
    *,
    dry_run: bool,
    purge: bool,
    running: Collection[str],
    downloading: Collection[str],
) -> Garbage:
    """Marks from uses, pins, models, what runs and what is being fetched; then sweeps.

    running: sums of files that models have open or would be loaded with. downloading: keys.
    purge: nothing waits in quarantine.
    Files of other programs are not looked at.
    """
    found = Garbage(dry_run)
    for sha256 in list(blobs.all()):
        size, names = _size(folders, ledger, sha256), ledger.names(sha256)
        name = names[0][1] if names else sha256[:16]
        reason = _reason_to_keep(ledger, options, sha256, running, downloading)
        if reason:
            found.kept.append(Item(sha256, name, size, reason))
            continue
        item = Item(sha256, name, size, "no model uses it")
        (found.deleted if purge else found.removed).append(item)
        if not dry_run:
            blobs.quarantine(sha256)
            if purge:
                blobs.delete(sha256)
    _empty_quarantine(folders, ledger, blobs, options, found, purge)
    for part in _abandoned(folders, ledger, downloading):
        found.deleted.append(Item("", part.name, part.stat().st_size, "remains of a download nobody wants"))
        if not dry_run:
            part.unlink(missing_ok=True)
            part.with_suffix(".json").unlink(missing_ok=True)
    return found


def _reason_to_keep(
    ledger: Ledger, options: StoreOptions, sha256: str, running: Collection[str], downloading: Collection[str]
) -> str:
    uses = ledger.uses(sha256)
    if uses:
        return "used by " + ", ".join(f"{use.model} as {use.role}" for use in uses)
    if ledger.row("SELECT 1 FROM pins WHERE sha256 = ?", sha256):
        return "pinned"
    if sha256 in running:
        return "a model takes it"
    if sha256 in downloading:
        return "being fetched"
    if any(role in MAIN_ROLES for role, _ in ledger.names(sha256)):
        return "a model itself; `darkroom rm` removes it"
    row = ledger.row("SELECT added_at FROM blobs WHERE sha256 = ?", sha256)
    if row is not None and time.time() - row["added_at"] < options.grace_s:
        return "new"
    return ""


def _size(folders: Folders, ledger: Ledger, sha256: str) -> int:
    """What deleting it gives back: nothing, where another program has the same file by hard link."""
    try:
        now = folders.blob(sha256).stat()
    except OSError:
        return 0
    own = 1
    for role, name in ledger.names(sha256):
        try:
            own += folders.link(role, name).lstat().st_ino == now.st_ino
        except OSError:
            continue
    return now.st_size if now.st_nlink <= own else 0


def _empty_quarantine(
    folders: Folders, ledger: Ledger, blobs: Blobs, options: StoreOptions, found: Garbage, purge: bool
) -> None:
    since = {
        row["sha256"]: row["quarantined_at"]
        for row in ledger.rows("SELECT sha256, quarantined_at FROM blobs WHERE quarantined_at IS NOT NULL")
    }
    now_removed = {item.sha256 for item in found.removed}
    for file in sorted(folders.quarantine.iterdir()):
        if file.name in now_removed:
            continue
        size, age = file.stat().st_size, time.time() - since.get(file.name, file.stat().st_mtime)
        if not purge and age < options.quarantine_s:
            days = (options.quarantine_s - age) / 86400
            found.kept.append(Item("", file.name, size, f"in quarantine for {days:.1f} more days"))
            continue
        found.deleted.append(Item(file.name if file.name in since else "", file.name, size, "in quarantine"))
        if not found.dry_run:
            if file.name in since:
                blobs.delete(file.name)
            else:
                file.unlink(missing_ok=True)


def _abandoned(folders: Folders, ledger: Ledger, downloading: Collection[str]) -> Iterator[Path]:
    wanted = {row["key"] for row in ledger.rows("SELECT key FROM downloads")} | set(downloading)
    for part in sorted(folders.partial.glob("*.part")):
        if part.stem in wanted:
            continue
        lock = FileLock(part.with_suffix(".lock"))
        if lock.acquire():
            yield part
            lock.release()
