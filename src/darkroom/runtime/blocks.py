"""The repeated blocks of a network, found without knowing it: the parts that can come one after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from darkroom.layers.joint import HasJointProjections

SMALLEST = 1 / 16
"""Of the largest block's bytes, what a block must have to be worth bringing by itself."""


@dataclass(frozen=True)
class Block:
    """One block.

    name: its place in the network. shared: the modules in it whose weights the network reads from outside, by
    their names in the block. tensors: those of all others, by their names in the block.
    nbytes: what these take on a device.
    """

    name: str
    shared: tuple[str, ...]
    tensors: frozenset[str]
    nbytes: int


def find_blocks(net: nn.Module, sizes: Mapping[str, int]) -> list[Block]:
    """The blocks of `net` that hold most of its bytes, in the order in which it lists them.

    A block is called as a whole and stands in a list of such, or is itself a list that is called, as the
    UNet's are. What the network reads of it from outside is not counted to it.

    sizes: bytes of each tensor of `net` by its name.
    """
    modules = dict(_called_from_lists(net, ""))
    shared = _read_from_outside(net, modules.values())
    blocks = []
    for name, module in modules.items():
        kept = tuple(inner for inner, part in module.named_modules() if id(part) in shared)
        tensors = frozenset(
            tensor
            for tensor in module.state_dict(keep_vars=True)
            if not tensor.startswith(tuple(f"{inner}." for inner in kept))
        )
        nbytes = sum(sizes[f"{name}.{tensor}"] for tensor in tensors)
        blocks.append(Block(name, kept, tensors, nbytes))
    largest = max((block.nbytes for block in blocks), default=0)
    return [block for block in blocks if block.nbytes and block.nbytes >= SMALLEST * largest]


def _called_from_lists(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    for key, child in module.named_children():
        path = f"{name}.{key}" if name else key
        if _is_callable(child) and (isinstance(module, nn.ModuleList) or isinstance(child, nn.ModuleList)):
            if any(True for _ in child.children()):  # not a single layer, whose weight may be read as such
                yield path, child
        else:
            yield from _called_from_lists(child, path)


def _is_callable(module: nn.Module) -> bool:
    """Whether it is called itself, and not only what it holds."""
    return type(module).forward is not nn.Module.forward


def _read_from_outside(net: nn.Module, blocks: Collection[nn.Module]) -> set[int]:
    """Identities of the modules in blocks whose weights are used before the block is called."""
    inside = {id(part) for block in blocks for part in block.modules()}
    return {
        id(linear)
        for module in net.modules()
        if id(module) not in inside and isinstance(module, HasJointProjections)
        for group in module.joint_projections()
        for linear in group
    }
