"""A network and its weights, brought to where it runs and taken away again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from darkroom.runtime.backends import Backend
from darkroom.runtime.budget import format_bytes
from darkroom.weights.bind import bind_weights
from darkroom.weights.source import TensorSource

logger = logging.getLogger(__name__)

OnBytes = Callable[[int], None]


@dataclass
class Traffic:
    """What a component has moved so far: from its file, and from one device to another."""

    loads: int = 0
    loaded_bytes: int = 0
    load_seconds: float = 0.0
    moves: int = 0
    moved_bytes: int = 0
    move_seconds: float = 0.0


class Component:
    """One network of a model. `resident()` hides where its weights are when it does not run.

    params is runtime: weights are read once and stay. params is another backend: they are read once to there,
    copied to the runtime backend for each use, and the copies dropped after it. params is None: they are read
    from the file for each use and dropped after it.

    One thread at a time. Backends are the manager's; a component never closes them.
    """

    def __init__(
        self,
        name: str,
        build: Callable[[], nn.Module],
        source: TensorSource,
        *,
        runtime: Backend,
        params: Backend | None,
        dtype: torch.dtype,
        keep_packed: bool = False,
    ) -> None:
        """`build` makes the network on the meta device; `source` has its tensors by the network's names.

        keep_packed: weights that are quantized in the file stay so wherever they are, as `bind_weights` keeps
        them.
        """
        self.name = name
        self.runtime = runtime
        self.params = params
        self.dtype = dtype
        self.keep_packed = keep_packed
        self.traffic = Traffic()
        self._build = build
        self._source: TensorSource | None = source
        self._net: nn.Module | None = None
        self._accelerated: nn.Module | None = None
        self._at_home: list[Slot] = []
        self._is_bound = False
        self._visitors = 0

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are on some device now."""
        return self._is_bound

    @property
    def nbytes(self) -> int:
        """Bytes of the weights on a device, whether or not they are there now.

        Weights that stay packed count so from the first time that they were read.
        """
        return sum(
            tensor.numel() * (self.dtype if tensor.is_floating_point() else tensor.dtype).itemsize
            for tensor in {id(slot.tensor): slot.tensor for slot in slots(self._network())}.values()
        )

    @property
    def file_bytes(self) -> int:
        """Bytes of the weights in their file: what `on_bytes` adds up to."""
        if self._source is None:
            return 0
        index = self._source.index
        return sum(index[name].nbytes for name in self._network().state_dict() if name in index)

    def load(self, on_bytes: OnBytes | None = None) -> None:
        """Reads the weights to where they live, unless they are there or live in the file.

        on_bytes: told the bytes in the file of each tensor read. Raises CheckpointError, OutOfMemoryError.
        """
        if self.params is not None and not self._is_bound:
            self._bind(self.params, on_bytes)

    @contextmanager
    def resident(self, on_bytes: OnBytes | None = None) -> Iterator[nn.Module]:
        """The network, ready on the runtime backend until the block ends. Blocks may nest.

        Raises CheckpointError for weights that do not fit, OutOfMemoryError, RuntimeError after `close`.
        """
        self.runtime.require_open()
        self._visitors += 1
        try:
            if self._accelerated is None:
                self._accelerated = self._arrive(on_bytes)
            with self.runtime.guarded(f"running {self.name}"):
                yield self._accelerated
        finally:
            self._visitors -= 1
            if not self._visitors:
                self._leave()

    def close(self) -> None:
        """Drops the weights and the hold on their file; a second call does nothing."""
        self._retire()
        self._drop()
        self._source = None

    def _network(self) -> nn.Module:
        if self._net is None:
            self._net = self._build().eval().requires_grad_(False)
        return self._net

    def _arrive(self, on_bytes: OnBytes | None) -> nn.Module:
        if self.params is None:
            self._bind(self.runtime, on_bytes)
        else:
            self.load(on_bytes)
            if self.params is not self.runtime:
                self._move(self.params)
        return self.runtime.accelerate(self._network())

    def _bind(self, backend: Backend, on_bytes: OnBytes | None) -> None:
        if self._source is None:
            raise RuntimeError(f"{self.name}: the component is closed; it lives as long as its engine")
        start = time.perf_counter()
        net = self._network()
        try:
            with backend.guarded(f"loading {self.name}"):
                bind_weights(
                    net,
                    self._source,
                    device=backend.device,
                    dtype=self.dtype,
                    subject=self.name,
                    keep_packed=self.keep_packed,
                    on_bytes=on_bytes,
                )
                backend.synchronize()
        except BaseException:
            self._drop()
            raise
        self._is_bound = True
        size, seconds = self.nbytes, time.perf_counter() - start
        self.traffic.loads += 1
        self.traffic.loaded_bytes += size
        self.traffic.load_seconds += seconds
        logger.info("%s: loaded %s in %.1f s to %s", self.name, format_bytes(size), seconds, backend.name)

    def _move(self, home: Backend) -> None:
        """Puts copies on the runtime backend in the place of the weights, which stay where they are."""
        start = time.perf_counter()
        self._at_home = slots(self._network())
        with self.runtime.guarded(f"moving {self.name} there"):
            replace(self._at_home, self.runtime.take)
            self.runtime.synchronize()
        size, seconds = self.nbytes, time.perf_counter() - start
        self.traffic.moves += 1
        self.traffic.moved_bytes += size
        self.traffic.move_seconds += seconds
        logger.info(
            "%s: moved %s in %.1f s from %s to %s",
            self.name,
            format_bytes(size),
            seconds,
            home.name,
            self.runtime.name,
        )

    def _leave(self) -> None:
        if self.params is self.runtime:
            self.runtime.rest()
            return
        self._retire()
        if self.params is None:
            self._drop()
        for slot in self._at_home:
            slot.table[slot.key] = slot.tensor
        self._at_home = []
        if not self.runtime.is_closed:
            self.runtime.empty_cache()
        logger.debug("%s: released on %s", self.name, self.runtime.name)

    def _retire(self) -> None:
        if self._accelerated is not None:
            self.runtime.retire(self._accelerated)
            self._accelerated = None

    def _drop(self) -> None:
        """Leaves the network without weights; who still holds it holds no memory."""
        if self._net is not None:
            replace(slots(self._net), lambda tensor: torch.empty_like(tensor, device="meta"))
        if self._source is not None:
            for name in self._source.index:
                self._source.release(name)
        self._is_bound = False


class Slot(NamedTuple):
    """One place of a network that holds a tensor."""

    table: dict[str, Tensor | None]
    key: str
    tensor: Tensor


def slots(net: nn.Module) -> list[Slot]:
    """Every parameter and buffer of `net` in its place; one that stands in two places is listed twice."""
    return [
        Slot(table, key, tensor)
        for module in net.modules()
        for table in (cast("dict[str, Tensor | None]", module._parameters), module._buffers)
        for key, tensor in table.items()
        if tensor is not None
    ]


def replace(places: Sequence[Slot], new: Callable[[Tensor], Tensor]) -> None:
    """Puts `new(tensor)` in the place of each tensor; what was one tensor in two places is one again."""
    made: dict[int, Tensor] = {}
    for table, key, tensor in places:
        if id(tensor) not in made:
            fresh = new(tensor.detach())
            is_parameter = isinstance(tensor, nn.Parameter)
            made[id(tensor)] = nn.Parameter(fresh, requires_grad=False) if is_parameter else fresh
        table[key] = made[id(tensor)]
