"""A network and its weights, brought to where it runs and taken away again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from darkroom.runtime.backends import Backend
from darkroom.runtime.blocks import Block, find_blocks
from darkroom.runtime.budget import format_bytes
from darkroom.runtime.layer_split import Share
from darkroom.runtime.locked import lock
from darkroom.runtime.slots import Slot, replace, slots
from darkroom.runtime.stream import BlockStream, Streaming
from darkroom.runtime.streamed import FiledBlock, HousedBlock, StreamedBlock
from darkroom.weights.bind import bind_weights, bound_bytes
from darkroom.weights.source import TensorSource

logger = logging.getLogger(__name__)

OnBytes = Callable[[int], None]


@dataclass
class Traffic:
    """What a component has moved so far: from its file, from one device to another, and block by block."""

    loads: int = 0
    loaded_bytes: int = 0
    load_seconds: float = 0.0
    moves: int = 0
    moved_bytes: int = 0
    move_seconds: float = 0.0
    streamed_blocks: int = 0
    streamed_bytes: int = 0


class Component:
    """One network of a model. `resident()` hides where its weights are when it does not run.

    params is runtime: weights are read once and stay. params is another backend: they are read once to there,
    copied to the runtime backend for each use, and the copies dropped after it. params is None: they are read
    from the file for each use and dropped after it.

    `stream` names blocks that are never there with the others: each is brought when it is its turn.
    `split` gives parts of the network other devices than the runtime backend, where they live and run.

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
        others: Sequence[Backend] = (),
    ) -> None:
        """`build` makes the network on the meta device; `source` has its tensors by the network's names.

        keep_packed: weights that are quantized in the file stay so wherever they are, as `bind_weights` keeps
        them. others: devices besides `runtime` that it may be split over.
        """
        self.name = name
        self.runtime = runtime
        self.backends = (runtime, *others)
        self.params = params
        self.dtype = dtype
        self.keep_packed = keep_packed
        self.traffic = Traffic()
        self._build = build
        self._source: TensorSource | None = source
        self._net: nn.Module | None = None
        self._accelerated: nn.Module | None = None
        self._at_home: list[Slot] = []
        self._unlock: Callable[[], None] = _nothing
        self._streaming: Streaming | None = None
        self._stream: BlockStream | None = None
        self._shares: tuple[Share, ...] = ()
        self._is_recordable = True
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
        return self._nbytes(slots(self._network()))

    @property
    def is_quantized(self) -> bool:
        """Whether any of the weights is quantized in the file."""
        return self._source is not None and any(info.is_quantized for info in self._source.index.values())

    @property
    def file_bytes(self) -> int:
        """Bytes of the weights in their file: what `on_bytes` adds up to."""
        if self._source is None:
            return 0
        index = self._source.index
        later = self._streamed_tensors() if self._streaming and self._streaming.home is None else ()
        names = self._network().state_dict()
        return sum(index[name].nbytes for name in names if name in index and name not in later)

    def weigh(self) -> tuple[int, list[Block]]:
        """Bytes that the weights will take on a device, and the blocks they can come in; reads no weight."""
        if self._source is None:
            return 0, []
        net = self._network()
        sizes = bound_bytes(net, self._source.index, dtype=self.dtype, keep_packed=self.keep_packed)
        return sum(sizes.values()), find_blocks(net, sizes)

    @property
    def is_streamed(self) -> bool:
        """Whether some blocks come one by one."""
        return self._streaming is not None

    def stream(self, blocks: Sequence[Block], home: Backend | None) -> None:
        """From now on brings `blocks` one by one, from `home` or from the file; before weights are loaded."""
        assert not self._is_bound, "weights are where they were to be before"
        self._streaming = Streaming(tuple(blocks), home) if blocks else None

    @property
    def home(self) -> Backend | None:
        """Where weights wait that come and go; None: in their file. The runtime backend if none do."""
        return self._streaming.home if self._streaming else self.params

    def wait_in_file(self) -> None:
        """From now on weights that come and go wait in their file; what is loaded is dropped."""
        self.forget()
        if self.params is not self.runtime:
            self.params = None
        if self._streaming:
            self._streaming = Streaming(self._streaming.blocks, None)

    @property
    def streamed_blocks(self) -> int:
        """How many blocks come one by one."""
        return len(self._streaming.blocks) if self._streaming else 0

    @property
    def is_split(self) -> bool:
        """Whether it runs on several devices."""
        return bool(self._shares)

    @property
    def source(self) -> TensorSource:
        """Its tensors. Raises RuntimeError after `close`."""
        if self._source is None:
            raise RuntimeError(f"{self.name}: the component is closed; it lives as long as its engine")
        return self._source

    def split(
        self, net: nn.Module, source: TensorSource, shares: Sequence[Share], *, is_recordable: bool = False
    ) -> None:
        """From now on runs on several devices; before weights are loaded.

        net: on the meta device, what brings tensors from one device to another being in it. shares: what of
        it is not on the runtime backend. is_recordable: whether that is done so that a graph can hold it.
        """
        assert not self._is_bound, "weights are where they were to be before"
        self._build, self._source, self._net, self._shares = lambda: net, source, None, tuple(shares)
        self._is_recordable = is_recordable

    def build(self) -> nn.Module:
        """The network on the meta device, one more of it."""
        return self._build()

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
                if self._stream is not None and self._visitors == 1:
                    self._stream.start()
                yield self._accelerated
        finally:
            self._visitors -= 1
            if not self._visitors:
                self._leave()

    def forget(self) -> None:
        """Drops the weights wherever they are; the next use reads them again."""
        self._retire()
        self._drop()

    def close(self) -> None:
        """Drops the weights and the hold on their file; a second call does nothing."""
        self.forget()
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
        with self.runtime.guarded(f"laying out {self.name}"):
            if self._stream is None and self._is_recordable:
                return self.runtime.accelerate(self._network())
            self.runtime.lay_out(self._network(), without=self._stream.modules if self._stream else ())
        return self._network()

    def _bind(self, backend: Backend, on_bytes: OnBytes | None) -> None:
        source = self.source
        start = time.perf_counter()
        net = self._network()
        shares = self._shares if backend is self.runtime else ()
        try:
            with backend.guarded(f"loading {self.name}"):
                elsewhere = self._streamed_tensors().union(*(share.tensors for share in shares))
                only = source.index.keys() - elsewhere if elsewhere else None
                self._fill(net, source, backend, only, on_bytes)
                if self.runtime.locks_pages and backend.device.type == "cpu":
                    here = [slot for slot in slots(net) if not slot.tensor.is_meta]
                    self._unlock = lock(here, self.runtime)
                if self._streaming is not None:
                    self._stream = self._made_stream(self._streaming, on_bytes)
                for share in shares:
                    with share.backend.guarded(f"loading {self.name}"):
                        self._fill(net, source, share.backend, share.tensors, on_bytes)
                        share.backend.synchronize()
                backend.synchronize()
        except BaseException:
            self._drop()
            raise
        self._is_bound = True
        size, seconds = self._nbytes(self._staying(without_files=True)), time.perf_counter() - start
        self.traffic.loads += 1
        self.traffic.loaded_bytes += size
        self.traffic.load_seconds += seconds
        home = self._streaming.home if self._streaming else None
        others = [share.backend for share in shares] if home is None or home is backend else [home]
        where = " and ".join(part.name for part in (backend, *others))
        logger.info("%s: loaded %s in %.1f s to %s", self.name, format_bytes(size), seconds, where)

    def _fill(
        self,
        net: nn.Module,
        source: TensorSource,
        backend: Backend,
        only: Collection[str] | None,
        on_bytes: OnBytes | None = None,
    ) -> None:
        bind_weights(
            net,
            source,
            device=backend.device,
            dtype=self.dtype,
            subject=self.name,
            keep_packed=self.keep_packed,
            only=only,
            on_bytes=on_bytes,
        )

    def _made_stream(self, streaming: Streaming, on_bytes: OnBytes | None) -> BlockStream:
        """The blocks that come and go; if one cannot be read, those before it are given back."""
        blocks = []
        with ExitStack() as undo:
            for block in streaming.blocks:
                blocks.append(self._block(block, streaming.home, on_bytes))
                undo.callback(blocks[-1].close)
            undo.pop_all()
        return BlockStream(blocks, self.runtime, self._count)

    def _block(self, block: Block, home: Backend | None, on_bytes: OnBytes | None) -> StreamedBlock:
        """A block that comes and goes, its weights read to their home."""
        assert self._source is not None, "its weights are being read"
        module, source = self._network().get_submodule(block.name), self._source.under(f"{block.name}.")
        kept = [module.get_submodule(name) for name in block.shared]

        def release() -> None:
            for name in block.tensors:
                source.release(name)

        if home is None:
            read = partial(self._fill, module, source, self.runtime, block.tensors)
            return FiledBlock(module, kept, block.nbytes, read, release)
        with home.guarded(f"loading {self.name}"):
            self._fill(module, source, home, block.tensors, on_bytes)
            housed = HousedBlock(module, kept, home, self.runtime)
        release()
        return housed

    def _staying(self, *, without_files: bool = False) -> list[Slot]:
        """The places whose tensors do not come and go, or do not come from files."""
        stream = self._stream
        if stream is None or (without_files and self._streaming and self._streaming.home is not None):
            return slots(self._network())
        return [slot for slot in slots(self._network()) if not stream.holds(slot)]

    def _nbytes(self, places: Iterable[Slot]) -> int:
        tensors = {id(slot.tensor): slot.tensor for slot in places}.values()
        return sum(
            tensor.numel() * (self.dtype if tensor.is_floating_point() else tensor.dtype).itemsize
            for tensor in tensors
        )

    def _streamed_tensors(self) -> set[str]:
        blocks = self._streaming.blocks if self._streaming else ()
        return {f"{block.name}.{tensor}" for block in blocks for tensor in block.tensors}

    def _shared_tables(self) -> dict[int, Backend]:
        """By identity, the tables of places whose tensors belong to other devices, and which these are."""
        tables: dict[int, Backend] = {}
        for share in self._shares:
            kept = [self._network().get_submodule(name) for name in share.kept]
            for name in share.modules:
                places = slots(self._network().get_submodule(name), kept)
                tables |= {id(slot.table): share.backend for slot in places}
        return tables

    def _count(self, nbytes: int) -> None:
        self.traffic.streamed_blocks += 1
        self.traffic.streamed_bytes += nbytes

    def _move(self, home: Backend) -> None:
        """Puts copies on the runtime backend in the place of the weights, which stay where they are."""
        start = time.perf_counter()
        self._at_home = self._staying()
        with self.runtime.guarded(f"moving {self.name} there"):
            away = self._shared_tables()
            replace([slot for slot in self._at_home if id(slot.table) not in away], self.runtime.take)
            for share in self._shares:
                theirs = [slot for slot in self._at_home if away.get(id(slot.table)) is share.backend]
                replace(theirs, share.backend.take)
                share.backend.synchronize()
            self.runtime.synchronize()
        size, seconds = self._nbytes(self._at_home), time.perf_counter() - start
        self.traffic.moves += 1
        self.traffic.moved_bytes += size
        self.traffic.move_seconds += seconds
        logger.info(
            "%s: moved %s in %.1f s from %s to %s",
            self.name,
            format_bytes(size),
            seconds,
            home.name,
            " and ".join(backend.name for backend in self.backends),
        )

    def _leave(self) -> None:
        if self._stream is not None:
            self._stream.stop()
        if self.params is self.runtime:
            if self._stream is not None:
                self.runtime.empty_cache()
            for backend in self.backends:
                backend.rest()
            return
        self._retire()
        if self.params is None:
            self._drop()
        for slot in self._at_home:
            slot.table[slot.key] = slot.tensor
        self._at_home = []
        for backend in self.backends:
            if not backend.is_closed:
                backend.empty_cache()
        logger.debug("%s: released on %s", self.name, self.runtime.name)

    def _retire(self) -> None:
        if self._accelerated is not None:
            self.runtime.retire(self._accelerated)
            self._accelerated = None

    def _drop(self) -> None:
        """Leaves the network without weights; who still holds it holds no memory."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._unlock()
        self._unlock = _nothing
        if self._net is not None:
            replace(slots(self._net), lambda tensor: torch.empty_like(tensor, device="meta"))
        if self._source is not None:
            for name in self._source.index:
                self._source.release(name)
        self._is_bound = False


def _nothing() -> None:
    """No page is locked."""
