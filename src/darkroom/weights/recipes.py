"""How the tensors of a network are made from those of a file: take rows, join, transpose, reshape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from darkroom.api.errors import CheckpointError
from darkroom.quant.packed import PackedTensor
from darkroom.weights.index import TensorInfo


@dataclass(frozen=True)
class Recipe:
    """How one native tensor is made from one tensor of the file: take rows, then reshape.

    source: the tensor in the file. rows: first and one past the last row. shape: what comes out.
    """

    source: TensorInfo
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None

    @classmethod
    def of(cls, source: TensorInfo) -> Recipe:
        """The tensor as it is."""
        return cls(source, source.shape)

    @property
    def sources(self) -> tuple[TensorInfo, ...]:
        """The tensors of the file that it is made from, in the order that `make` takes them."""
        return (self.source,)

    def make(self, *tensors: Tensor | PackedTensor) -> Tensor | PackedTensor:
        """The native tensor from the file's; a view where possible, packed while its blocks stay whole."""
        (tensor,) = tensors
        if self.rows is not None:
            first, stop = self.rows
            tensor = tensor.row_slice(first, stop) if isinstance(tensor, PackedTensor) else tensor[first:stop]
        if isinstance(tensor, PackedTensor):
            return replace(tensor, shape=self.shape)
        return tensor.reshape(self.shape)


@dataclass(frozen=True)
class Joined(Recipe):
    """How one native tensor is made from several: join them along `axis`, then as any recipe.

    source: the first of them. parts: what is joined. Always a copy; packed where `PackedTensor.join` can.
    """

    parts: tuple[Recipe, ...] = ()
    axis: int = 0

    @property
    def sources(self) -> tuple[TensorInfo, ...]:
        """Of all parts, one after the other."""
        return tuple(source for part in self.parts for source in part.sources)

    def make(self, *tensors: Tensor | PackedTensor) -> Tensor | PackedTensor:
        """The native tensor from the file's, in the order of `sources`."""
        rest = iter(tensors)
        return super().make(
            _joined([part.make(*islice(rest, len(part.sources))) for part in self.parts], self.axis)
        )


def _joined(parts: Sequence[Tensor | PackedTensor], axis: int) -> Tensor | PackedTensor:
    packed = [part for part in parts if isinstance(part, PackedTensor)]
    if axis == 0 and len(packed) == len(parts) and (whole := PackedTensor.join(packed)):
        return whole
    return torch.cat(
        [part.decode(torch.float32) if isinstance(part, PackedTensor) else part for part in parts], dim=axis
    )


@dataclass(frozen=True)
class Transposed(Recipe):
    """How one native matrix is made from a tensor of the file: as any recipe, then rows become columns."""

    def make(self, *tensors: Tensor | PackedTensor) -> Tensor | PackedTensor:
        """The native matrix; a view, or unpacked where the file's is packed, whose blocks lie along rows."""
        tensor = Recipe(self.source, self.shape[::-1], self.rows).make(*tensors)
        return (tensor.decode(torch.float32) if isinstance(tensor, PackedTensor) else tensor).mT


Recipes = dict[str, Recipe]


def put(recipes: Recipes, name: str, recipe: Recipe) -> None:
    """Adds a tensor under a name that must still be free."""
    other = recipes.setdefault(name, recipe)
    if other is not recipe:
        raise CheckpointError(
            f"{name}: the file's tensors {other.source.name} and {recipe.source.name} are both this tensor; "
            "a checkpoint holds each tensor once"
        )
