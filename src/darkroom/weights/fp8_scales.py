"""Scaled fp8 as ComfyUI writes it: beside `x.weight` lies a factor, `x.scale_weight` or `x.weight_scale`."""

from __future__ import annotations

import torch
from torch import Tensor

from darkroom.api.errors import CheckpointError
from darkroom.quant import fp8
from darkroom.quant.packed import PackedTensor
from darkroom.weights.container import Container
from darkroom.weights.index import TensorIndex, TensorInfo

SCALES = ("scale_weight", "weight_scale")
OTHERS = ("scale_input", "input_scale", "comfy_quant")
"""For arithmetic in fp8, which is not done here."""
MARKER = "scaled_fp8"


def with_scales(container: Container, subject: str) -> Container:
    """The container with its scales folded into the weights they belong to; itself where there are none.

    Raises CheckpointError for a scale beside a weight of another type, and for one of another size.
    """
    index = container.index
    scales: dict[str, str] = {}
    unused: set[str] = set()
    for name in index:
        stem, _, last = name.rpartition(".")
        weight = f"{stem}.weight"
        if last == MARKER or (last in OTHERS and weight in index):
            unused.add(name)
        elif last in SCALES and weight in index:
            _check(index[weight], index[name], subject)
            scales[weight] = name
    return ScaledFile(container, scales, unused) if scales or unused else container


def _check(weight: TensorInfo, scale: TensorInfo, subject: str) -> None:
    if weight.dtype not in fp8.DTYPES:
        raise CheckpointError(
            f"{subject}: tensor {weight.name!r} is {weight.dtype} with a scale beside it ({scale.name}); "
            "only fp8 weights with scales are read"
        )
    if scale.numel not in (1, *weight.shape[:1]):
        raise CheckpointError(
            f"{subject}: the scale {scale.name} {list(scale.shape)} does not fit a weight of shape "
            f"{list(weight.shape)}; expected one number, or one for each row (MXFP8 is not read)"
        )


class ScaledFile:
    """A container whose scaled weights are read as packed tensors with their scale.

    scales: weight to scale. unused: what is left out besides.
    """

    def __init__(self, container: Container, scales: dict[str, str], unused: set[str]) -> None:
        self._container, self._scales = container, scales
        hidden = unused.union(scales.values())
        self.index = TensorIndex(
            (info for name, info in container.index.items() if name not in hidden),
            container.index.metadata,
        )

    def read(self, name: str) -> Tensor | PackedTensor:
        """The tensor; packed if it has a scale."""
        tensor = self._container.read(name)
        if name not in self._scales or isinstance(tensor, PackedTensor):
            return tensor
        info, scale = self.index[name], self._container.read(self._scales[name])
        assert isinstance(scale, Tensor), "a container of fp8 has plain scales"
        data = tensor.contiguous().view(-1).view(torch.uint8)
        return PackedTensor(data, info.dtype, info.shape, scale.to(torch.float32))

    def release(self, name: str) -> None:
        """Gives the tensor's memory back."""
        self._container.release(name)

    def close(self) -> None:
        """Closes the file."""
        self._container.close()
