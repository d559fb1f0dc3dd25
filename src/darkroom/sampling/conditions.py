"""Conditionings as batches: dataclasses of tensors with the batch first, stretched, joined and cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor


class Dataclass(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


C = TypeVar("C", bound=Dataclass)


class _Different(Exception):
    """Two conditionings that cannot be one batch."""


def expand(cond: C, n: int) -> C:
    """A conditioning of batch size 1 for n images, tensor by tensor; any other stays as it is."""

    def expanded(tensor: Tensor) -> Tensor:
        return tensor.expand(n, *tensor.shape[1:]) if len(tensor) == 1 else tensor

    changed: C = _changed(cond, expanded)
    return changed


def rows_of(cond: C, rows: Sequence[int]) -> C:
    """The conditioning of some images; one of batch size 1, which serves every image, stays as it is."""

    def chosen(tensor: Tensor) -> Tensor:
        return tensor[list(rows)] if len(tensor) > 1 else tensor

    changed: C = _changed(cond, chosen)
    return changed


def join(first: C, second: C) -> C | None:
    """One conditioning of both batches, or None where they are not `alike`."""
    try:
        joined: C = _merged(first, second, lambda a, b: torch.cat([a, b]))
    except _Different:
        return None
    return joined


def alike(first: C, second: C) -> bool:
    """Whether two can be one batch: each tensor is there in both, of one shape but for the batch."""
    try:
        _merged(first, second, lambda a, b: a)
    except _Different:
        return False
    return True


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple):
        return tuple(_changed(part, change) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{name: _changed(part, change) for name, part in _fields(value)})
    return value


def _merged(first: Any, second: Any, merge: Callable[[Tensor, Tensor], Tensor]) -> Any:  # noqa: ANN401
    if type(first) is not type(second):
        raise _Different
    if isinstance(first, Tensor):
        if first.shape[1:] != second.shape[1:]:
            raise _Different
        return merge(first, second)
    if isinstance(first, tuple):
        if len(first) != len(second):
            raise _Different
        return tuple(_merged(a, b, merge) for a, b in zip(first, second, strict=True))
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        parts = {name: _merged(part, getattr(second, name), merge) for name, part in _fields(first)}
        return dataclasses.replace(first, **parts)
    if first != second:
        raise _Different
    return first


def _fields(value: Any) -> list[tuple[str, Any]]:  # noqa: ANN401
    return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
