"""Foreign spellings as data: rules that turn the names and shapes of a file into native ones."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from darkroom.api.errors import CheckpointError
from darkroom.quant.packed import PackedTensor
from darkroom.weights.index import TensorIndex, TensorInfo


@dataclass(frozen=True)
class Recipe:
    """How one native tensor is made from one tensor of the file: take rows, then transpose, then reshape.

    source: the tensor in the file. rows: first and one past the last row. transpose: swap the two dimensions.
    shape: what comes out.
    """

    source: TensorInfo
    shape: tuple[int, ...]
    rows: tuple[int, int] | None = None
    transpose: bool = False

    @classmethod
    def of(cls, source: TensorInfo) -> Recipe:
        """The tensor as it is."""
        return cls(source, source.shape)

    def make(self, tensor: Tensor | PackedTensor) -> Tensor | PackedTensor:
        """The native tensor from the file's; a view where possible, packed while its blocks stay whole."""
        if isinstance(tensor, PackedTensor) and not self.transpose:
            part = tensor if self.rows is None else tensor.row_slice(*self.rows)
            return (
                replace(part, shape=self.shape)
                if isinstance(part, PackedTensor)
                else part.reshape(self.shape)
            )
        if isinstance(tensor, PackedTensor):
            tensor = tensor.decode(torch.float32)
        if self.rows is not None:
            tensor = tensor[self.rows[0] : self.rows[1]]
        if self.transpose:
            tensor = tensor.T
        return tensor.reshape(self.shape)


Recipes = dict[str, Recipe]


class Rule(Protocol):
    """One step of a translation: all tensors in, all tensors out."""

    def apply(self, recipes: Recipes) -> Recipes:
        """The tensors after this rule, in the same order."""


@dataclass(frozen=True)
class Rename:
    """Replaces what `pattern` finds in a name, as `re.sub` does: groups as \\1, or a function of it."""

    pattern: str
    replacement: str | Callable[[re.Match[str]], str]

    def apply(self, recipes: Recipes) -> Recipes:
        """Renames every tensor that matches."""
        sub = re.compile(self.pattern).sub
        renamed: Recipes = {}
        for name, recipe in recipes.items():
            put(renamed, sub(self.replacement, name), recipe)
        return renamed


@dataclass(frozen=True)
class SplitRows:
    """Cuts a fused tensor into equal parts along its rows, for example in_proj into q, k and v.

    pattern: matches the whole name; replacements: one template for each part, groups as \\1.
    """

    pattern: str
    replacements: tuple[str, ...]

    def apply(self, recipes: Recipes) -> Recipes:
        """Splits every tensor that matches."""
        regex, parts = re.compile(self.pattern), len(self.replacements)
        split: Recipes = {}
        for name, recipe in recipes.items():
            match = regex.fullmatch(name)
            if match is None:
                put(split, name, recipe)
                continue
            assert not recipe.transpose, "rows are cut before a matrix is transposed: put SplitRows first"
            rows = recipe.shape[0] if recipe.shape else 0
            if rows == 0 or rows % parts:
                raise CheckpointError(
                    f"{recipe.source.name}: {rows} rows cannot be split into {parts} equal parts; "
                    f"expected a fused tensor with a multiple of {parts} rows"
                )
            step, first = rows // parts, recipe.rows[0] if recipe.rows else 0
            for i, template in enumerate(self.replacements):
                part = replace(
                    recipe,
                    shape=(step, *recipe.shape[1:]),
                    rows=(first + i * step, first + (i + 1) * step),
                )
                put(split, match.expand(template), part)
        return split


@dataclass(frozen=True)
class Transpose:
    """Swaps the two dimensions of the matrices whose whole name matches, and may rename them."""

    pattern: str
    replacement: str | None = None

    def apply(self, recipes: Recipes) -> Recipes:
        """Transposes every matrix that matches."""

        def transposed(recipe: Recipe) -> Recipe:
            if len(recipe.shape) != 2:
                return recipe
            return replace(recipe, shape=recipe.shape[::-1], transpose=not recipe.transpose)

        return _reshaped(recipes, self.pattern, self.replacement, transposed)


