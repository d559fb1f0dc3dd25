"""From a body's fields to a request: empty is unset, unknown is named, wrong is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

from pydantic import AliasChoices, ValidationError
from pydantic_core import ErrorDetails

from darkroom.api.openai.errors import ErrorCode, FieldError
from darkroom.api.openai.requests import DrawRequest, ImageRequest, OutputFormat, parse_size

R = TypeVar("R", bound=ImageRequest)

_CODES = {
    "missing": ErrorCode.MISSING_PARAMETER,
    "greater_than": ErrorCode.DECIMAL_TOO_SMALL,
    "greater_than_equal": ErrorCode.DECIMAL_TOO_SMALL,
    "less_than": ErrorCode.DECIMAL_TOO_LARGE,
    "less_than_equal": ErrorCode.DECIMAL_TOO_LARGE,
    "string_too_long": ErrorCode.STRING_TOO_LONG,
    "too_short": ErrorCode.ARRAY_TOO_SHORT,
    "too_long": ErrorCode.ARRAY_TOO_LONG,
}
_INTEGER_CODES = {
    ErrorCode.DECIMAL_TOO_SMALL: ErrorCode.INTEGER_TOO_SMALL,
    ErrorCode.DECIMAL_TOO_LARGE: ErrorCode.INTEGER_TOO_LARGE,
}


class Parsed(NamedTuple, Generic[R]):
    """A request, and the names of the fields that nobody here knows."""

    request: R
    ignored: tuple[str, ...]


def parse(model: type[R], fields: object) -> Parsed[R]:
    """The request that a body's fields make.

    fields: of a JSON object or of a form, where all values are texts. Empty texts, empty lists and None are
    left out, as clients send them for what they do not set.
    Raises FieldError for wrong values, for what these models cannot do and, with `strict`, for unknown names.
    """
    if not isinstance(fields, Mapping):
        raise FieldError("body", "a JSON object is needed", ErrorCode.INVALID_TYPE)
    given = {name: value for name, value in fields.items() if not _is_unset(value)}
    try:
        request = model.model_validate(given)
    except ValidationError as error:
        raise field_error(error.errors(include_url=False)[0]) from None
    ignored = tuple(name for name in given if name not in _known(model))
    if ignored and request.strict:
        raise FieldError(ignored[0], "is no field of this request", ErrorCode.UNKNOWN_PARAMETER)
    _refuse(request)
    return Parsed(request, ignored)


def _is_unset(value: object) -> bool:
    return value is None or (isinstance(value, str | list | dict) and not value)


def _known(model: type[ImageRequest]) -> set[str]:
    names = set(model.model_fields)
    for field in model.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            names.update(name for name in field.validation_alias.choices if isinstance(name, str))
    return names


def field_error(error: ErrorDetails) -> FieldError:
    """Pydantic's complaint in OpenAI's words."""
    param = ".".join(str(part) for part in error["loc"]) or "body"
    if error["type"] == "missing":
        return FieldError(param, "is needed and missing", ErrorCode.MISSING_PARAMETER)
    code = _CODES.get(error["type"], ErrorCode.INVALID_VALUE)
    if isinstance(error["input"], int) or str(error["input"]).lstrip("-").isdigit():
        code = _INTEGER_CODES.get(code, code)
    if error["type"].endswith(("_type", "_parsing", "_from_float")):
        code = ErrorCode.INVALID_TYPE
    message = error["msg"].removeprefix("Value error, ")
    return FieldError(
        param, f"{_shown(error['input'])} is not allowed; {message[0].lower()}{message[1:]}", code
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse(request: ImageRequest) -> None:
    """Raises FieldError for what OpenAI's schema allows and these models cannot do."""
    try:
        parse_size(request.size)
    except ValueError:
        raise FieldError("size", f"'{request.size}' is no size; expected auto or WxH, as 512x512") from None
    if request.lora is not None:
        raise FieldError("lora", "this engine applies no LoRA yet", ErrorCode.UNSUPPORTED_PARAMETER)
    if isinstance(request, DrawRequest):
        _refuse_drawing(request)


def _refuse_drawing(request: DrawRequest) -> None:
    format = request.output_format
    if format in (OutputFormat.GIF, OutputFormat.SVG):
        problem = f"{format} cannot be written; png, jpeg and webp can"
        raise FieldError("output_format", problem, ErrorCode.UNSUPPORTED_VALUE)
    for name, only in (("frame_count", "gif"), ("frame_duration_ms", "gif"), ("svg", "svg")):
        if getattr(request, name) is not None:
            problem = f"is for output_format={only}, which cannot be written"
            raise FieldError(name, problem, ErrorCode.UNSUPPORTED_PARAMETER)
    if request.background == "transparent":
        problem = "these models draw opaque pictures; expected opaque or auto"
        raise FieldError("background", problem, ErrorCode.UNSUPPORTED_VALUE)
    if format in (None, OutputFormat.PNG) and (request.output_compression or 100) < 100:
        problem = "png is never lossy; leave it out, or take jpeg or webp"
        raise FieldError("output_compression", problem, ErrorCode.UNSUPPORTED_PARAMETER)
    if request.partial_images and not request.stream:
        raise FieldError("partial_images", "needs stream=true", ErrorCode.UNSUPPORTED_PARAMETER)
