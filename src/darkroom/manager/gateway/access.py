"""The door: who asks, from where, how much. Plain ASGI, so that nothing that streams is held back."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from contextlib import nullcontext
from typing import NamedTuple

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.api.errors import DarkroomError
from darkroom.api.openai.errors import ErrorCode, ErrorType
from darkroom.manager.config import ManagerConfig
from darkroom.manager.gateway import keys
from darkroom.manager.gateway.errors import GatewayError, error_response
from darkroom.manager.gateway.keys import ApiKey, Keys
from darkroom.manager.gateway.limits import Limits
from darkroom.manager.gateway.origins import SAFE_METHODS, Origins

_PUBLIC = ("/healthz", "/readyz", "/docs", "/openapi.json", "/favicon.ico", "/v1/images/files/", "/assets/")

_SENT = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "X-Api-Key", "X-Model")

Allowed = frozenset[keys.Scope]


class _Rule(NamedTuple):
    prefix: str
    reading: Allowed
    writing: Allowed


_NOBODY_SPECIAL: Allowed = frozenset()
_DRAWING: Allowed = frozenset({keys.Scope.IMAGES})
_WATCHING: Allowed = frozenset({keys.Scope.IMAGES, keys.Scope.JOBS_READ})
_STOCKING: Allowed = frozenset({keys.Scope.MODELS_WRITE})
_RULING: Allowed = frozenset({keys.Scope.ADMIN})
_RULES = (
    _Rule("/admin", _RULING, _RULING),
    _Rule("/v1/jobs", _WATCHING, _DRAWING),
    _Rule("/v1/images", _DRAWING, _DRAWING),
    _Rule("/sdapi", _WATCHING, _DRAWING),
    _Rule("/sdcpp", _WATCHING, _DRAWING),
    _Rule("/v1/models", _NOBODY_SPECIAL, _STOCKING),
    _Rule("/v1/downloads", _NOBODY_SPECIAL, _STOCKING),
    _Rule("/v1/store", _NOBODY_SPECIAL, _STOCKING),
    _Rule("/v1/catalogue", _NOBODY_SPECIAL, _STOCKING),
)


def is_public_path(path: str) -> bool:
    """Whether the path needs no key: nothing behind it tells or does anything of anyone's."""
    return path == "/" or any(
        path == public or (public.endswith("/") and path.startswith(public)) for public in _PUBLIC
    )


def scopes_for(method: str, path: str) -> Allowed:
    """Any of these is enough; none: whoever has a key may. Paths without a rule are the administrator's."""
    for rule in _RULES:
        if path == rule.prefix or path.startswith(f"{rule.prefix}/"):
            return rule.reading if method in SAFE_METHODS else rule.writing
    return _NOBODY_SPECIAL if method in SAFE_METHODS else _RULING


class Access:
    """Host, Origin, key, scope, rate, size: each request passes all of them or is answered here."""

    def __init__(self, app: ASGIApp, config: ManagerConfig, known: Keys) -> None:
        self._app = app
        self._config = config
        self._keys = known
        self._origins = Origins(config)
        self._limits = Limits()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path = scope["path"]
        try:
            self._origins.check(scope["method"], headers.get("Host", ""), headers.get("Origin"))
            if _is_preflight(scope["method"], headers):
                await self._preflight(headers["Origin"])(scope, receive, send)
                return
            key = None if is_public_path(path) else self._key(scope["method"], path, headers)
            scope.setdefault("state", {})["key"] = key
            receive = self._measured(headers, receive)
            with self._limits.admit(key) if key else nullcontext():
                await self._app(scope, receive, self._with_cors(headers, send))
        except DarkroomError as error:
            await error_response(path, error)(scope, receive, self._with_cors(headers, send))

    def _key(self, method: str, path: str, headers: Headers) -> ApiKey | None:
        """The request's key; None where everyone may. Errors: GatewayError 401 or 403."""
        if not self._keys and (self._config.is_loopback or self._config.insecure):
            return None
        found = next((key for text in _credentials(headers) if (key := self._keys.verify(text))), None)
        if found is None:
            raise GatewayError(
                "API key: missing or unknown; send `Authorization: Bearer <key>`, see `darkroom keys`",
                status=401,
                code=ErrorCode.INVALID_KEY,
                type=ErrorType.AUTHENTICATION,
                retry=False,
                headers={"WWW-Authenticate": 'Bearer, Basic realm="darkroom"'},
            )
        wanted = scopes_for(method, path)
        if wanted and not any(found.allows(scope) for scope in wanted):
            raise GatewayError(
                f"key '{found.name}': may not do this; it needs the scope {' or '.join(sorted(wanted))}",
                status=403,
                code="insufficient_scope",
                type=ErrorType.PERMISSION,
                retry=False,
            )
        return found

    def _measured(self, headers: Headers, receive: Receive) -> Receive:
        """`receive`, which ends with 413 where the body is larger than may be."""
        limit = self._config.max_body
        too_large = GatewayError(
            f"body: more than {limit} bytes; send less",
            status=413,
            code=ErrorCode.TOO_LARGE,
            retry=False,
            headers={"Connection": "close"},
        )
        announced = headers.get("Content-Length", "0")
        if not announced.isdecimal() or int(announced) > limit:
            raise too_large
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise too_large
            return message

        return counted

    def _with_cors(self, headers: Headers, send: Send) -> Send:
        origin = headers.get("Origin")
        if not origin or not self._origins.allows(origin):
            return send

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer["Access-Control-Allow-Origin"] = origin
                answer.add_vary_header("Origin")
            await send(message)

        return marked

    def _preflight(self, origin: str) -> Response:
        if not self._origins.allows(origin):
            return Response(status_code=403)
        return Response(
            status_code=204,
            headers={
                "Access-Control-Allow-Origin": origin,
                "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE",
                "Access-Control-Allow-Headers": ", ".join(_SENT),
                "Access-Control-Max-Age": "600",
                "Vary": "Origin",
            },
        )


def _is_preflight(method: str, headers: Headers) -> bool:
    return method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers


def _credentials(headers: Headers) -> Iterable[str]:
    """What may be a key: the bearer token, x-api-key, or either half of Basic."""
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield value.strip()
    elif scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return
        yield password
        yield user
    if own := headers.get("X-Api-Key"):
        yield own
