"""What the tests of Flux and of Chroma, which is made from it, have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from tests.headers import read_header
from torch import Tensor, nn

from darkroom.api.errors import CheckpointError
from darkroom.api.names import Role
from darkroom.families import discover
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.keys import KeyRules, Rename

FULL_WIDTH = 3072


def of_width(convert: Callable[..., Any], width: int) -> Callable[..., Any]:
    """diffusers' conversion for another width than that of the published networks, a constant in it."""
    code = convert.__code__
    constants = tuple(width if constant == FULL_WIDTH else constant for constant in code.co_consts)
    return type(convert)(code.replace(co_consts=constants), convert.__globals__)  # type: ignore[attr-defined]


def randomise(net: nn.Module) -> None:
    """Moves every weight: norms and biases too, for ones and zeros would hide swapped weights."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)


def largest_error(got: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((got - expected).abs().max() / expected.abs().max())


def native(files: Mapping[Role, str | TensorIndex], rules: KeyRules) -> TensorIndex:
    """All files, or headers by name, as one under native names; each first under its role's prefix."""
    infos: dict[str, TensorInfo] = {}
    for role, file in files.items():
        index = read_header(file) if isinstance(file, str) else file
        infos |= (KeyRules((Rename("^", role.prefix),)) + rules).apply(index).index
    return TensorIndex(infos.values())


def answers(files: Mapping[Role, str | TensorIndex]) -> list[str]:
    """The families that answer for the files, be it with an error."""
    found = []
    for family in discover():
        try:
            config = family.detect(native(files, family.key_rules()))
        except CheckpointError:
            config = True
        if config is not None:
            found.append(family.name)
    return found


def changed(name: str, changes: Mapping[str, tuple[int, ...]]) -> TensorIndex:
    """A header with other shapes."""
    return TensorIndex(
        replace(info, shape=changes.get(info.name, info.shape)) for info in read_header(name).values()
    )
