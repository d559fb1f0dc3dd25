"""What the OpenAPI document says of bodies that the routes read themselves."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from darkroom.api.openai import ErrorObject, ImagesResponse

FILE = {"type": "string", "format": "binary"}


def body(model: type[BaseModel], *, json: bool = True, files: dict[str, Any] | None = None) -> dict[str, Any]:
    """`openapi_extra` of a route whose body is `model`: as JSON, or as a form with files among its fields."""
    schema = inlined(model.model_json_schema())
    content: dict[str, Any] = {}
    if json:
        content["application/json"] = {"schema": schema}
    if files is not None:
        fields = {name: field for name, field in schema["properties"].items() if name not in _REFERENCES}
        form = {**schema, "properties": {**fields, **files}}
        form["required"] = sorted({*schema.get("required", ()), "image"})
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


_REFERENCES = ("images", "mask", "markup")


def responses(*statuses: int, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """What a drawing route answers with."""
    content: dict[str, Any] = {"application/json": {"schema": inlined(ImagesResponse.model_json_schema())}}
    if streams:
        content["text/event-stream"] = {}
    return {200: {"description": "The pictures", "content": content}, **errors(*statuses)}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Error objects under these statuses."""
    error = {
        "type": "object",
        "required": ["error"],
        "properties": {"error": inlined(ErrorObject.model_json_schema())},
    }
    content = {"application/json": {"schema": error}}
    return {status: {"description": _MEANINGS[status], "content": content} for status in statuses}


_MEANINGS = {
    400: "The request is wrong",
    401: "The key is missing or wrong",
    404: "There is no such thing",
    409: "The request was cancelled",
    410: "It is no longer there",
    413: "The body is too large",
    415: "Neither JSON nor a form",
    429: "The queue is full",
    500: "Drawing failed",
    503: "The model is not ready",
    507: "The device has too little memory",
}


def inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of pydantic's with its definitions put where they are referred to."""
    definitions = schema.get("$defs", {})

    def inline(node: Any) -> Any:  # noqa: ANN401
        if isinstance(node, list):
            return [inline(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return inline({**definitions[node["$ref"].rpartition("/")[2]], **_without(node, "$ref")})
        return {name: inline(value) for name, value in node.items() if name != "$defs"}

    result = inline(schema)
    assert isinstance(result, dict), "a schema is an object"
    return result


def _without(node: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != name}
