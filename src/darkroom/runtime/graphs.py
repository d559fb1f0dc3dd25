"""CUDA graphs: a network's hundreds of launches replayed as one.

At 512x512 a UNet step is a few milliseconds of work in several hundred kernels; starting them one by one from
Python takes longer than running them. The first call with some shapes runs as it is (kernels are compiled,
cuDNN chooses its algorithms), the second runs under watch and is recorded, later ones are replays.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from darkroom.layers.joint import join_weights

logger = logging.getLogger(__name__)

Form = tuple["int | Form | None", ...]
"""Arguments with each tensor replaced by its number, to be put together again."""

Key = tuple[str, Form, tuple[tuple[torch.Size, torch.dtype, tuple[int, ...]], ...]]

MEMORY_SHARE = 1 / 8
"""Of the memory that is free, what a recording may keep for its activations."""


def accelerate(net: nn.Module) -> nn.Module:
    """`net` on a CUDA device, its weights laid out for speed, its calls replayed from graphs.

    For as long as the weights stay where they are: drop the result before they move.
    """
    join_weights(net)
    return GraphedModule(net)


@dataclass
class Recording:
    """One recorded call: inputs are copied in, the graph is replayed, the output is read."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    output: Tensor

    def replay(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The output for `inputs`, the caller's own copy."""
        for static, tensor in zip(self.inputs, inputs, strict=True):
            static.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.output.clone()


class GraphedModule(nn.Module):
    """Calls and `decode`s of `net` with CUDA tensors, tuples of them and None, replayed by shape.

    Calls with anything else go to `net` as they are.

    `net` must compute its output from its inputs and weights alone. If it waits for the device on its way, it
    is never recorded; nor is a shape whose activations are large beside the free memory.

    limit: shapes remembered; the one unused for longest is let go of. One thread at a time.
    """

    def __init__(self, net: nn.Module, *, limit: int = 4) -> None:
        super().__init__()
        self.net = net
        self._limit = limit
        self._seen: set[Key] = set()
        self._too_large: set[Key] = set()
        self._is_recordable = True
        self._recordings: OrderedDict[Key, Recording] = OrderedDict()

    def __getattr__(self, name: str) -> object:  # type: ignore[override]
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, *args: object, **kwargs: object) -> object:  # noqa: D102
        return self._replayed("__call__", args, kwargs)

    def decode(self, *args: object, **kwargs: object) -> object:
        """As `forward`, for autoencoders."""
        return self._replayed("decode", args, kwargs)

    def forget(self) -> None:
        """Drops every recording and all memory; calls after this are recorded anew."""
        self._recordings.clear()
        self._seen.clear()
        self._too_large.clear()

    def _replayed(self, method: str, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        function = getattr(self.net, method)
        tensors: list[Tensor] = []
        form = None if kwargs or torch.is_grad_enabled() else _taken_apart(args, tensors)
        if form is None or not tensors:
            return function(*args, **kwargs)
        inputs = tuple(tensors)
        with torch.cuda.device(inputs[0].device):
            key = (method, form, tuple((tensor.shape, tensor.dtype, tensor.stride()) for tensor in inputs))
            return self._call(lambda *given: function(*_put_together(form, given)), key, inputs)

    def _call(self, function: Callable[..., object], key: Key, inputs: tuple[Tensor, ...]) -> object:
        recording = self._recordings.get(key)
        if recording is not None:
            self._recordings.move_to_end(key)
            return recording.replay(inputs)
        if key not in self._seen or key in self._too_large or not self._is_recordable:
            output = function(*inputs)
            if isinstance(output, Tensor):
                self._seen.add(key)
            return output
        # A wait while a graph is recorded would leave the stream and the allocator in pieces.
        output, waits = _watched(lambda: function(*inputs))
        if waits:
            self._give_up("it waits for the device")
            return output
        stream = torch.cuda.current_stream()
        try:
            self._record(function, key, inputs)
        except RuntimeError as error:  # the memory does not suffice for a second copy of its activations, say
            torch.cuda.set_stream(stream)
            self._give_up(str(error))
        return output

    def _give_up(self, reason: str) -> None:
        self._is_recordable = False
        logger.info("%s: no CUDA graph: %s", type(self.net).__name__, reason)

    def _record(self, function: Callable[..., object], key: Key, inputs: tuple[Tensor, ...]) -> None:
        start = time.perf_counter()
        free, reserved = torch.cuda.mem_get_info()[0], torch.cuda.memory_reserved()
        while len(self._recordings) >= self._limit:
            self._recordings.popitem(last=False)
        # One pool of memory for all: recordings never run at the same time, and outputs are copied.
        others = next(iter(self._recordings.values()), None)
        pool = None if others is None else others.graph.pool()
        with torch.inference_mode(False), torch.no_grad():  # later calls may write to them in any mode
            static = tuple(tensor.clone() for tensor in inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = function(*static)
        assert isinstance(output, Tensor), "only calls that gave a tensor are recorded"
        name, kept = type(self.net).__name__, torch.cuda.memory_reserved() - reserved
        if kept > free * MEMORY_SHARE:
            self._too_large.add(key)
            logger.info("%s: no CUDA graph for this size: it would keep %.1f GB", name, kept / 1e9)
            return
        self._recordings[key] = Recording(graph, static, output)
        logger.debug("%s: recorded as a CUDA graph in %.2f s", name, time.perf_counter() - start)


def _watched(call: Callable[[], object]) -> tuple[object, bool]:
    """What `call` returns, and whether the processor waited for the device in it.

    Watching by warnings, not errors: the mode is the process's, and another thread may wait meanwhile.
    """
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            result = call()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    return result, any("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def _taken_apart(args: tuple[object, ...], tensors: list[Tensor]) -> Form | None:
    """The form of `args`, their tensors added to `tensors`; None when they hold what no graph can take."""
    form: list[int | Form | None] = []
    for arg in args:
        if arg is None:
            form.append(None)
        elif isinstance(arg, Tensor) and arg.is_cuda:
            form.append(len(tensors))
            tensors.append(arg)
        elif isinstance(arg, tuple) and (inner := _taken_apart(arg, tensors)) is not None:
            form.append(inner)
        else:
            return None
    return tuple(form)


def _put_together(form: Form, tensors: Sequence[Tensor]) -> tuple[object, ...]:
    return tuple(
        None if part is None else tensors[part] if isinstance(part, int) else _put_together(part, tensors)
        for part in form
    )
