"""What every tokenizer is, and what they are made from."""

from __future__ import annotations

import lzma
from importlib.resources import files
from typing import Protocol


class TextTokenizer(Protocol):
    """Text to the token ids of one vocabulary."""

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, without any that begin, end or fill a sequence."""


def well_formed(text: str) -> str:
    """`text` as it can be encoded: lone surrogates become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_packed(name: str) -> bytes:
    """A vocabulary file of the package, unpacked."""
    return lzma.decompress(files(__package__).joinpath("data", f"{name}.xz").read_bytes())
