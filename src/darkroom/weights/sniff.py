"""Which format a file is of, told by its first bytes and never by its name; and what else it may be."""

from __future__ import annotations

import json
import re
from pathlib import Path

from darkroom.api.errors import CheckpointError
from darkroom.weights import gguf, safetensors, torch_legacy, torch_zip
from darkroom.weights.container import Container
from darkroom.weights.foreign_quantization import refuse_foreign_quantization
from darkroom.weights.fp8_scales import with_scales
from darkroom.weights.mapped import MappedFile

HEAD = 4096
TEXT_LIMIT = 64 << 20
FORMATS = "safetensors, GGUF, a torch checkpoint or a *.safetensors.index.json"


def open_container(path: Path) -> Container:
    """Opens one model file of any known format.

    Raises CheckpointError that says what the file is instead, and for weights that cannot be unpacked.
    """
    file = MappedFile(path)
    try:
        container = _open(file)
        refuse_foreign_quantization(container.index, str(path))
        return with_scales(container, str(path))
    except BaseException:
        file.close()
        raise


def _open(file: MappedFile) -> Container:
    head = file.bytes(0, HEAD)
    if head.startswith(gguf.MAGIC):
        return gguf.GGUFFile(file)
    if head.startswith(torch_zip.MAGIC):
        return torch_zip.open_torch_zip(file)
    if head.startswith(torch_legacy.MAGIC):
        return torch_legacy.open_torch_legacy(file)
    if is_text(head):
        raise CheckpointError(f"{file.path}: {_describe_text(head)}")
    if safetensors.is_safetensors(head):
        return safetensors.SafetensorsFile(file)
    raise CheckpointError(
        f"{file.path}: is of no known format (its first bytes are {head[:8].hex(' ')}); expected {FORMATS}"
    )


def is_text(head: bytes) -> bool:
    """Whether a file that begins with `head` is text: no control bytes, which a safetensors length has."""
    return not re.search(rb"[\x00-\x08\x0e-\x1f]", head)


def read_shard_map(path: Path) -> dict[str, str] | None:
    """Tensor name to file name, if `path` is the index of a sharded model; None if it is anything else.

    Raises CheckpointError where the index is damaged or names files outside of its folder.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            if not is_text(head) or not head.lstrip().startswith(b"{") or path.stat().st_size > TEXT_LIMIT:
                return None
            index = json.loads(head + file.read())
    except (OSError, ValueError, RecursionError):
        return None
    shards = index.get("weight_map")
    if shards is None:
        return None
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise CheckpointError(f"{path}: its weight_map is no map of tensor names to file names")
    for shard in shards.values():
        if Path(shard).name != shard or "\\" in shard:
            raise CheckpointError(f"{path}: names the shard {shard!r}; shards lie beside their index")
    return shards


def _describe_text(head: bytes) -> str:
    text = head.decode("utf-8", errors="ignore").lstrip("\ufeff \t\r\n")
    if text.startswith("version https://git-lfs"):
        size = re.search(r"^size (\d+)$", text, re.MULTILINE)
        what = f" for a file of {size[1]} bytes" if size else ""
        return f"is a git-lfs pointer{what}, not the model; fetch it with `git lfs pull`"
    if re.match(r"(?i)<(!doctype|html|head|body|\?xml|!--)", text):
        title = re.search(r"(?is)<title[^>]*>\s*(.{1,80}?)\s*</title>", text)
        what = f" ({title[1]!r})" if title else ""
        return f"is an HTML page{what}, not a model; the download needs another address or a login"
    if text.startswith(("{", "[")):
        return f"is JSON, not a model: {' '.join(text.split())[:120]}; expected {FORMATS}"
    return f"is a text file, not a model: {' '.join(text.split())[:80]!r}; expected {FORMATS}"
