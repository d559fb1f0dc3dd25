"""Writes tensors that are in memory to a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from darkroom.quant.packed import PackedTensor
from darkroom.weights.layouts import Value, gguf_layout
from darkroom.weights.output import OutputFile
from darkroom.weights.source import describe_tensor


def write_gguf(
    path: Path, tensors: Mapping[str, Tensor | PackedTensor], metadata: Mapping[str, Value] | None = None
) -> None:
    """Writes a GGUF v3 file, as `layouts.gguf_layout` says. It appears under its name only when it is whole.

    Raises ValueError for a type that GGUF does not have, RequestError where the file cannot be written.
    """
    layout = gguf_layout([describe_tensor(name, tensor) for name, tensor in tensors.items()], metadata)
    with OutputFile(path, layout.size) as file:
        file.write(0, layout.header)
        for name, tensor in tensors.items():
            file.write(layout.starts[name], tensor.data if isinstance(tensor, PackedTensor) else tensor)
