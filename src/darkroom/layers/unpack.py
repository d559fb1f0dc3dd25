"""Quantized weights as matrices: by the fastest means there is, on CUDA while the product before runs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from darkroom.layers import kernels
from darkroom.quant.packed import PackedTensor

PART = 1
"""One in so many of a GPU's multiprocessors may unpack beside products: all that products leave."""

FIRST, LAST = -1, 0
"""CUDA's priorities of streams, as products and what is unpacked beside them have them."""


class Layer(Protocol):
    """A layer whose weight is packed. It may move or be replaced between two calls of its network."""

    @property
    def packed(self) -> PackedTensor:
        """The weight."""


def unpack(
    packed: PackedTensor, dtype: torch.dtype, out: Tensor | None = None, *, programs: int | None = None
) -> Tensor:
    """The weight as a contiguous tensor of `dtype`, on the device of its bytes.

    out: memory for it, (numel,) of `dtype` or longer, which is used where `is_fast`. programs: on how many
    multiprocessors of a GPU; None for all.
    """
    if not is_fast(packed):
        return packed.decode(dtype)
    from darkroom.layers.kernels import dequantize

    device = packed.data.device
    if out is None:
        out = torch.empty(packed.numel, dtype=dtype, device=device)
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():  # where Triton launches
        return dequantize.dequantize(packed, out[: packed.numel].view(packed.shape), programs=programs)


def is_fast(packed: PackedTensor) -> bool:
    """Whether there is a kernel for it."""
    if not kernels.usable_on(packed.data.device):
        return False
    from darkroom.layers.kernels import dequantize

    return dequantize.supports(packed)


def programs_ahead(device: torch.device) -> int | None:
    """Multiprocessors of a CUDA device that unpack beside products; None for all."""
    if PART == 1:
        return None
    return max(1, torch.cuda.get_device_properties(device).multi_processor_count // PART)


@dataclass(frozen=True)
class _Unpacked:
    layer: Layer
    data: Tensor
    matrix: Tensor


class UnpackAhead:
    """Unpacks the weight that is used next on a stream of its own, while the product before it runs.

    There are two buffers, each for the largest weight: products read one while the other is filled. Layers
    are taken to be called in the order of their first calls; one that comes out of turn waits for its own.

    Its stream comes last: products in a stream of priority FIRST take the multiprocessors that they want,
    which towards the end of each are ever fewer. CUDA only. One thread at a time.
    """

    def __init__(self, layers: Iterable[Layer], device: torch.device) -> None:
        """`layers`: of one network, all `is_fast`; others may share its stream and are no concern of this."""
        self._numel = max(layer.packed.numel for layer in layers)
        self._programs = programs_ahead(device)
        self._stream = torch.cuda.Stream(device, priority=LAST)  # type: ignore[no-untyped-call]
        self._buffers: list[Tensor] = []
        self._free = 0
        self._following: dict[Layer, Layer] = {}
        self._called: set[Layer] = set()
        self._previous: Layer | None = None
        self._ready: _Unpacked | None = None

    def matrix(self, layer: Layer, dtype: torch.dtype) -> Tensor:
        """The weight of `layer`, for work that is asked for before the next call of this."""
        ready = self._wait()
        self._follow(layer)
        packed = layer.packed
        if (
            ready is not None
            and ready.layer is layer
            and ready.data is packed.data
            and ready.matrix.dtype == dtype
        ):
            matrix = ready.matrix
        else:
            matrix = unpack(packed, dtype, self._buffer(dtype))
        self._free ^= 1
        if following := self._following.get(layer):
            next_packed = following.packed
            # The other buffer is free once the products asked for so far are made.
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
            with torch.cuda.stream(self._stream):
                out = unpack(next_packed, dtype, self._buffer(dtype), programs=self._programs)
            self._ready = _Unpacked(following, next_packed.data, out)
        return matrix

    def end(self) -> None:
        """A call of the network is over: waits for what was unpacked for nobody, so that a graph can end."""
        self._wait()
        self._previous = None

    def _wait(self) -> _Unpacked | None:
        ready, self._ready = self._ready, None
        if ready is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        return ready

    def _follow(self, layer: Layer) -> None:
        if self._previous is not None and layer not in self._called:
            self._following.setdefault(self._previous, layer)
        self._called.add(layer)
        self._previous = layer

    def _buffer(self, dtype: torch.dtype) -> Tensor:
        if not self._buffers:  # in the first call, which is never recorded as a graph
            self._buffers = [
                torch.empty(self._numel, dtype=torch.bfloat16, device=self._stream.device) for _ in range(2)
            ]
        return self._buffers[self._free].view(dtype)
