"""A model on disk, be it one file, shards or a folder: what it holds, and its tensors when asked for."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from torch import Tensor

from darkroom.api.errors import CheckpointError
from darkroom.core.diffusers_layout import FOLDERS
from darkroom.quant.packed import PackedTensor
from darkroom.weights.container import Container
from darkroom.weights.gguf import GGUFFile
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.sniff import open_container, read_shard_map

logger = logging.getLogger(__name__)

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
ENDINGS = (".safetensors", ".safetensors.index.json", ".fp16.safetensors", ".bin", ".bin.index.json", ".gguf")

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.[a-z]+$")


class Part(NamedTuple):
    """One open file of a model. prefix: what its names get in front."""

    container: Container
    prefix: str
    names: frozenset[str] | None = None  # of a shard: those that the index promises


class Checkpoint:
    """An open model. Its headers are read; `read` maps a tensor, and memory fills only when it is used.

    index: names as the files spell them, with a prefix where a folder has several files.
    nbytes: what all tensors take on disk.
    """

    def __init__(self, path: Path, parts: list[Part]) -> None:
        self.path = path
        self._places: dict[str, tuple[Container, str]] = {}
        infos: list[TensorInfo] = []
        metadata: dict[str, str | Sequence[str | int | float]] = {}
        for container, prefix, names in parts:
            metadata.update(container.index.metadata)
            for name, info in container.index.items():
                if names is not None and name not in names:
                    continue
                if prefix + name in self._places:
                    raise CheckpointError(f"{path}: holds tensor {prefix + name!r} in two of its files")
                self._places[prefix + name] = (container, name)
                infos.append(replace(info, name=prefix + name))
        self._containers = [part.container for part in parts]
        self.index = TensorIndex(infos, metadata)
        self.nbytes = sum(info.nbytes for info in infos)

    def read(self, name: str) -> Tensor | PackedTensor:
        """A tensor of the index: a view of the mapped file where possible, packed if it is quantized."""
        container, own_name = self._places[name]
        return container.read(own_name)

    def gguf_metadata(self) -> dict[str, bytes]:
        """What GGUF files say about themselves, ready for another: each value's bytes, its type in front."""
        files = [container for container in self._containers if isinstance(container, GGUFFile)]
        return {key: value for file in reversed(files) for key, value in file.metadata().items()}

    def release(self, name: str) -> None:
        """Gives back the memory that `name` took up when it was used; its view stays valid."""
        container, own_name = self._places[name]
        container.release(own_name)

    def close(self) -> None:
        """Closes the files; tensors that were read stay valid."""
        for container in self._containers:
            container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a model file, the index of a sharded one, or a folder in the diffusers layout.

    Only headers are read. Raises CheckpointError that says what is wrong and with which file.
    """
    path = Path(path)
    parts: list[Part] = []
    try:
        parts.extend(_open_folder(path) if path.is_dir() else _open_file(path, ""))
        checkpoint = Checkpoint(path, parts)
    except BaseException:
        for part in parts:
            part.container.close()
        raise
    logger.debug("%s: %d tensors, %d bytes", path, len(checkpoint.index), checkpoint.nbytes)
    return checkpoint


def _open_file(path: Path, prefix: str) -> Iterator[Part]:
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: is a device or a pipe; give a model file or folder")
    shards = read_shard_map(path)
    if shards is None:
        container = open_container(path)
        yield Part(container, prefix)
        _check_whole(path, container)
        return
    for shard in sorted(set(shards.values())):
        if not (path.parent / shard).is_file():
            raise CheckpointError(f"{path}: its shard {shard} is missing; download it into the same folder")
        container = open_container(path.parent / shard)
        names = frozenset(name for name, holder in shards.items() if holder == shard)
        yield Part(container, prefix, names)
        if missing := sorted(names - container.index.keys()):
            raise CheckpointError(
                f"{path}: promises {len(missing)} tensors in {shard} that are not there ({missing[0]}, ...); "
                "download the shard again"
            )


def _check_whole(path: Path, container: Container) -> None:
    """Raises CheckpointError for one of several files that a model was cut into, told by its name."""
    match = _SHARD.search(path.name)
    if match is None or int(match[2]) == 1:
        return
    remedy = (
        "join them with llama-gguf-split --merge"
        if isinstance(container, GGUFFile)
        else f"give their index, {path.name[: match.start()]}.safetensors.index.json, or the folder"
    )
    raise CheckpointError(f"{path}: is file {int(match[1])} of {int(match[2])} of a model; {remedy}")


def _open_folder(path: Path) -> Iterator[Part]:
    found = {prefix: file for folder, prefix in FOLDERS.items() if (file := _weights_in(path / folder))}
    if not found and (file := _weights_in(path)):
        found = {"": file}
    if not found:
        raise CheckpointError(
            f"{path}: is a folder without a model; expected {', '.join(FOLDERS)} with weights in them, "
            f"or a file such as {STEMS[0]}{ENDINGS[0]}"
        )
    for prefix, file in found.items():
        yield from _open_file(file, prefix)


def _weights_in(folder: Path) -> Path | None:
    """The file to load from a folder: safetensors before pickles, full precision before fp16."""
    candidates = (folder / (stem + ending) for ending in ENDINGS for stem in STEMS)
    return next((file for file in candidates if file.is_file()), None)
