"""The places of a network that hold tensors, so that these can be exchanged without its knowing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, cast

from torch import Tensor, nn


class Slot(NamedTuple):
    """One place of a network that holds a tensor."""

    table: dict[str, Tensor | None]
    key: str
    tensor: Tensor

    def like_it(self, tensor: Tensor) -> Tensor:
        """`tensor` as a parameter, if the slot holds one."""
        return nn.Parameter(tensor, requires_grad=False) if isinstance(self.tensor, nn.Parameter) else tensor


def slots(net: nn.Module, without: Collection[nn.Module] = ()) -> list[Slot]:
    """Every parameter and buffer of `net` in its place; one that stands in two places is listed twice.

    without: modules whose own tensors are left out, and those of all that is in them.
    """
    left = {id(part) for module in without for part in module.modules()}
    return [
        Slot(table, key, tensor)
        for module in net.modules()
        if id(module) not in left
        for table in (cast("dict[str, Tensor | None]", module._parameters), module._buffers)
        for key, tensor in table.items()
        if tensor is not None
    ]


def replace(places: Sequence[Slot], new: Callable[[Tensor], Tensor]) -> None:
    """Puts `new(tensor)` in the place of each tensor; what was one tensor in two places is one again."""
    made: dict[int, Tensor] = {}
    for slot in places:
        if id(slot.tensor) not in made:
            made[id(slot.tensor)] = slot.like_it(new(slot.tensor.detach()))
        slot.table[slot.key] = made[id(slot.tensor)]
