"""Amounts as people write them: `15m` of time, `24GiB` of memory."""

from __future__ import annotations

import math
import re
from collections.abc import Sized

from darkroom.api.errors import RequestError

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_BYTES = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _BYTES |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def seconds(value: str | float, subject: str) -> float:
    """The seconds in `15m`, `1h30m`, `90` or 90; whatever is below 0 (`-1`) is for ever: infinity.

    Errors: RequestError for anything else, which begins with the subject.
    """
    text = str(value).strip().lower()
    try:
        number = float(text)
    except ValueError:
        parts = _DURATION.findall(text)
        if not parts or "".join(count + unit for count, unit in parts) != text:
            raise _no_time(value, subject) from None
        return sum(float(count) * _SECONDS[unit] for count, unit in parts)
    if math.isnan(number):
        raise _no_time(value, subject)
    return math.inf if number < 0 else number


def _no_time(value: str | float, subject: str) -> RequestError:
    return RequestError(f"{subject}: '{value}' is not a time; write 90, 15m, 1h30m, 0 or -1")


def byte_count(value: str | float, subject: str) -> int:
    """The bytes in `24GiB`, `24G` (the same), `500MB` (10^6 each) or a plain number.

    Errors: RequestError for anything else, which begins with the subject.
    """
    found = _SIZE.fullmatch(str(value).strip().lower())
    if not found or found[2] not in _BYTES:
        raise RequestError(
            f"{subject}: '{value}' is not an amount of memory; write 24GiB, 500MB or a number of bytes"
        )
    return int(float(found[1]) * _BYTES[found[2]])


def readable_bytes(count: float) -> str:
    """`6.5 GB`: powers of ten, as the places that offer models count."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def count_of(things: Sized, name: str) -> str:
    """`1 model`, `2 models`."""
    return f"{len(things)} {name}" + ("" if len(things) == 1 else "s")
