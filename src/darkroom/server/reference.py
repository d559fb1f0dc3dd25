"""Writes docs/api.md from the OpenAPI document: `python -m darkroom.server.reference > docs/api.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from darkroom.api.config import EngineConfig
from darkroom.server.app import create_app
from darkroom.server.examples import EXAMPLES, Example
from darkroom.server.openapi import DESCRIPTION, TAGS, document
from darkroom.server.options import ServerOptions
from darkroom.server.service import Service

_HEAD = f"""\
# sd-server's HTTP API

<!-- Made by `python -m darkroom.server.reference > docs/api.md`; edit the routes and examples.py. -->

{DESCRIPTION}
[server.md](server.md) says what the server does, [openai.md](openai.md) and [a1111.md](a1111.md) how it
serves those APIs. `GET /openapi.json` has all of this page, and the schemas in full, for programs;
`GET /docs` shows it in a browser. Pictures in base64 are shortened in the examples.

Errors of `/v1` are `{{"error": {{"message", "type", "param", "code"}}}}`, all others
`{{"error", "message", "code", "param"}}`.
"""

Json = dict[str, Any]


def reference() -> str:
    """The page, in Markdown."""
    whole = document(create_app(Service(EngineConfig(), ServerOptions())))
    return "\n".join([_HEAD, *_groups(whole)])


def _groups(whole: Json) -> Iterator[str]:
    schemas = whole["components"]["schemas"]
    for tag, meaning in TAGS.items():
        yield f"## {tag}\n\n{meaning}\n"
        for path, operations in whole["paths"].items():
            for method, operation in operations.items():
                if tag in operation["tags"]:
                    yield from _operation(path, method.upper(), operation, schemas)


def _operation(path: str, method: str, operation: Json, schemas: Json) -> Iterator[str]:
    yield f"### {method} {path}\n"
    yield f"{operation['summary']}.\n"
    if "description" in operation:
        yield f"{operation['description']}\n"
    rows = [
        (parameter["name"], f"{_kind(parameter['schema'], schemas)}, in the {parameter['in']}", parameter)
        for parameter in operation.get("parameters", ())
    ]
    yield from _table("parameter", [(name, kind, _about(it, schemas)) for name, kind, it in rows])
    contents = operation.get("requestBody", {}).get("content", {})
    for kind, content in contents.items():
        schema = _resolved(content["schema"], schemas)
        if kind == "multipart/form-data" and "application/json" in contents:
            yield "A form has the same fields, and pictures as files.\n"
            continue
        fields = schema.get("properties", {})
        yield from _table(
            "field", [(name, _kind(it, schemas), _about(it, schemas)) for name, it in fields.items()]
        )
    example = EXAMPLES.get(f"{method} {path}", Example())
    yield f"```sh\n{_curl(example.path or path, method, example)}\n```\n"
    if example.answer is not None:
        is_text = isinstance(example.answer, str)
        shown = example.answer.rstrip() if is_text else json.dumps(example.answer, indent=2)
        yield f"```{'' if is_text else 'json'}\n{shown}\n```\n"
    yield from _errors(operation)


def _errors(operation: Json) -> Iterator[str]:
    errors = [status for status in operation["responses"] if int(status) >= 400]
    good = [status for status in operation["responses"] if int(status) < 400]
    yield f"Status {', '.join(good) or 'never good'}; errors {', '.join(errors)}.\n"


def _table(title: str, rows: list[tuple[str, str, str]]) -> Iterator[str]:
    if rows:
        yield f"| {title} | type | meaning |\n| --- | --- | --- |"
        for row in rows:
            yield "| `{}` | {} | {} |".format(*(cell.replace("|", "\\|").replace("\n", " ") for cell in row))
        yield ""


def _resolved(schema: Json, schemas: Json) -> Json:
    while "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    return schema


def _kind(schema: Json, schemas: Json) -> str:
    it = _resolved(schema, schemas)
    if "enum" in it:
        return ", ".join(f"`{value}`" for value in it["enum"])
    if "anyOf" in it:
        kinds = (_kind(each, schemas) for each in it["anyOf"])
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    if it.get("type") == "array":
        return f"list of {_kind(it.get('items', {}), schemas)}"
    return str(it.get("type", "any"))


def _about(field: Json, schemas: Json) -> str:
    it = _resolved(field, schemas) | field | field.get("schema", {})
    parts = [str(it.get("description", ""))]
    if it.get("default") not in (None, "", [], {}):
        parts.append(f"default {json.dumps(it['default'])}")
    if "minimum" in it or "maximum" in it:
        parts.append(f"{it.get('minimum', '')} to {it.get('maximum', '')}".strip())
    return "; ".join(part for part in parts if part)


def _curl(path: str, method: str, example: Example) -> str:
    words = ["curl", "-sN" if path.endswith("/events") else "-s"]
    address = f"localhost:1234{path}"
    words.append(f"'{address}'" if "?" in address else address)
    if example.body is not None:
        body = json.dumps(example.body)
        return f"{' '.join(words)} -H 'content-type: application/json' \\\n  -d '{body}'"
    if example.form:
        return f"{' '.join(words)} \\\n  {example.form}"
    return " ".join([words[0], words[1], *(["-X", "POST"] if method == "POST" else []), *words[2:]])


if __name__ == "__main__":
    sys.stdout.write(reference())
