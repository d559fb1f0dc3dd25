"""A block of a network that is not always on its device: where its weights are else, and how they come."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from darkroom.layers.joint import HasJointProjections
from darkroom.runtime.backends import Backend
from darkroom.runtime.locked import ALIGNMENT, pages
from darkroom.runtime.slots import Slot, replace, slots


@dataclass
class Room:
    """Room for one block on the device.

    buffer: uint8 memory for blocks that are copied, or None. views: what blocks that were here see of it.
    left: the weights of the block that was here before, where each has memory of its own. They are dropped
    when the next block is brought: by then the device has been told to wait for that, as it is told for the
    buffer.
    """

    buffer: Tensor | None
    views: dict[StreamedBlock, list[Tensor]] = field(default_factory=dict)
    left: list[Tensor] = field(default_factory=list)


class StreamedBlock(ABC):
    """One block. `bring` may run beside other blocks, the rest of it only between their calls.

    nbytes: what is brought each time. needs_buffer: whether it is copied into one.
    """

    nbytes: int
    needs_buffer: bool

    def __init__(self, module: nn.Module, kept: Collection[nn.Module]) -> None:
        """`kept`: modules in it that stay on the device."""
        self.module = module
        self._kept = kept

    def slots(self) -> list[Slot]:
        """The places of its weights."""
        return slots(self.module, self._kept)

    @abstractmethod
    def bring(self, room: Room) -> None:
        """Begins to bring the weights."""

    def arrive(self, room: Room) -> None:  # noqa: B027
        """Shows the block the weights that are being brought."""

    @abstractmethod
    def leave(self, room: Room) -> None:
        """Takes them away from it."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what its weights take while the block is away."""


class FiledBlock(StreamedBlock):
    """A block whose weights stay in their file: read, used, forgotten."""

    needs_buffer = False

    def __init__(
        self,
        module: nn.Module,
        kept: Collection[nn.Module],
        nbytes: int,
        read: Callable[[], None],
        release: Callable[[], None],
    ) -> None:
        """`read` fills the module on the runtime device. `release` gives the file's memory back."""
        super().__init__(module, kept)
        self.nbytes = nbytes
        self._read = read
        self._release = release

    def bring(self, room: Room) -> None:
        """Reads them."""
        room.left.clear()
        self._read()

    def leave(self, room: Room) -> None:
        """Drops them."""
        room.left = [slot.tensor for slot in self.slots()]
        replace(self.slots(), lambda tensor: torch.empty_like(tensor, device="meta"))
        self._release()

    def close(self) -> None:
        """Nothing is there."""


class Piece(NamedTuple):
    """A tensor's place in the memory of its block."""

    slot: Slot
    offset: int
    shape: torch.Size
    stride: tuple[int, ...]

    def moved(self) -> Piece:
        """The same, holding what is in the place now instead of what was there before."""
        tensor = self.slot.table[self.slot.key]
        assert tensor is not None, "something was put there"
        return self._replace(slot=self.slot._replace(tensor=tensor))

    def view(self, memory: Tensor) -> Tensor:
        """The tensor as it lies in `memory`, uint8."""
        dtype = self.slot.tensor.dtype
        count = self.slot.tensor.numel() * dtype.itemsize
        return memory[self.offset : self.offset + count].view(dtype).as_strided(self.shape, self.stride)


class HousedBlock(StreamedBlock):
    """A block whose weights live elsewhere in one piece of memory: one copy brings all of them.

    Made of a module whose weights are there; it moves them together.
    """

    needs_buffer = True

    def __init__(
        self, module: nn.Module, kept: Collection[nn.Module], home: Backend, runtime: Backend
    ) -> None:
        super().__init__(module, kept)
        self._pieces, self.nbytes = _laid_out(module, self.slots(), gap=0 if runtime.joins_projections else 1)
        # Outside of inference mode, so that later copies may be made in any mode.
        with torch.inference_mode(False), torch.no_grad():
            is_main = home.device.type == "cpu"
            self._memory = (
                pages(self.nbytes)
                if is_main
                else torch.empty(self.nbytes, dtype=torch.uint8, device=home.device)
            )
            # Also for who drops it without `close`: what is there next must not be taken for locked.
            self._unlock = weakref.finalize(self, runtime.page_lock(self._memory))
            self._unlock.atexit = False
            for piece in self._pieces:
                piece.view(self._memory).copy_(piece.slot.tensor)
        self._at_home = self._views(self._memory)
        self._show(self._at_home)
        self._pieces = [piece.moved() for piece in self._pieces]

    def bring(self, room: Room) -> None:
        """Copies the piece of memory."""
        assert room.buffer is not None, "it asked for one"
        room.buffer[: self.nbytes].copy_(self._memory, non_blocking=True)

    def arrive(self, room: Room) -> None:
        """The block sees the copy."""
        assert room.buffer is not None, "it asked for one"
        if self not in room.views:
            room.views[self] = self._views(room.buffer)
        self._show(room.views[self])

    def leave(self, room: Room) -> None:
        """The block sees its weights at home."""
        self._show(self._at_home)

    def close(self) -> None:
        """Drops the weights."""
        self._unlock()
        replace(self.slots(), lambda tensor: torch.empty_like(tensor, device="meta"))
        self._memory, self._at_home, self._pieces = torch.empty(0), [], []

    def _views(self, memory: Tensor) -> list[Tensor]:
        """The weights as they lie in `memory`; what is one tensor in two places is one there, too."""
        made: dict[int, Tensor] = {}
        for piece in self._pieces:
            if piece.offset not in made:
                made[piece.offset] = piece.slot.like_it(piece.view(memory))
        return [made[piece.offset] for piece in self._pieces]

    def _show(self, views: list[Tensor]) -> None:
        for piece, view in zip(self._pieces, views, strict=True):
            piece.slot.table[piece.slot.key] = view


def _laid_out(module: nn.Module, places: Sequence[Slot], gap: int) -> tuple[list[Piece], int]:
    """A place for each tensor in one piece of memory, and its size.

    Projections of one input lie side by side, so that they can be one product (layers.joint); with a gap they
    can not, and are computed as they are everywhere else on such a device.
    """
    pieces: list[Piece] = []
    offsets: dict[int, int] = {}
    end = 0
    for slot in _joint_first(module, places):
        if id(slot.tensor) not in offsets:
            offsets[id(slot.tensor)] = end
            end += (-(-slot.tensor.numel() * slot.tensor.itemsize // ALIGNMENT) + gap) * ALIGNMENT
        # Dense, the axes in the order in which they lie in memory now.
        stride = torch.empty_like(slot.tensor, device="meta").stride()
        pieces.append(Piece(slot, offsets[id(slot.tensor)], slot.tensor.shape, stride))
    return pieces, end


def _joint_first(module: nn.Module, places: Sequence[Slot]) -> Iterator[Slot]:
    rank: dict[int, int] = {}
    for part in module.modules():
        if isinstance(part, HasJointProjections):
            for group in part.joint_projections():
                for name in ("weight", "bias"):
                    for linear in group:
                        rank.setdefault(id(getattr(linear, name, None)), len(rank))
    yield from sorted(places, key=lambda slot: rank.get(id(slot.tensor), len(rank)))
