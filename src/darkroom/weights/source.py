"""Where a network's weights come from: native names, whatever the files call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from darkroom.quant.packed import PackedTensor
from darkroom.weights.checkpoint import Checkpoint
from darkroom.weights.index import DTYPES, Metadata, TensorIndex, TensorInfo
from darkroom.weights.keys import KeyRules
from darkroom.weights.recipes import Recipe


class TensorSource(Protocol):
    """Tensors by native name."""

    @property
    def index(self) -> TensorIndex:
        """What there is."""

    def read(self, name: str) -> Tensor | PackedTensor:
        """One tensor, mapped or packed where it can stay so."""

    def release(self, name: str) -> None:
        """Gives back memory that reading `name` has taken up."""

    def under(self, prefix: str) -> TensorSource:
        """The tensors whose names start with `prefix`, without it."""


class _Reader(Protocol):
    def read(self, name: str) -> Tensor | PackedTensor: ...

    def release(self, name: str) -> None: ...


@dataclass(frozen=True)
class _Place:
    reader: _Reader
    recipe: Recipe


class TensorView:
    """Tensors of one or several checkpoints under native names; cuts cost no memory."""

    def __init__(self, places: Mapping[str, _Place], metadata: Metadata) -> None:
        self._places = places
        self._metadata = metadata

    @cached_property
    def index(self) -> TensorIndex:
        """Native names, shapes and types."""
        return TensorIndex(
            (TensorInfo(name, p.recipe.shape, p.recipe.source.dtype) for name, p in self._places.items()),
            self._metadata,
        )

    def read(self, name: str) -> Tensor | PackedTensor:
        """One tensor as its recipe makes it."""
        place = self._places[name]
        sources = place.recipe.sources
        made = place.recipe.make(*(place.reader.read(source.name) for source in sources))
        if len(sources) > 1:  # a copy: the file's memory is not needed any more
            self.release(name)
        return made

    def release(self, name: str) -> None:
        """Gives back the memory of the tensors in the file that `name` is made from."""
        place = self._places[name]
        for source in place.recipe.sources:
            place.reader.release(source.name)

    def under(self, prefix: str) -> TensorView:
        """The tensors whose names start with `prefix`, without it."""
        places = {
            name[len(prefix) :]: place for name, place in self._places.items() if name.startswith(prefix)
        }
        return TensorView(places, self._metadata)

    def only(self, prefix: str) -> TensorView:
        """The tensors whose names start with `prefix`, names kept."""
        places = {name: place for name, place in self._places.items() if name.startswith(prefix)}
        return TensorView(places, self._metadata)

    def without(self, *prefixes: str) -> TensorView:
        """The tensors whose names start with none of these, names kept."""
        places = {name: place for name, place in self._places.items() if not name.startswith(prefixes)}
        return TensorView(places, self._metadata)

    def renamed(self, spelling: Callable[[str], str | None]) -> TensorView:
        """All tensors under other names; those for which there is none are left out."""
        named = ((spelling(name), place) for name, place in self._places.items())
        return TensorView({name: place for name, place in named if name is not None}, self._metadata)

    def replaced(self, prefix: str, other: TensorView) -> TensorView:
        """This view without what is under `prefix`, and all of `other`, which wins where both have a name.

        The same goes for what the files say about themselves, such as the vocabulary of a text encoder.
        `view.replaced("first_stage_model.", vae)` is a model with a separate VAE.
        """
        places = {name: place for name, place in self._places.items() if not name.startswith(prefix)}
        metadata = {**self._metadata, **other._metadata}
        return TensorView({**places, **other._places}, metadata)


def open_source(checkpoint: Checkpoint, rules: KeyRules | None = None) -> TensorView:
    """A checkpoint under the names that `rules` give its tensors; its own names without rules."""
    view = (rules or KeyRules()).apply(checkpoint.index)
    places = {name: _Place(checkpoint, recipe) for name, recipe in view.recipes.items()}
    return TensorView(places, checkpoint.index.metadata)


class MemorySource:
    """Tensors that are in memory already, such as a state dict."""

    def __init__(self, tensors: Mapping[str, Tensor | PackedTensor]) -> None:
        self._tensors = tensors
        self.index = TensorIndex(describe_tensor(name, tensor) for name, tensor in tensors.items())

    def read(self, name: str) -> Tensor | PackedTensor:
        """The tensor itself."""
        return self._tensors[name]

    def release(self, name: str) -> None:
        """Nothing to give back: the tensors are the caller's."""

    def under(self, prefix: str) -> MemorySource:
        """The tensors whose names start with `prefix`, without it."""
        return MemorySource(
            {name[len(prefix) :]: t for name, t in self._tensors.items() if name.startswith(prefix)}
        )


NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


def describe_tensor(name: str, tensor: Tensor | PackedTensor) -> TensorInfo:
    """What an index says about a tensor in memory."""
    dtype = tensor.format if isinstance(tensor, PackedTensor) else NAMES[tensor.dtype]
    return TensorInfo(name, tuple(tensor.shape), dtype)
