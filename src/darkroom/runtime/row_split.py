"""Every matrix of a network's blocks on several devices, a part on each, all of which work on the same call.

There is a narrower copy of the network for each device, which runs in a thread of its own: what the blocks
declare to be shared out (layers.parts) is there in part, everything else whole. The copies meet
where what each has computed is added up. All of them compute what lies between, so nothing else travels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from darkroom.layers.linear import Linear
from darkroom.layers.parts import HasParts, Sections
from darkroom.layers.split_linear import SummedLinear
from darkroom.runtime.backends import Backend
from darkroom.runtime.lanes import Lane
from darkroom.runtime.layer_split import Share
from darkroom.weights.cuts import Cut, PartsSource, Place, Range
from darkroom.weights.source import TensorSource


class CannotSplit(Exception):
    """Why a network cannot be split by rows, in words."""


class Given(NamedTuple):
    """What one copy of a network gives for a sum. ready: its sender's mark behind it."""

    part: Tensor
    ready: object


class Exchange:
    """Where the copies of a network meet. Every copy asks for the same sums in the same order."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._devices = [backend.device for backend in backends]
        self._senders = [backend.sender() for backend in backends]
        self._barrier = threading.Barrier(len(backends))
        self._clear()

    def end(self, rank: int) -> None:
        """After each call of the network, by whichever way it ended, for the device of each copy."""
        self._senders[rank].end()

    def reset(self) -> None:
        """After all of them have ended."""
        self._barrier.reset()
        self._clear()

    def _clear(self) -> None:
        # What is given for a sum stays until the next but one: then all have asked for their copies of it,
        # and its own device has waited for another's work that comes after those.
        self._given: list[list[Given | None]] = [[None] * len(self._devices) for _ in range(2)]
        self._turns = [0] * len(self._devices)

    def abort(self) -> None:
        """Lets nobody wait for a copy that has failed: a BrokenBarrierError for each."""
        self._barrier.abort()

    def rank(self, rank: int) -> Callable[[Tensor], Tensor]:
        """`total` for one copy."""
        return partial(self._total, rank)

    def _total(self, rank: int, part: Tensor) -> Tensor:
        """The sum of what every copy gives, on the device of copy `rank`; added in the same order on all."""
        given = self._given[self._turns[rank]]
        self._turns[rank] ^= 1
        given[rank] = Given(part, self._senders[rank].ready())
        self._barrier.wait()
        parts = [
            part if i == rank else self._senders[i].hand_over(*other, self._devices[rank])
            for i, other in enumerate(given)
            if other is not None
        ]
        return reduce(torch.add, parts)


class RowSplit(nn.ModuleList):
    """Copies of a network on their devices, as one; attributes are the first one's. One thread at a time."""

    def __init__(self, copies: Sequence[nn.Module], backends: Sequence[Backend], exchange: Exchange) -> None:
        super().__init__(copies)
        self._backends = backends
        self._exchange = exchange
        self._pool: ThreadPoolExecutor | None = None
        self._lanes: list[Lane] = []

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.isdigit() or not len(self):
                raise
            return getattr(self[0], name)

    def forward(self, *args: object, **kwargs: object) -> object:  # noqa: D102
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(self) - 1, "device")
        if not self._lanes:
            self._lanes = [Lane(), *(backend.lane(self._backends[0]) for backend in self._backends[1:])]
        for lane in self._lanes:
            lane.start()
        modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
        calls = []
        for rank, (backend, lane) in enumerate(zip(self._backends, self._lanes, strict=True)):
            with lane.entered():
                calls.append(partial(self._call, rank, modes, *_taken((args, kwargs), backend)))
        others: list[Future[object]] = [self._pool.submit(call) for call in calls[1:]]
        try:
            output = calls[0]()
        except threading.BrokenBarrierError:  # another copy has failed
            _raise_first(others)
            raise
        finally:
            wait(others)
            for rank, lane in enumerate(self._lanes):
                with lane.entered():
                    self._exchange.end(rank)
                lane.finish()
            self._exchange.reset()
        _raise_first(others)
        return output

    def _call(
        self, rank: int, modes: tuple[bool, bool], args: Sequence[object], kwargs: Mapping[str, object]
    ) -> object:
        inference, grad = modes  # a thread's own settings, as is the current device
        try:
            with (
                torch.inference_mode(inference),
                torch.set_grad_enabled(grad),
                self._backends[rank].current(),
                self._lanes[rank].entered(),
            ):
                return self[rank](*args, **kwargs)
        except BaseException:
            self._exchange.abort()
            raise


def _taken(value: Any, backend: Backend) -> Any:  # noqa: ANN401
    """`value` with its tensors on a device."""
    if isinstance(value, Tensor):
        return value if value.device == backend.device else backend.take(value)
    if isinstance(value, dict):
        return {key: _taken(part, backend) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_taken(part, backend) for part in value)
    return value


def _raise_first(calls: Sequence[Future[object]]) -> None:
    """Raises what went wrong in one of them, but for what followed from that in the others."""
    for call in calls:
        if (error := call.exception()) and not isinstance(error, threading.BrokenBarrierError):
            raise error


