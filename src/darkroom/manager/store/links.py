"""One file under two names without a second copy of its bytes, where the file system can do that."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_FICLONE = 0x40049409  # linux/fs.h


def reflink(source: Path, target: Path) -> bool:
    """Makes `target` a copy of `source` that shares its blocks until one is written to (btrfs, XFS)."""
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        with source.open("rb") as read, target.open("xb") as write:
            fcntl.ioctl(write, _FICLONE, read.fileno())
    except FileExistsError:
        raise
    except OSError:
        target.unlink(missing_ok=True)
        return False
    return True


def hard_link(source: Path, target: Path) -> bool:
    """Makes `target` the same file as `source`; False over devices and where there are no links."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def symlink(source: Path, target: Path) -> bool:
    """Makes `target` point to `source`; False where that takes rights that this process lacks."""
    try:
        target.symlink_to(source)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def fsync_folder(folder: Path) -> None:
    """Makes new names in `folder` outlast a power failure."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
