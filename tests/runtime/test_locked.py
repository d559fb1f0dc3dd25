"""Weights in locked pages: the same numbers in the same layout."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import partial

import pytest
import torch
from tests.conftest import FakeBackend, fake
from torch import Tensor, nn

from darkroom.runtime import locked
from darkroom.runtime.locked import lock
from darkroom.runtime.slots import slots


class Locking(FakeBackend):
    """Remembers what it was asked to lock and to unlock."""

    def __init__(self) -> None:
        super().__init__(fake("cuda0"), torch.device("cpu"))
        self.locked: dict[int, Tensor] = {}

    def page_lock(self, memory: Tensor) -> Callable[[], None]:
        self.locked[id(memory)] = memory
        return partial(self.locked.__delitem__, id(memory))


def network() -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 7), nn.Conv2d(3, 4, 3), nn.Embedding(9, 5))
    net[1].to(memory_format=torch.channels_last)
    net.append(nn.Linear(5, 9, bias=False))
    net[3].weight = net[2].weight
    return net.requires_grad_(False)


@pytest.mark.parametrize("piece", [1, 1 << 10, 1 << 28])
def test_numbers_layouts_and_sharing_are_kept(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(locked, "PIECE", piece)
    net, backend = network(), Locking()
    before = {name: (tensor.clone(), tensor.stride()) for name, tensor in net.state_dict().items()}
    unlock = lock(slots(net), backend)
    for name, tensor in net.state_dict().items():
        expected, stride = before[name]
        assert torch.equal(tensor, expected)
        assert tensor.stride() == stride
        assert any(
            memory.data_ptr() <= tensor.data_ptr() < memory.data_ptr() + memory.numel()
            for memory in backend.locked.values()
        )
    assert all(memory.data_ptr() % mmap.PAGESIZE == 0 for memory in backend.locked.values())
    unlock()
    assert not backend.locked


@pytest.mark.parametrize("piece", [1, 1 << 28])
def test_what_is_one_tensor_in_two_places_stays_one(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(locked, "PIECE", piece)
    net = network()
    lock(slots(net), Locking())
    assert net[3].weight is net[2].weight


def test_pages_that_are_not_there_are_a_want_of_memory() -> None:
    with pytest.raises(MemoryError, match="bytes of pages"):
        locked.pages(1 << 60)