def split_rows(
    build: Callable[[], nn.Module], source: TensorSource, backends: Sequence[Backend]
) -> tuple[nn.Module, PartsSource, list[Share]]:
    """A network on the meta device that works on several devices at once, its tensors, and whose they are.

    Raises CannotSplit where nothing in it can be shared out evenly.
    """
    if len({backend.info.kind for backend in backends}) > 1:
        raise CannotSplit("devices span different backend registries")
    net = build()
    targets = list(_targets(net, ""))
    if not targets:
        raise CannotSplit("no row-splittable transformer block weights found")
    places: dict[str, Place] = {}
    for target in targets:
        copies, exchange = [], Exchange(backends)
        for rank in range(len(backends)):
            copy = build().get_submodule(target)
            cuts = _shrink(copy, rank, exchange.rank(rank), len(backends))
            copies.append(copy)
            before, after = f"{target}." if target else "", f"{target}.{rank}." if target else f"{rank}."
            for name in net.get_submodule(target).state_dict():
                if (there := cuts.get(name, (name, None))) is not None:
                    places[after + there[0]] = Place(before + name, there[1])
        split = RowSplit(copies, backends, exchange)
        if target:
            net.set_submodule(target, split)
        else:
            net = split
    # What no copy has, and what nobody knows, as it is.
    taken = {place.name for place in places.values()}
    places |= {name: Place(name, None) for name in source.index if name not in taken}
    places = {name: place for name, place in places.items() if place.name in source.index}
    shares = [_share(net, targets, rank, backend) for rank, backend in enumerate(backends) if rank]
    return net, PartsSource(source, places), shares


def _share(net: nn.Module, targets: Sequence[str], rank: int, backend: Backend) -> Share:
    """All copies of one device."""
    modules = tuple(f"{target}.{rank}" if target else f"{rank}" for target in targets)
    prefixes = tuple(f"{module}." for module in modules)
    return Share(backend, modules, (), frozenset(n for n in net.state_dict() if n.startswith(prefixes)))


def _targets(module: nn.Module, name: str) -> Iterator[str]:
    """Of the modules that are called, the outermost ones in which something can be shared out."""
    if not any(isinstance(part, HasParts) for part in module.modules()):
        return
    if type(module).forward is not nn.Module.forward:
        yield name
        return
    for key, child in module.named_children():
        yield from _targets(child, f"{name}.{key}" if name else key)


Renamed = tuple[str, Cut | None]


def _shrink(
    net: nn.Module, rank: int, total: Callable[[Tensor], Tensor], count: int
) -> dict[str, Renamed | None]:
    """Leaves of `net` the part of one device of `count`.

    ->  for each tensor that is not as it was its new name and what of it is there; None for nothing
    """
    names = {id(module): name for name, module in net.named_modules()}
    declared = [(module, module.parts()) for module in net.modules() if isinstance(module, HasParts)]
    changed: dict[str, Renamed | None] = {}
    for module, parts in declared:
        for attribute in parts.counts:
            setattr(module, attribute, _share_of(getattr(module, attribute), count, f"{attribute} of "))
        for part, sections in parts.outputs.items():
            name, ranges = names[id(part)], _ranges(sections, rank, count)
            width = sum(stop - start for start, stop in ranges)
            with torch.device("meta"):
                if isinstance(part, nn.Embedding):
                    net.set_submodule(name, nn.Embedding(part.num_embeddings, width))
                    changed[f"{name}.weight"] = f"{name}.weight", Cut(1, ranges)
                    continue
                assert isinstance(part, Linear), "what is shared out is a Linear or a table"
                net.set_submodule(name, Linear(part.in_features, width, part.bias is not None))
            for tensor in ("weight", "bias"):
                changed[f"{name}.{tensor}"] = f"{name}.{tensor}", Cut(0, ranges)
        for part, sections in parts.inputs.items():
            name, ranges = names[id(part)], _ranges(sections, rank, count)
            assert isinstance(part, Linear), "what is added up is the output of a Linear"
            width, has_bias = sum(stop - start for start, stop in ranges), part.bias is not None and rank == 0
            with torch.device("meta"):
                summed = SummedLinear(Linear(width, part.out_features, has_bias), total)
            net.set_submodule(name, summed)
            changed[f"{name}.weight"] = f"{name}.part.weight", Cut(1, ranges)
            changed[f"{name}.bias"] = (f"{name}.part.bias", None) if has_bias else None
    net.eval()
    return changed


def _ranges(sections: Sections, rank: int, count: int) -> tuple[Range, ...]:
    ranges, start = [], 0
    for width in sections:
        share = _share_of(width, count, "a width of ")
        ranges.append((start + rank * share, start + (rank + 1) * share))
        start += width
    return tuple(ranges)


def _share_of(whole: int, count: int, what: str) -> int:
    if whole % count:
        raise CannotSplit(f"{what}{whole} cannot be shared by {count} devices")
    return whole // count