@dataclass(frozen=True)
class ToConv:
    """Gives a linear weight (rows, columns) the shape of a 1x1 convolution (rows, columns, 1, 1)."""

    pattern: str
    replacement: str | None = None

    def apply(self, recipes: Recipes) -> Recipes:
        """Reshapes every matrix whose whole name matches."""

        def widened(recipe: Recipe) -> Recipe:
            return replace(recipe, shape=(*recipe.shape, 1, 1)) if len(recipe.shape) == 2 else recipe

        return _reshaped(recipes, self.pattern, self.replacement, widened)


@dataclass(frozen=True)
class ToLinear:
    """Gives the weight of a 1x1 convolution (rows, columns, 1, 1) that of a linear one (rows, columns)."""

    pattern: str
    replacement: str | None = None

    def apply(self, recipes: Recipes) -> Recipes:
        """Reshapes every tensor whose whole name matches and whose trailing dimensions are 1."""

        def flattened(recipe: Recipe) -> Recipe:
            matrix = recipe.shape[:2]
            return replace(recipe, shape=matrix) if math.prod(recipe.shape[2:]) == 1 else recipe

        return _reshaped(recipes, self.pattern, self.replacement, flattened)


@dataclass(frozen=True)
class Drop:
    """Leaves out tensors in whose names `pattern` is found: they belong to no network."""

    pattern: str

    def apply(self, recipes: Recipes) -> Recipes:
        """All tensors that do not match."""
        found = re.compile(self.pattern).search
        return {name: recipe for name, recipe in recipes.items() if not found(name)}


@dataclass(frozen=True)
class Derived:
    """Rules that depend on what the file holds, such as its number of blocks on a level.

    make: from names and shapes as they are after the rules before this one.
    """

    make: Callable[[Mapping[str, tuple[int, ...]]], tuple[Rule, ...]]

    def apply(self, recipes: Recipes) -> Recipes:
        """Makes the rules and applies them."""
        for rule in self.make({name: recipe.shape for name, recipe in recipes.items()}):
            recipes = rule.apply(recipes)
        return recipes


@dataclass(frozen=True)
class RenamedView:
    """A file under its native names. index: names, shapes and types; recipes: how each tensor is made."""

    index: TensorIndex
    recipes: Mapping[str, Recipe]


@dataclass(frozen=True)
class KeyRules:
    """Rules in the order they are applied; each sees the names that the one before it left."""

    rules: tuple[Rule, ...] = ()

    def apply(self, index: TensorIndex) -> RenamedView:
        """The native view of `index`.

        Raises CheckpointError where two tensors of the file would get one name.
        """
        recipes: Recipes = {name: Recipe.of(info) for name, info in index.items()}
        for rule in self.rules:
            recipes = rule.apply(recipes)
        native = TensorIndex(
            (TensorInfo(name, recipe.shape, recipe.source.dtype) for name, recipe in recipes.items()),
            index.metadata,
        )
        return RenamedView(native, recipes)

    def __add__(self, other: KeyRules) -> KeyRules:
        return KeyRules(self.rules + other.rules)


def put(recipes: Recipes, name: str, recipe: Recipe) -> None:
    """Adds a tensor under a name that must still be free."""
    other = recipes.setdefault(name, recipe)
    if other is not recipe:
        raise CheckpointError(
            f"{name}: the file's tensors {other.source.name} and {recipe.source.name} are both this tensor; "
            "a checkpoint holds each tensor once"
        )


def _reshaped(
    recipes: Recipes, pattern: str, replacement: str | None, change: Callable[[Recipe], Recipe]
) -> Recipes:
    regex = re.compile(pattern)
    changed: Recipes = {}
    for name, recipe in recipes.items():
        match = regex.fullmatch(name)
        if match is None:
            put(changed, name, recipe)
        else:
            put(changed, name if replacement is None else match.expand(replacement), change(recipe))
    return changed
