"""What every reader of a file format gives."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from darkroom.quant.packed import PackedTensor
from darkroom.weights.index import TensorIndex


class Container(Protocol):
    """One open file. Its header has been read and checked; tensors are read when asked for."""

    @property
    def index(self) -> TensorIndex:
        """What the file holds."""

    def read(self, name: str) -> Tensor | PackedTensor:
        """A tensor of the index, mapped where the format allows."""

    def release(self, name: str) -> None:
        """Gives back the memory that reading `name` has mapped in."""

    def close(self) -> None:
        """Closes the file; tensors that were read stay valid."""
