"""From the words of a command line to values of an option's type."""

from __future__ import annotations

import math
import operator
import re
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import annotated_types as limits
from pydantic.fields import FieldInfo


class ValueRejected(Exception):
    """The text is no value of the option's type; the message says what was expected."""


def value_type(field: FieldInfo) -> Any:  # noqa: ANN401
    """The type a value has: the annotation without None; Path for a file or a list of them."""
    annotation = field.annotation
    if get_origin(annotation) is tuple and get_args(annotation)[0] is not float:
        annotation = get_args(annotation)[0]
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if Path in options:
        return Path
    return next(option for option in options if option is not type(None))


def convert(field: FieldInfo, text: str) -> object:
    """`text` as a value of the option. Raises ValueRejected."""
    kind = value_type(field)
    try:
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            return kind(text)
        if kind is Path:
            return _path(text)
        if kind is str:
            # what is not UTF-8 on the command line reaches Python as lone surrogates
            return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if is_pair(field):
            return _pair(field, text)
        value = _number(kind, text) if kind in (int, float) else _numbers(text)
    except ValueError:
        raise ValueRejected(expected(field)) from None
    if not _within(field, value):
        raise ValueRejected(expected(field))
    return value


def choices(field: FieldInfo) -> list[str]:
    """The allowed values, where they can be listed."""
    kind = value_type(field)
    return list(kind) if isinstance(kind, type) and issubclass(kind, StrEnum) else []


def is_pair(field: FieldInfo) -> bool:
    """Whether a value is two numbers, one for each direction."""
    return hasattr(value_type(field), "_fields")


def expected(field: FieldInfo) -> str:
    """What a value must be, in words: "a whole number greater than 0"."""
    kind = value_type(field)
    if names := choices(field):
        return f"one of [{', '.join(names)}]"
    if kind is Path:
        return "a path"
    if kind is str:
        return "a text"
    if is_pair(field):
        each = "a whole number" if isinstance(field.default[0], int) else "a number"
        return f"{each}, or two with an x between them"
    if kind not in (int, float):
        least = next((limit.min_length for limit in field.metadata if isinstance(limit, limits.MinLen)), 1)
        return f"at least {least} numbers with commas between them"
    return ("a whole number" if kind is int else "a number") + _range(field)


def _range(field: FieldInfo) -> str:
    """The limits of a number, in words."""
    bounds = {type(limit): limit for limit in field.metadata}
    low = bounds[limits.Ge].ge if limits.Ge in bounds else None
    high = bounds[limits.Le].le if limits.Le in bounds else None
    if limits.Gt in bounds and high is not None and bounds[limits.Gt].gt == 0:
        return f" from 1 to {high}"
    if limits.Lt in bounds:
        high = bounds[limits.Lt].lt - 1
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if limits.Gt in bounds:
        return f" greater than {bounds[limits.Gt].gt}"
    if low is not None:
        return f" of at least {low}"
    return "" if high is None else f" of at most {high}"


def _path(text: str) -> Path:
    if not text:
        raise ValueError
    return Path(text)


def _number(kind: type[int] | type[float], text: str) -> int | float:
    if kind is int:
        if not re.fullmatch(r"[+-]?[0-9]{1,40}", text.strip()):
            raise ValueError
        return int(text)
    value = float(text)
    if not math.isfinite(value) or "_" in text:
        raise ValueError
    return value


def _pair(field: FieldInfo, text: str) -> object:
    """`32x48`, or one number for both."""
    first, x, second = text.partition("x")
    number = type(field.default[0])
    return value_type(field)(*(_number(number, part) for part in (first, second if x else first)))


def _numbers(text: str) -> tuple[float, ...]:
    """As stable-diffusion.cpp reads --sigmas: commas between, brackets around are welcome."""
    items = text.strip().removeprefix("[").removesuffix("]").split(",")
    return tuple(float(_number(float, item)) for item in items if item.strip())


_COMPARISONS = {
    limits.Gt: ("gt", operator.gt),
    limits.Ge: ("ge", operator.ge),
    limits.Lt: ("lt", operator.lt),
    limits.Le: ("le", operator.le),
}


def _within(field: FieldInfo, value: int | float | tuple[float, ...]) -> bool:
    for limit in field.metadata:
        if isinstance(limit, limits.MinLen) and isinstance(value, tuple) and len(value) < limit.min_length:
            return False
        bound, compare = _COMPARISONS.get(type(limit), (None, None))
        if bound and compare and not compare(value, getattr(limit, bound)):
            return False
    return True
