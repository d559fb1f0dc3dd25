"""Scaled fp8 as ComfyUI writes it: beside `x.weight` lies a factor, `x.scale_weight` or `x.weight_scale`."""

from __future__ import annotations

import torch
from torch import Tensor

from darkroom.api.errors import CheckpointError
from darkroom.quant import fp8
from darkroom.quant.packed import PackedTensor
from darkroom.weights.container import Container
from darkroom.weights.index import TensorIndex

SCALES = ("scale_weight", "weight_scale")
OTHERS = ("scale_input", "input_scale", "comfy_quant")
"""For arithmetic in fp8, which is not done here."""
MARKER = "scaled_fp8"


def with_scales(container: Container, subject: str) -> Container:
    """The container with its scales folded into the weights they belong to; itself where there are none.

    Raises CheckpointError for a scale beside a weight of another type.
    """
    index = container.index
    scales: dict[str, str] = {}
    for name in index:
        stem, _, last = name.rpartition(".")
        weight = f"{stem}.weight"
        if last not in SCALES or weight not in index:
            continue
        if index[weight].dtype not in fp8.DTYPES:
            raise CheckpointError(
                f"{subject}: tensor {weight!r} is {index[weight].dtype} with a scale beside it ({name}); "
                "only fp8 weights with scales are read"
            )
        scales[weight] = name
    return ScaledFile(container, scales) if scales else container


class ScaledFile:
    """A container whose scaled weights are read as packed tensors with their scale."""

    def __init__(self, container: Container, scales: dict[str, str]) -> None:
        self._container, self._scales = container, scales
        stems = {weight.removesuffix("weight") for weight in scales}
        hidden = {stem + last for stem in stems for last in SCALES + OTHERS}
        self.index = TensorIndex(
            (
                info
                for name, info in container.index.items()
                if name not in hidden and name.rpartition(".")[2] != MARKER
            ),
            container.index.metadata,
        )

    def read(self, name: str) -> Tensor | PackedTensor:
        """The tensor; packed if it has a scale."""
        tensor = self._container.read(name)
        if name not in self._scales or isinstance(tensor, PackedTensor):
            return tensor
        info, scale = self.index[name], self._container.read(self._scales[name])
        if isinstance(scale, PackedTensor) or scale.numel() not in (1, *info.shape[:1]):
            raise CheckpointError(
                f"{self._scales[name]}: does not fit a weight of shape {list(info.shape)}; "
                "expected one number, or one for each row"
            )
        data = tensor.contiguous().view(-1).view(torch.uint8)
        return PackedTensor(data, info.dtype, info.shape, scale.to(torch.float32))

    def release(self, name: str) -> None:
        """Gives the tensor's memory back."""
        self._container.release(name)

    def close(self) -> None:
        """Closes the file."""
        self._container.close()
