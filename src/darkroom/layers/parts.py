"""What of a transformer layer can be shared out to several devices (Megatron-LM, arXiv 1909.08053).

Heads of an attention and hidden channels of a feed-forward have nothing to do with each other between the
projection that makes them and the one that takes them up. So each device can have some of both projections'
weights: rows of the first, columns of the second, whose outputs are then added up over the devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import nn

Sections = tuple[int, ...]


@dataclass(frozen=True)
class Parts:
    """What of a module can be shared out, the same share of each.

    outputs: Linears, or tables of vectors, and the widths of the sections that lie side by side in what they
    make. inputs: the same of what Linears take. counts: names of the module's attributes that count heads or
    channels of these.
    """

    outputs: Mapping[nn.Module, Sections] = field(default_factory=dict)
    inputs: Mapping[nn.Module, Sections] = field(default_factory=dict)
    counts: tuple[str, ...] = ()


@runtime_checkable
class HasParts(Protocol):
    """A module that can be shared out; all of them in a network are, or none."""

    def parts(self) -> Parts:
        """As they are where nothing has been shared out yet."""
