"""Textual inversion embeddings (arXiv 2208.01618): files whose names are words of a prompt."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from darkroom.api.errors import CheckpointError, RequestError
from darkroom.quant.packed import PackedTensor
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.index import TensorInfo

logger = logging.getLogger(__name__)

# Where two files have one name, the earlier format is taken.
SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt", ".gguf")

# What an embedding file may hold besides the embedding: counters and token numbers.
_NOT_VECTORS = ("i64", "i32", "i16", "i8", "u8", "bool")


def find_embeddings(folder: Path | None) -> dict[str, Path]:
    """The embedding files in `folder` by trigger word: the file's name in lower case, without its suffix.

    Raises RequestError when `folder` is not a folder.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise RequestError(f"--embd-dir: {folder} is not a folder; give the folder with the embedding files")
    files = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()]
    files.sort(key=lambda path: (SUFFIXES.index(path.suffix.lower()), path.name))
    found: dict[str, Path] = {}
    for path in files:
        word = " ".join(path.stem.lower().split())
        first = found.setdefault(word, path)
        if first is not path:
            logger.warning("embeddings: %s is left out, for %s has the same name", path.name, first.name)
    return found


def load_embedding(path: Path, width: int) -> Tensor:
    """The vectors of an embedding file for a text encoder of hidden size `width`, (n, width) float32.

    The tensor may have any name: `emb_params` (safetensors), `string_to_param` (stable-diffusion-webui),
    `<word>` (diffusers), `clip_l` and `clip_g` (SDXL) or none. The one of the right width is taken.

    Raises CheckpointError when the file has no vector of that width, or several tensors of it.
    """
    with open_checkpoint(path) as checkpoint:
        vectors = [info for info in checkpoint.index.values() if _is_vectors(info)]
        fitting = [info for info in vectors if info.shape[-1] == width]
        if not fitting:
            raise CheckpointError(f"{path}: {_widths(vectors)}; this model's text encoder takes {width}")
        if len(fitting) > 1:
            names = ", ".join(info.name for info in fitting[:3])
            raise CheckpointError(
                f"{path}: {len(fitting)} tensors of width {width} ({names}); an embedding file holds one"
            )
        tensor = checkpoint.read(fitting[0].name)
        if isinstance(tensor, PackedTensor):
            tensor = tensor.decode(torch.float32)
        return tensor.reshape(-1, width).to(torch.float32, copy=True)


def _is_vectors(info: TensorInfo) -> bool:
    return len(info.shape) in (1, 2) and info.numel > 0 and info.dtype not in _NOT_VECTORS


def _widths(vectors: list[TensorInfo]) -> str:
    if not vectors:
        return "no embedding in this file"
    widths = sorted({info.shape[-1] for info in vectors})
    return f"embedding of width {' and '.join(map(str, widths))}"
