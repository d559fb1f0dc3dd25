"""Reads the header of a model file of any format, told by its first bytes and never by its name."""

from __future__ import annotations

import re
from pathlib import Path

from darkroom.manager.library import gguf_header, safetensors_header, torch_header
from darkroom.manager.library.limited import READ_LIMIT, HeaderError, LimitedFile
from darkroom.manager.library.tensors import Header

HEAD = 4096
FORMATS = "safetensors, GGUF or a torch checkpoint"


def read_header(path: Path, limit: int = READ_LIMIT) -> Header:
    """The header of one file; at most `limit` bytes of it are read, and nothing in it is executed.

    Raises HeaderError that says what the file is instead or what is wrong with it, OSError where it cannot
    be opened.
    """
    with LimitedFile(path, limit) as file:
        head = file.read(HEAD)
        if not head:
            raise HeaderError("it is empty")
        if safetensors_header.is_safetensors(head) and head[4:8] == bytes(4):
            return safetensors_header.read_safetensors(file)  # a length may look like a pickle's beginning
        if head.startswith(gguf_header.MAGIC):
            return gguf_header.read_gguf(file)
        if head.startswith(torch_header.ZIP_MAGIC):
            return torch_header.read_zip(file)
        if torch_header.is_pickle(head):
            return torch_header.read_legacy(file)
        if _is_text(head):
            raise HeaderError(_describe_text(head))
        if safetensors_header.is_safetensors(head):
            return safetensors_header.read_safetensors(file)
        raise HeaderError(
            f"it is of no known format (its first bytes are {head[:8].hex(' ')}); not {FORMATS}"
        )


def _is_text(head: bytes) -> bool:
    """No control bytes, which the length at a safetensors file's beginning has."""
    return not re.search(rb"[\x00-\x08\x0e-\x1f]", head)


def _describe_text(head: bytes) -> str:
    text = head.decode("utf-8", errors="ignore").lstrip("\ufeff \t\r\n")
    if text.startswith("version https://git-lfs"):
        size = re.search(r"^size (\d+)$", text, re.MULTILINE)
        what = f" for a file of {size[1]} bytes" if size else ""
        return f"it is a git-lfs pointer{what}, not the model; fetch it with `git lfs pull`"
    if re.match(r"(?i)<(!doctype|html|head|body|\?xml|!--)", text):
        title = re.search(r"(?is)<title[^>]*>\s*(.{1,80}?)\s*</title>", text)
        what = f" ({' '.join(title[1].split())!r})" if title else ""
        return f"it is an HTML page{what}, not a model; the download needs another address or a login"
    if text.startswith(("{", "[")):
        return f"it is JSON, not a model; expected {FORMATS}"
    return f"it is a text file, not a model; expected {FORMATS}"
