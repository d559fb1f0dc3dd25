"""Where pictures are written, and how: under their name only when they are complete."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from darkroom.api.errors import RequestError
from darkroom.core.image_files import ImageFormat

_NUMBER = re.compile(r"((?:[^%]|^)(?:%%)*)(%\d{0,3}d)")
_unfinished: set[Path] = set()


def output_paths(output: str, count: int, begin: int = 0) -> list[Path]:
    """The names of `count` pictures.

    output: with `%d` or `%03d` each picture gets its number there, from `begin` on, and `%%` is a percent
    sign. Otherwise a single picture is `base.ext`, several are `base_0.ext`, `base_1.ext`, counted from
    `begin`. `.png` is added to a name that ends like no picture. All as stable-diffusion.cpp does.
    Raises RequestError for a name that can only be a folder.
    """
    if output.endswith(("/", os.sep)):
        raise RequestError(f"--output: '{output}' is a folder; expected the name of a picture")
    if ImageFormat.of(output) is None:
        output += ".png"
    if _NUMBER.search(output):
        return [Path(_numbered(output, begin + i)) for i in range(count)]
    path = Path(output)
    return [path.with_stem(f"{path.stem}_{begin + i}") for i in range(count)] if count > 1 else [path]


def _numbered(pattern: str, number: int) -> str:
    while found := _NUMBER.search(pattern):
        pattern = pattern[: found.start(2)] + found[2] % number + pattern[found.end(2) :]
    return pattern.replace("%%", "%")


def preview_path(path: str) -> Path:
    """The name of the file that shows the picture on its way; `.png` is added as for the picture's.

    Raises RequestError for a name that can only be a folder.
    """
    if path.endswith(("/", os.sep)) or not path:
        raise RequestError(f"--preview-path: '{path}' is a folder; expected the name of a picture")
    return Path(path if ImageFormat.of(path) else f"{path}.png")


def check_writable(paths: list[Path], what: str = "a picture", flag: str = "--output") -> None:
    """Finds out before any work whether the files can be written. Raises RequestError."""
    for path in paths:
        try:
            os.fsencode(path)
            path.exists()
        except OSError as error:
            raise RequestError(f"{flag}: '{path}' cannot be written ({error.strerror})") from None
        except ValueError:
            raise RequestError(f"{flag}: '{path}' is no name in this system's encoding") from None
        if path.is_dir():
            raise RequestError(f"{flag}: '{path}' is a folder; expected the name of {what}")
        folder = next(parent for parent in path.parents if parent.exists())
        if not folder.is_dir():
            raise RequestError(f"{flag}: '{folder}' is not a folder; expected a folder for '{path.name}'")
        if not os.access(path if path.exists() else folder, os.W_OK):
            raise RequestError(f"{flag}: '{path}' cannot be written (permission denied)")


def write_atomically(path: Path, data: bytes) -> None:
    """Writes the file beside its place and moves it there complete. Raises RequestError.

    Missing folders are made. A link is followed, and what is no file (a pipe, a device) is written into.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        _write(target, data, path)
        return
    temporary = target.with_name(f".sd-cli.{os.getpid()}.part")  # short: the name may be as long as allowed
    _unfinished.add(temporary)
    try:
        _make_folder(target.parent, path)
        _write(temporary, data, path)
        _replace(temporary, target, path)
    finally:
        discard_unfinished()


def discard_unfinished() -> None:
    """Removes what an interrupted `write_atomically` left beside its target."""
    while _unfinished:
        with contextlib.suppress(OSError):
            _unfinished.pop().unlink()


def _make_folder(folder: Path, path: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--output: '{path}' cannot be written ({error.strerror})") from None


def _write(where: Path, data: bytes, path: Path) -> None:
    try:
        where.write_bytes(data)
    except OSError as error:
        raise RequestError(f"--output: '{path}' cannot be written ({error.strerror})") from None


def _replace(temporary: Path, target: Path, path: Path) -> None:
    try:
        temporary.replace(target)
    except OSError as error:
        raise RequestError(f"--output: '{path}' cannot be written ({error.strerror})") from None
