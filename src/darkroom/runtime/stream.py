"""Blocks of a network whose weights come when they run and leave after it.

Two blocks have room at a time: while one runs the next is brought, and as soon as it has run, the one after
that. Which follows which is seen in the calls. The network notices nothing: its blocks get hooks, and what
they hold is exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from darkroom.runtime.backends import Backend
from darkroom.runtime.blocks import Block
from darkroom.runtime.budget import BUFFERS
from darkroom.runtime.courier import Courier, Wait
from darkroom.runtime.slots import Slot
from darkroom.runtime.streamed import Room, StreamedBlock


@dataclass(frozen=True)
class Streaming:
    """Which blocks of a network come one by one, and where their weights live; None: in their file."""

    blocks: tuple[Block, ...]
    home: Backend | None


class OnItsWay(NamedTuple):
    """A block that has room on the device. wait: before it is used."""

    room: Room
    wait: Wait


class BlockStream:
    """Brings the blocks of one network while it runs; `start` and `stop` are the ends of that.

    Blocks are called one at a time, each as often and in whatever order the network likes. What fails in
    a call leaves everything so that the next call, or `stop`, finds its way.
    """

    def __init__(
        self, blocks: Sequence[StreamedBlock], runtime: Backend, on_bytes: Callable[[int], None]
    ) -> None:
        """`blocks`: in the order in which they are probably called. on_bytes: hears what each one takes."""
        self._blocks = blocks
        self._runtime = runtime
        self._on_bytes = on_bytes
        self._tables = {id(slot.table) for block in blocks for slot in block.slots()}
        self._next = {number: number + 1 for number in range(len(blocks) - 1)}
        self._last: int | None = None
        self._here: dict[int, OnItsWay] = {}
        self._free: list[Room] = []
        self._courier: Courier | None = None
        self._hooks: list[RemovableHandle] = []

    @property
    def modules(self) -> list[nn.Module]:
        """The blocks."""
        return [block.module for block in self._blocks]

    def holds(self, slot: Slot) -> bool:
        """Whether a place is one whose tensor comes and goes."""
        return id(slot.table) in self._tables

    def start(self) -> None:
        """Makes room on the device, and brings the first blocks."""
        largest = max(block.nbytes if block.needs_buffer else 0 for block in self._blocks)
        device = self._runtime.device
        with torch.inference_mode(False):
            for _ in range(BUFFERS):
                self._free.append(
                    Room(torch.empty(largest, dtype=torch.uint8, device=device) if largest else None)
                )
        self._courier = self._runtime.courier(reads_files=not largest)
        self._last = None
        for number, block in enumerate(self._blocks):
            before, after = partial(self._before, number), partial(self._after, number)
            self._hooks.append(block.module.register_forward_pre_hook(before))
            self._hooks.append(block.module.register_forward_hook(after))
        for number in range(BUFFERS):
            self._bring(number)

    def stop(self) -> None:
        """Takes all weights away again and gives the room back; a second call does nothing."""
        while self._hooks:
            self._hooks.pop().remove()
        if self._courier is not None:
            self._courier.close()
            self._courier = None
        while self._here:
            number, (room, _) = self._here.popitem()
            self._blocks[number].leave(room)
        self._free.clear()

    def close(self) -> None:
        """Gives back what the weights take elsewhere."""
        self.stop()
        if not self._runtime.is_closed:
            self._runtime.synchronize()  # copies that nobody waited for may still read from there
        for block in self._blocks:
            block.close()

    def _before(self, number: int, module: nn.Module, args: object) -> None:
        if number not in self._here:
            if not self._free:  # another one was expected
                unexpected = next(iter(self._here))
                self._here[unexpected].wait()
                self._drop(unexpected)
            self._bring(number)
        try:
            self._here[number].wait()
        except BaseException:
            self._drop(number)
            raise
        if self._last is not None:
            self._next[self._last] = number
        self._last = number

    def _after(self, number: int, module: nn.Module, args: object, output: object) -> None:
        self._drop(number)
        expected: int | None = number
        for _ in range(BUFFERS):
            expected = self._next.get(expected) if expected is not None else None
            if expected is not None and expected not in self._here and self._free:
                self._bring(expected)

    def _bring(self, number: int) -> None:
        assert self._courier is not None, "hooks are there between start and stop"
        block, room = self._blocks[number], self._free.pop()
        try:
            self._here[number] = OnItsWay(room, self._courier.bring(partial(block.bring, room)))
        except BaseException:
            self._free.append(room)
            raise
        block.arrive(room)
        self._on_bytes(block.nbytes)

    def _drop(self, number: int) -> None:
        room, _ = self._here.pop(number)
        self._blocks[number].leave(room)
        self._free.append(room)
