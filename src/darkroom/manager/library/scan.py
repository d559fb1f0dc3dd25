"""Looks at all files of the watched folders; only those that are new or changed are read."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from darkroom.manager.library.components import Origin
from darkroom.manager.library.file_index import FileIndex, Known, Stamp
from darkroom.manager.library.folders import Found, find_models
from darkroom.manager.library.headers import read_header
from darkroom.manager.library.identify import identify
from darkroom.manager.library.limited import HeaderError
from darkroom.manager.library.parts import FileFormat, Identity, LibraryFile
from darkroom.manager.library.tensors import MAX_TENSORS, Header, TensorHead

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scanned:
    """A file and where it was found.

    stamps: of all its files, to see whether it changed. kind: as Found's.
    """

    file: LibraryFile
    origin: Origin
    stamps: tuple[Stamp, ...]
    kind: str = "file"


class Scanner:
    """Reads files, through the index of those that were read before."""

    def __init__(self, index: FileIndex) -> None:
        self._index = index
        self._known = index.all()
        self._news: dict[Stamp, Known] = {}
        self.read = 0
        """files that had to be read, since the start"""

    def scan(self, roots: Sequence[tuple[Path, Origin]]) -> list[Scanned]:
        """Every file below the roots, each once, the first root's first."""
        found: list[Scanned] = []
        seen: set[Path] = set()
        inodes: set[tuple[Stamp, ...]] = set()
        for root, origin in roots:
            for model in find_models(root):
                if model.path in seen:
                    continue
                seen.add(model.path)
                scanned = self.look(model, origin)
                if scanned is None or (scanned.stamps and scanned.stamps in inodes):
                    continue  # gone meanwhile, or another name of the same file
                inodes.add(scanned.stamps)
                found.append(scanned)
        self._index.add(self._news.items())
        self._news.clear()
        return found

    def look(self, model: Found, origin: Origin) -> Scanned | None:
        """What one file is; None where it is gone."""
        stamps = []
        for path, _ in model.files:
            try:
                status = path.stat()
            except OSError as err:
                logger.debug("%s: %s", path, err)
                return None
            if not stat.S_ISREG(status.st_mode):  # a pipe would be waited on for ever
                return None
            stamps.append(Stamp.of(status))
        size = sum(stamp.size for stamp in stamps)
        if model.kind == "file":
            known = self._known.get(stamps[0]) or self._read(model, stamps[0])
        else:
            known = self._read_several(model)
        file = LibraryFile(model.path, known.format, size, known.identity, known.problem)
        return Scanned(file, origin, tuple(stamps), model.kind)

    def _read(self, model: Found, stamp: Stamp) -> Known:
        self.read += 1
        try:
            known = read_file(model.path)
        except OSError as err:  # not kept: the file may be readable tomorrow without having changed
            problem = f"it cannot be read ({os.strerror(err.errno) if err.errno else err})"
            return Known(None, Identity(problem=problem), problem)
        self._known[stamp] = self._news[stamp] = known
        return known

    def _read_several(self, model: Found) -> Known:
        """Folders and shards. Their headers are merged; what they are is not kept, they are few."""
        format = FileFormat.FOLDER if model.kind == "folder" else FileFormat.SHARDS
        if model.lacks:
            missing = ", ".join(model.lacks[:3])
            problem = f"it lacks {len(model.lacks)} of its files ({missing})"
            return Known(format, Identity(problem=problem), problem)
        self.read += len(model.files)
        tensors: dict[str, TensorHead] = {}
        metadata: dict[str, str] = {}
        try:
            for path, prefix in model.files:
                header = read_header(path)
                tensors |= {prefix + name: tensor for name, tensor in header.tensors.items()}
                metadata |= header.metadata
                if len(tensors) > MAX_TENSORS:
                    raise HeaderError(f"it lists more than {MAX_TENSORS} tensors")
        except (HeaderError, OSError) as err:
            problem = f"{path.name}: {err}"
            return Known(format, Identity(problem=problem), problem)
        return Known(format, identify(Header(format, tensors, metadata)), "")


def read_file(path: Path) -> Known:
    """What one file is, read anew; one that is damaged has a problem. Raises OSError."""
    try:
        header = read_header(path)
    except HeaderError as err:
        return Known(None, Identity(problem=str(err)), str(err))
    return Known(header.format, identify(header), "")


def stored_sums(blobs: Path) -> dict[tuple[int, ...], str]:
    """Sums of the store's files, which are their names there, by device and inode: links share them."""
    sums: dict[tuple[int, ...], str] = {}
    for file in blobs.glob("??/" + "?" * 64):
        try:
            sums[Stamp.of(file.stat())[:2]] = file.name
        except OSError:
            continue
    return sums
