"""Weights that wait in main memory, in pages that stay where they are: a card fetches them by itself."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from darkroom.runtime.backends import Backend
from darkroom.runtime.slots import Slot, replace

PIECE = 1 << 28
"""Bytes that are locked at a time: so many are there twice while tensors move in."""

ALIGNMENT = 256
"""Bytes to whose multiples tensors are aligned in one piece of memory, as CUDA's allocator aligns them."""


def pages(nbytes: int) -> Tensor:
    """uint8 memory of the processor in whole pages, since they can only be locked whole.

    Raises MemoryError where there is not so much.
    """
    try:
        memory = mmap.mmap(-1, max(nbytes, 1))
    except OSError as error:
        raise MemoryError(f"{nbytes} bytes of pages: {error.strerror}") from error
    return torch.frombuffer(memory, dtype=torch.uint8)[:nbytes]


def lock(places: Sequence[Slot], runtime: Backend) -> Callable[[], None]:
    """Moves the tensors of main memory in these places to locked pages, from which `runtime` will take them.

    What it returns unlocks them; to be called when nobody takes them any more. Their layout is kept.
    """
    holders: dict[int, list[Slot]] = {}
    for slot in places:
        holders.setdefault(id(slot.tensor), []).append(slot)
    with ExitStack() as undo, torch.inference_mode(False), torch.no_grad():
        group: list[Slot] = []
        size = 0
        for those in holders.values():
            group += those
            size += _room(those[0].tensor)
            if size >= PIECE:
                undo.callback(_lock(group, size, runtime))
                group, size = [], 0
        if group:
            undo.callback(_lock(group, size, runtime))
        return undo.pop_all().close


def _lock(group: Sequence[Slot], size: int, runtime: Backend) -> Callable[[], None]:
    memory, end = pages(size), 0
    unlock = runtime.page_lock(memory)

    def moved(tensor: Tensor) -> Tensor:
        nonlocal end
        start, end = end, end + _room(tensor)
        piece = memory[start : start + tensor.numel() * tensor.itemsize].view(tensor.dtype)
        # Dense, the axes in the order in which they lie in memory now.
        place = piece.as_strided(tensor.shape, torch.empty_like(tensor, device="meta").stride())
        return place.copy_(tensor)

    replace(group, moved)
    return unlock


def _room(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.itemsize // ALIGNMENT) * ALIGNMENT
