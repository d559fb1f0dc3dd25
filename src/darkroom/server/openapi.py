"""The OpenAPI document: what the routes declare, and what is true of all of them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from darkroom.api.jobs import Refusal
from darkroom.api.openai import ErrorObject
from darkroom.api.version import __version__
from darkroom.server.examples import EXAMPLES, Example
from darkroom.server.security import OPEN_PATHS, SIGNED_PATHS

TAGS = {
    "server": "How the server is: health and figures.",
    "openai": "OpenAI's Images API. Errors are OpenAI's error objects.",
    "native": "stable-diffusion.cpp's API: jobs that are asked for, watched and cancelled.",
    "a1111": "AUTOMATIC1111's API, as its clients use it.",
}
"""The groups of routes, in their order, and what they are."""

DESCRIPTION = """\
One model behind three APIs. A server with a key asks for it as `Authorization: Bearer KEY`, as
`x-api-key: KEY`, or as the password of Basic. Every answer has `X-Request-Id`: the client's own, or one made
for it.
"""

_MEANINGS = {
    400: "The request cannot be as it is; the message names the field",
    401: "The key is missing or wrong",
    403: "A web page or a host name that is not allowed to call",
    404: "There is no such thing",
    409: "Cancelled before there was a picture",
    410: "It is over and forgotten",
    413: "The body is too large",
    415: "Neither JSON nor a form",
    422: "A script that is not there",
    429: "The queue is full; Retry-After says when to ask again",
    500: "Drawing failed",
    503: "The model is not there yet, or the server is about to end",
    507: "Too little memory for this request",
}

_DRAWING = (409, 429, 500, 503, 507)
"""Errors of who waits for pictures."""

_WAITING = ("/sdapi/v1/txt2img", "/sdapi/v1/img2img")
_MODEL_FREE = ("/health", "/metrics")

Json = dict[str, Any]


def document(app: FastAPI) -> Json:
    """The whole document of the application."""
    whole = get_openapi(
        title=app.title,
        version=__version__,
        summary="Pictures from one model",
        description=DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
    )
    schemas = whole.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas |= {"Refusal": Refusal.model_json_schema(), "OpenAIError": _openai_error()}
    whole["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    for path, operations in whole["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation)
    return whole


def _complete(path: str, method: str, operation: Json) -> None:
    """Adds the errors that any route of its kind has, its key and its example."""
    answers: Json = operation["responses"]
    if "HTTPValidationError" in str(answers.get("422")):
        del answers["422"]
        answers.setdefault("400", {})
    for status in _errors_of(path, method):
        answers.setdefault(str(status), {})
    for known in [status for status in answers if int(status) >= 400]:
        answers[known] = {
            "description": _MEANINGS[int(known)],
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_error_of(path)}"}}},
        }
    operation["responses"] = dict(sorted(answers.items()))
    is_open = path in OPEN_PATHS or path.startswith(SIGNED_PATHS)
    operation["security"] = [{}] if is_open else [{}, {"bearer": []}, {"key": []}]
    if example := EXAMPLES.get(f"{method.upper()} {path}"):
        _show(operation, example)


def _errors_of(path: str, method: str) -> set[int]:
    errors = {403}
    if path not in OPEN_PATHS and not path.startswith(SIGNED_PATHS):
        errors.add(401)
    if method == "post":
        errors |= {400, 413}
    if path in _WAITING:
        errors |= {422, *_DRAWING}
    if path.startswith("/sdapi/") and path not in _MODEL_FREE:
        errors.add(503)
    if path == "/sdapi/v1/options" and method == "post":
        errors.add(404)
    return errors


def _show(operation: Json, example: Example) -> None:
    if example.body is not None:
        operation["requestBody"]["content"]["application/json"]["example"] = example.body
    if example.answer is not None:
        status = next(status for status in operation["responses"] if int(status) < 400)
        content = operation["responses"][status].setdefault("content", {})
        kind = "application/json" if not isinstance(example.answer, str) else next(iter(content))
        content.setdefault(kind, {})["example"] = example.answer


def _error_of(path: str) -> str:
    return "OpenAIError" if path.startswith("/v1/") else "Refusal"


def _openai_error() -> Json:
    error = ErrorObject.model_json_schema()
    return {"type": "object", "required": ["error"], "properties": {"error": error}}
