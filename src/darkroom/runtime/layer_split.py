"""Blocks of one network on several devices; what a block needs follows it there, unseen by the network.

Each block's `forward` first brings its arguments to where its weights are. What it returns stays there: the
next block mostly wants it on the same device. What the network does itself, between its blocks, happens on
the main device, to which tensors are brought when such an operation is given them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from darkroom.runtime.backends import Backend
from darkroom.runtime.blocks import Block

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """What of a network has its weights on another device than the main one.

    modules: by name. kept: modules in them that are on the main device nevertheless. tensors: by name.
    """

    backend: Backend
    modules: tuple[str, ...]
    kept: tuple[str, ...]
    tensors: frozenset[str]

    @classmethod
    def of(cls, backend: Backend, blocks: Sequence[Block]) -> Share:
        """Blocks on `backend`."""
        return cls(
            backend,
            tuple(block.name for block in blocks),
            tuple(f"{block.name}.{inner}" for block in blocks for inner in block.shared),
            frozenset(f"{block.name}.{tensor}" for block in blocks for tensor in block.tensors),
        )


def contiguous(sizes: Sequence[int], rooms: Sequence[int], rest: int) -> list[int]:
    """For each block the number of its device: a run of blocks for each, in proportion to the devices' room.

    sizes: bytes of each block. rooms: bytes that each device may take. rest: of what is on the first one
    besides blocks.
    """
    if not any(rooms):  # as good as any
        rooms = [1] * len(rooms)
    total = sum(sizes) + rest
    ends = [total * sum(rooms[: i + 1]) / sum(rooms) for i in range(len(rooms))]
    numbers, filled = [], float(rest)
    for size in sizes:
        middle = filled + size / 2
        numbers.append(next((i for i, end in enumerate(ends) if middle < end), len(rooms) - 1))
        filled += size
    return numbers


def spread_blocks(net: nn.Module, shares: Sequence[Share], main: Backend) -> nn.Module:
    """`net` itself, prepared to run with those blocks elsewhere and all else on `main`."""
    places = {net.get_submodule(name): share.backend for share in shares for name in share.modules}
    _prepare(net, places, _Between(main))
    return net


def _prepare(module: nn.Module, places: Mapping[nn.Module, Backend], between: _Between) -> None:
    """Wraps the calls of blocks, of what holds blocks, and of the layers beside them."""
    is_called = type(module).forward is not nn.Module.forward
    if (backend := places.get(module)) is not None:
        _wrap(module, partial(between.inside, backend))
    elif any(part in places for part in module.modules()):
        if is_called:
            _wrap(module, between.outside)
        for child in module.children():
            _prepare(child, places, between)
    elif is_called:
        _wrap(module, partial(between.inside, between.main))
    else:
        for child in module.children():
            _prepare(child, places, between)


def _wrap(module: nn.Module, run: Callable[..., object]) -> None:
    module.forward = partial(run, module.forward)


class _Between(TorchFunctionMode):
    """Where a network's blocks and what is between them run. One thread at a time."""

    def __init__(self, main: Backend) -> None:
        super().__init__()
        self.main = main
        self._is_inside = False
        self._is_running = False
        self._moved: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}

    def outside(self, forward: Callable[..., object], *args: object, **kwargs: object) -> object:
        """Runs what holds blocks, on the main device."""
        if self._is_running:
            return forward(*args, **kwargs)
        self._is_running = True
        try:
            with self.main.current(), self:
                args, kwargs = self._on(self.main, args), self._on(self.main, kwargs)
                return self._on(self.main, forward(*args, **kwargs))
        finally:
            self._is_running = False
            self._moved.clear()

    def inside(
        self, backend: Backend, forward: Callable[..., object], *args: object, **kwargs: object
    ) -> object:
        """Runs a block, or a layer beside the blocks, where its weights are."""
        if self._is_inside:
            return forward(*args, **kwargs)
        self._is_inside = True
        try:
            with backend.current():
                return forward(*self._on(backend, args), **self._on(backend, kwargs))
        finally:
            self._is_inside = False
            if not self._is_running:
                self._moved.clear()

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """An operation; between the blocks, on tensors of several devices, it is the main device's."""
        kwargs = kwargs or {}
        if not self._is_inside and len(set(_devices((args, kwargs)))) > 1:
            args, kwargs = self._on(self.main, args), self._on(self.main, kwargs)
        return func(*args, **kwargs)

    def _on(self, backend: Backend, value: T) -> T:
        """`value` with its tensors on a device; each is moved there once in a call of the network."""
        moved: Any = value
        if isinstance(value, Tensor):
            if value.device != backend.device:
                key = id(value), backend.name
                if key not in self._moved:
                    self._moved[key] = value, backend.take(value)
                moved = self._moved[key][1]
        elif isinstance(value, dict):
            moved = {key: self._on(backend, part) for key, part in value.items()}
        elif isinstance(value, tuple | list):
            parts = [self._on(backend, part) for part in value]
            moved = type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        elif isinstance(value, Iterator):  # what a block takes of it is what it is given
            moved = map(partial(self._on, backend), value)
        return moved  # type: ignore[no-any-return]


def _devices(value: object) -> Iterator[torch.device]:
    """Of the tensors in it; a number that is a tensor may be anywhere."""
    if isinstance(value, Tensor):
        if value.dim() or value.device.type != "cpu":
            yield value.device
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _devices(part)
