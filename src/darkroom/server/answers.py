"""How an error is told, in the form of the API that was called."""

from __future__ import annotations

import logging
import re
from typing import Any, overload

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from darkroom.api.errors import DarkroomError, RequestError
from darkroom.server.errors import ApiError, code_of, fault, has_run_out, status_of

logger = logging.getLogger(__name__)

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}

_FIELD = re.compile(r"([a-z][\w.\[\]]*): ")
"""What a RequestError begins with that is about one field."""

_CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that failed, whatever it failed with."""
    return answer(request.url.path, as_api_error(error))


def as_api_error(error: Exception) -> ApiError:
    """Any exception as what a client is told."""
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            return _of_validation(error)
        case HTTPException():
            return _of_http(error)
        case DarkroomError():
            field = _FIELD.match(str(error)) if isinstance(error, RequestError) else None
            return ApiError(
                str(error), status=status_of(error), code=code_of(error), param=field and field[1]
            )
        case _:
            logger.error("a fault in Darkroom", exc_info=error)
            if has_run_out(error):
                return as_api_error(fault(error))
            return ApiError(f"a fault in Darkroom: {type(error).__name__}", status=500, code="server_error")


def answer(path: str, error: ApiError) -> JSONResponse:
    """The error as the API at `path` tells it."""
    should_retry = "true" if "Retry-After" in error.headers else "false"  # or clients ask twice more in vain
    return JSONResponse(content(path, error), error.status, {"x-should-retry": should_retry} | error.headers)


def content(path: str, error: ApiError) -> dict[str, Any]:
    """OpenAI's error object under /v1; elsewhere the text, as stable-diffusion.cpp has it."""
    text, param = _encodable(str(error)), _encodable(error.param)
    if path.startswith("/v1/"):
        kind = error.type or _TYPES.get(error.status)
        kind = kind or ("server_error" if error.status >= 500 else "invalid_request_error")
        return {
            "error": {"message": text, "type": kind, "param": param, "code": error.code},
        }
    body = {"error": text, "message": text, "code": error.code, "param": param}
    return body | {"detail": text} if path.startswith("/sdapi/") else body  # where A1111's clients look


@overload
def _encodable(text: str) -> str: ...
@overload
def _encodable(text: str | None) -> str | None: ...
def _encodable(text: str | None) -> str | None:
    """What a client sent may hold lone surrogates, which no answer can."""
    return text and text.encode("utf-8", "replace").decode("utf-8")


def _of_http(error: HTTPException) -> ApiError:
    text, status = str(error.detail), error.status_code
    if isinstance(error.__cause__, RecursionError):
        text = "invalid json: nested too deeply"
    elif isinstance(error.__cause__, UnicodeDecodeError):
        text = "invalid json: it is not UTF-8 text"
    return ApiError(text, status=status, code=_CODES.get(status), headers=dict(error.headers or {}))


def _of_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body, a query or a path."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part not in ("body", "query", "path", "header")]
    if first["type"] == "json_invalid":
        why = first.get("ctx", {}).get("error", "it cannot be read")
        return ApiError(f"invalid json: {why}", code="invalid_json")
    if not where and first["type"] == "missing":
        return ApiError("empty body", code="empty_body")
    if not where:
        return ApiError(f"body: {first['msg']}", code="invalid_request")
    name = ".".join(where)
    return ApiError(f"{name}: {first['msg']}", code="invalid_value", param=name)
