"""What in a folder is a model: files by their endings, diffusers folders and sharded models as one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from darkroom.core.diffusers_layout import FOLDERS

ENDINGS = (".safetensors", ".ckpt", ".gguf", ".pt", ".pth", ".sft", ".bin")
INDEX_ENDING = ".index.json"
MAX_DEPTH = 12
TEXT_LIMIT = 16 << 20


@dataclass(frozen=True)
class Found:
    """A model file, or several that are one model.

    path: the file, the folder or the index. files: all that it is made of, with what their tensors get in
    front. lacks: files that it names and that are not there. kind: `file`, `folder` or `shards`.
    """

    path: Path
    files: tuple[tuple[Path, str], ...]
    kind: str = "file"
    lacks: tuple[str, ...] = ()

    @classmethod
    def again(cls, path: Path, kind: str) -> Found:
        """A file that was found before, with the files that it is made of now."""
        if kind == "folder":
            return _diffusers(path)
        found = sharded(path) if kind == "shards" else None
        return found or cls(path, ((path, ""),))


def find_models(root: Path) -> Iterator[Found]:
    """Every model file below a folder, or the file itself. Hidden files and unfinished downloads are not."""
    try:
        is_file = root.is_file()
    except OSError:
        return
    if is_file:
        if root.name.lower().endswith(ENDINGS):
            yield Found(root, ((root, ""),))
        return
    yield from _walk(root, MAX_DEPTH, set())


def _walk(folder: Path, depth: int, seen: set[tuple[int, int]]) -> Iterator[Found]:
    try:
        with os.scandir(folder) as entries:
            listing = sorted(entries, key=lambda entry: entry.name)
        status = folder.stat()
    except OSError:
        return
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    folders = [entry.name for entry in listing if not entry.name.startswith(".") and _is_folder(entry)]
    names = {entry.name for entry in listing if not entry.name.startswith(".") and not _is_folder(entry)}
    if "model_index.json" in names and set(folders) & FOLDERS.keys():
        yield _diffusers(folder)
        return
    shards: set[str] = set()
    for name in sorted(names):
        if name.endswith(tuple(f"{ending}{INDEX_ENDING}" for ending in ENDINGS)):
            found = sharded(folder / name)
            if found is not None:
                shards |= {path.name for path, _ in found.files}
                yield found
    for name in sorted(names - shards):
        if name.lower().endswith(ENDINGS):
            yield Found(folder / name, ((folder / name, ""),))
    if depth:
        for name in folders:
            yield from _walk(folder / name, depth - 1, seen)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def sharded(index: Path, prefix: str = "") -> Found | None:
    """The files that an index of shards names; None where it is no such index."""
    try:
        if index.stat().st_size > TEXT_LIMIT:
            return None
        weights = json.loads(index.read_bytes()).get("weight_map")
    except (OSError, ValueError, RecursionError, AttributeError):
        return None
    if not isinstance(weights, dict) or not weights:
        return None
    names = {name for name in weights.values() if isinstance(name, str)}
    plain = sorted(name for name in names if Path(name).name == name and name not in (".", ".."))
    there = [name for name in plain if (index.parent / name).is_file()]
    lacks = sorted(names - set(there))
    return Found(index, tuple((index.parent / name, prefix) for name in there), "shards", tuple(lacks))


_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_FOLDER_ENDINGS = (
    ".safetensors", ".safetensors.index.json", ".fp16.safetensors", ".bin", ".bin.index.json", ".gguf",
)  # fmt: skip


def _diffusers(folder: Path) -> Found:
    """The files that the engine would load of a diffusers folder: safetensors first, full precision first."""
    files: list[tuple[Path, str]] = []
    lacks: list[str] = []
    for name, prefix in FOLDERS.items():
        place = folder / name
        if not place.is_dir():
            continue
        candidates = (place / (stem + ending) for ending in _FOLDER_ENDINGS for stem in _STEMS)
        file = next((file for file in candidates if file.is_file()), None)
        if file is None:
            lacks.append(f"{name}/{_STEMS[0]}.safetensors")
        elif file.name.endswith(INDEX_ENDING):
            shards = sharded(file, prefix)
            if shards is None:
                lacks.append(f"{name}/{file.name} (damaged)")
            else:
                files += shards.files
                lacks += [f"{name}/{shard}" for shard in shards.lacks]
        else:
            files.append((file, prefix))
    return Found(folder, tuple(files), "folder", tuple(lacks))
