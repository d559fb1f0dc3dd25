"""From pydantic's complaints to errors that a client can act on."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from darkroom.api.request import GenerationRequest
from darkroom.api.values import expected
from darkroom.server.errors import InvalidField


def refusal(error: ValidationError, names: Mapping[str, str]) -> InvalidField:
    """The first field that is wrong, and what would be right.

    names: what the client calls a field of GenerationRequest, where it is another name.
    """
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else "request"
    name = names.get(field, field)
    declared = GenerationRequest.model_fields.get(field)
    right = expected(declared) if declared else str(first["msg"])
    given = repr(first["input"])
    if len(given) > 60:
        given = f"{given[:60]}..."
    return InvalidField(f"{name}: {given} is not possible; expected {right}", param=name)
