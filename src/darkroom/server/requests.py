"""What makes a request sound, and what is said of one that is not."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import ValidationError

from darkroom.api.errors import RequestError
from darkroom.api.options import flags
from darkroom.api.request import GenerationRequest
from darkroom.api.values import expected
from darkroom.server.errors import ApiError, InvalidField

_FIELDS = {
    name: field
    for field, (flag, _) in flags(GenerationRequest).items()
    for name in (*flag.names, *flag.aliases)
}
"""The fields of a request by the options that set them on a command line."""

_FLAG = re.compile(r"--[a-z][a-z-]+")


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


def in_fields(error: RequestError, names: Mapping[str, str]) -> RequestError:
    """An engine's complaint about an option (`--seed: ...`) as one about the field of a request.

    names: as for `refusal`.
    """
    flag, colon, rest = str(error).partition(": ")
    if isinstance(error, ApiError) or not colon or flag not in _FIELDS:
        return error
    name = names.get(_FIELDS[flag], _FIELDS[flag])
    return InvalidField(f"{name}: {_FLAG.sub(lambda found: _field(found[0]), rest)}", param=name)


def _field(flag: str) -> str:
    return _FIELDS.get(flag, flag)


def encodable(request: GenerationRequest) -> GenerationRequest:
    """The request with question marks for lone surrogates, which JSON can bring in and no answer can tell."""
    texts = {name: value for name, value in request if isinstance(value, str)}
    changes = {
        name: text.encode("utf-8", "replace").decode("utf-8")
        for name, text in texts.items()
        if not _is_sound(text)
    }
    return request.model_copy(update=changes) if changes else request


def _is_sound(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
