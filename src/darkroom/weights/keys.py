"""Foreign spellings as data: rules that turn the names and shapes of a file into native ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from darkroom.api.errors import CheckpointError
from darkroom.weights.index import Metadata, TensorIndex, TensorInfo
from darkroom.weights.recipes import Joined, Recipe, Recipes, Transposed, put


class Rule(Protocol):
    """One step of a translation: all tensors in, all tensors out.

    Every family's rules are tried on a file, and few rules find anything: to look first is quicker.
    """

    def apply(self, recipes: Recipes) -> Recipes:
        """The tensors after this rule, in the same order; those that came in where it has nothing to do."""


@dataclass(frozen=True)
class Rename:
    """Replaces what `pattern` finds in a name, as `re.sub` does: groups as \\1, or a function of it."""

    pattern: str
    replacement: str | Callable[[re.Match[str]], str]

    def apply(self, recipes: Recipes) -> Recipes:
        """Renames every tensor that matches."""
        regex = re.compile(self.pattern)
        if not any(map(regex.search, recipes)):
            return recipes
        renamed: Recipes = {}
        for name, recipe in recipes.items():
            put(renamed, regex.sub(self.replacement, name), recipe)
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
        if not any(map(regex.fullmatch, recipes)):
            return recipes
        split: Recipes = {}
        for name, recipe in recipes.items():
            match = regex.fullmatch(name)
            if match is None:
                put(split, name, recipe)
                continue
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
class Join:
    """Puts tensors together along an axis, for example q, k and v into qkv: the inverse of SplitRows.

    patterns: one for each part, in order, all with the same groups; each matches the whole name.
    replacement: the name of the whole. stack: along a new axis, not one that the parts have.
    Where not all parts are there, those that are keep their names.
    """

    patterns: tuple[str, ...]
    replacement: str
    axis: int = 0
    stack: bool = False

    def apply(self, recipes: Recipes) -> Recipes:
        """Joins every set of tensors that match."""
        regexes = [re.compile(pattern) for pattern in self.patterns]
        sets: dict[str, dict[int, str]] = {}  # name of the whole -> number of the part -> name of the part
        for name in recipes:
            for i, regex in enumerate(regexes):
                if match := regex.fullmatch(name):
                    sets.setdefault(match.expand(self.replacement), {})[i] = name
        whole = {parts[0]: native for native, parts in sets.items() if len(parts) == len(regexes)}
        others = {sets[native][i] for native in whole.values() for i in range(1, len(regexes))}
        joined: Recipes = {}
        for name, recipe in recipes.items():
            if name in whole:
                parts = sets[whole[name]]
                put(joined, whole[name], self._join([recipes[parts[i]] for i in range(len(regexes))]))
            elif name not in others:
                put(joined, name, recipe)
        return joined

    def _join(self, parts: Sequence[Recipe]) -> Joined:
        axis = self.axis
        if self.stack:
            parts = [replace(part, shape=(*part.shape[:axis], 1, *part.shape[axis:])) for part in parts]
        first = parts[0].shape
        rests = {(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts}
        if len(rests) > 1 or len(first) <= axis:
            raise CheckpointError(
                f"{parts[0].source.name}: shape {list(first)} cannot be joined with "
                f"{', '.join(f'{part.source.name} {list(part.shape)}' for part in parts[1:])}; "
                f"expected tensors that differ in axis {axis} alone"
            )
        length = sum(part.shape[axis] for part in parts)
        shape = (*first[:axis], length, *first[axis + 1 :])
        return Joined(parts[0].source, shape, parts=tuple(parts), axis=axis)


@dataclass(frozen=True)
class ToConv:
    """Gives a linear weight (rows, columns) the shape of a 1x1 convolution (rows, columns, 1, 1)."""

    pattern: str
    replacement: str | None = None

    def apply(self, recipes: Recipes) -> Recipes:
        """Reshapes every matrix whose whole name matches."""
        regex = re.compile(self.pattern)
        if not any(map(regex.fullmatch, recipes)):
            return recipes
        changed: Recipes = {}
        for name, recipe in recipes.items():
            match = regex.fullmatch(name)
            if match is None:
                put(changed, name, recipe)
                continue
            wide = replace(recipe, shape=(*recipe.shape, 1, 1)) if len(recipe.shape) == 2 else recipe
            put(changed, name if self.replacement is None else match.expand(self.replacement), wide)
        return changed


@dataclass(frozen=True)
class ToLinear:
    """Gives the weight of a 1x1 convolution (rows, columns, 1, 1) the shape of a linear one (rows, columns).

    pattern: matches the whole name.
    """

    pattern: str

    def apply(self, recipes: Recipes) -> Recipes:
        """Reshapes every such weight whose name matches."""
        regex = re.compile(self.pattern)
        return {
            name: replace(recipe, shape=recipe.shape[:2])
            if recipe.shape[2:] == (1, 1) and regex.fullmatch(name)
            else recipe
            for name, recipe in recipes.items()
        }


@dataclass(frozen=True)
class LeadingAxis:
    """Gives back the leading axis of length 1 that some GGUF files leave out.

    pattern: matches the whole name; axes: how many the native tensor has.
    """

    pattern: str
    axes: int

    def apply(self, recipes: Recipes) -> Recipes:
        """Reshapes every tensor that matches and lacks one."""
        regex = re.compile(self.pattern)
        return {
            name: replace(recipe, shape=(1, *recipe.shape))
            if len(recipe.shape) == self.axes - 1 and regex.fullmatch(name)
            else recipe
            for name, recipe in recipes.items()
        }


@dataclass(frozen=True)
class Transpose:
    """Turns a matrix that multiplies from the right, x M, into a linear weight, x W^T.

    pattern: matches the whole name; replacement: groups as \\1.
    """

    pattern: str
    replacement: str

    def apply(self, recipes: Recipes) -> Recipes:
        """Transposes every matrix that matches."""
        regex = re.compile(self.pattern)
        if not any(map(regex.fullmatch, recipes)):
            return recipes
        turned: Recipes = {}
        for name, recipe in recipes.items():
            match = regex.fullmatch(name)
            if match is None:
                put(turned, name, recipe)
                continue
            if len(recipe.shape) != 2 or isinstance(recipe, Joined):
                raise CheckpointError(
                    f"{recipe.source.name}: shape {list(recipe.shape)} cannot be turned; expected a matrix"
                )
            upright = Transposed(recipe.source, recipe.shape[::-1], recipe.rows)
            put(turned, match.expand(self.replacement), upright)
        return turned


@dataclass(frozen=True)
class Drop:
    """Leaves out tensors in whose names `pattern` is found: they belong to no network."""

    pattern: str

    def apply(self, recipes: Recipes) -> Recipes:
        """All tensors that do not match."""
        found = re.compile(self.pattern).search
        if not any(map(found, recipes)):
            return recipes
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
    """A file under its native names. recipes: how each tensor is made; metadata: the file's own."""

    recipes: Mapping[str, Recipe]
    metadata: Metadata

    @cached_property
    def index(self) -> TensorIndex:
        """Names, shapes and types."""
        return TensorIndex(
            (TensorInfo(name, recipe.shape, recipe.source.dtype) for name, recipe in self.recipes.items()),
            self.metadata,
        )


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
        return RenamedView(recipes, index.metadata)

    def __add__(self, other: KeyRules) -> KeyRules:
        return KeyRules(self.rules + other.rules)
