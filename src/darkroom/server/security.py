"""Who may talk to the server: keys, web pages of other origins, names of the host."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from hashlib import sha256
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.server.answers import answer
from darkroom.server.errors import ApiError
from darkroom.server.options import ServerOptions

OPEN_PATHS = ("/health",)
"""What is answered without a key."""

SIGNED_PATHS = ("/v1/images/files/",)
"""What is behind an address that carries its own signature."""

PAGE_PATHS = ("/", "/page/")
"""The page that is built in: it knows nothing without the key, and asks for it."""

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")

EXPOSED_HEADERS = "Retry-After, X-Request-Id, X-Should-Retry"


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Door:
    """Lets in who has the key, and no web page of an origin that was not named.

    A page of another origin cannot ask for pictures (its `Origin` is refused), also not through a name that
    it made point to this machine: a server that only this machine reaches is called by address, as
    localhost, or as the host of an allowed origin.
    """

    def __init__(self, app: ASGIApp, options: ServerOptions) -> None:
        self._app = app
        self._key = digest(options.api_key) if options.api_key else None
        self._origins = options.cors_origin
        self._hosts = {urlsplit(origin).hostname for origin in options.cors_origin}
        self._shows_page = options.serve_html_path is None
        self._checks_host = is_loopback(options.listen_ip) and not options.api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses, or hands on with the headers that a page of an allowed origin needs."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allowed = self._allowed(origin)
        if allowed and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            await Response(status_code=204, headers=_preflight(allowed, headers))(scope, receive, send)
            return
        error = self._refusal(scope, headers, origin if not allowed else None)
        if error is not None:
            response = answer(scope["path"], error)
            if allowed:
                response.headers.update(_of_origin(allowed))
            await response(scope, receive, send)
            return

        async def send_on(message: Message) -> None:
            if allowed and message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_of_origin(allowed))
            await send(message)

        await self._app(scope, receive, send_on)

    def _allowed(self, origin: str | None) -> str | None:
        """What Access-Control-Allow-Origin says to a page of `origin`; None where it is not allowed."""
        if origin is None:
            return None
        return "*" if "*" in self._origins else origin if origin in self._origins else None

    def _refusal(self, scope: Scope, headers: Headers, foreign: str | None) -> ApiError | None:
        """Why the request is not let in. foreign: the origin of the page that asks, if it is not allowed."""
        host = headers.get("host", "")
        if self._checks_host and not self._is_own(host):
            return ApiError(
                f"Host: {host!r:.80} is not this server; call it by address, or allow it with --cors-origin",
                status=403,
                code="host_not_allowed",
            )
        if foreign and scope["method"] not in SAFE_METHODS and urlsplit(foreign).netloc != host:
            return ApiError(
                f"Origin: pages of {foreign!r:.80} may not call this server; --cors-origin allows them",
                status=403,
                code="origin_not_allowed",
            )
        path = scope["path"]
        if self._key is None or self._is_open(path) or self._has_key(headers):
            return None
        return ApiError(
            "this server asks for a key: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
            status=401,
            code="invalid_api_key",
            headers={"WWW-Authenticate": 'Basic realm="sd-server", charset="UTF-8"'},
        )

    def _is_open(self, path: str) -> bool:
        """Whether nobody is asked for a key there."""
        index, folder = PAGE_PATHS
        is_page = self._shows_page and (path == index or path.startswith(folder))
        return is_page or path in OPEN_PATHS or path.startswith(SIGNED_PATHS)

    def _is_own(self, host: str) -> bool:
        name = urlsplit(f"//{host}").hostname if host else None
        if name is None or name in self._hosts or "*" in self._origins:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == "localhost" or name.endswith(".localhost")
        return True

    def _has_key(self, headers: Headers) -> bool:
        assert self._key is not None, "asked only where a key is needed"
        authorization = _text(headers.get("authorization", ""))
        given = [_text(headers.get("x-api-key", "")), *_credentials(authorization)]
        # all are compared, and each to its end: how long it takes tells nothing
        return sum(hmac.compare_digest(digest(text), self._key) for text in given) > 0


def digest(key: str) -> bytes:
    """What keys are compared by; of one length whatever the key's is."""
    return sha256(key.encode("utf-8", "surrogateescape")).digest()


def _text(header: str) -> str:
    """A header's value as the client meant it: Starlette takes its bytes for Latin-1."""
    return header.encode("latin-1").decode("utf-8", "surrogateescape")


def _credentials(authorization: str) -> list[str]:
    """What may be the key: a Bearer token, or of Basic the password, the pair, or a name without password."""
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return [value]
    if scheme.lower() != "basic":
        return []
    try:
        pair = base64.b64decode(value, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return []
    name, _, password = pair.partition(":")
    return [password or name, pair]


def _of_origin(allowed: str) -> dict[str, str]:
    return {
        "Access-Control-Allow-Origin": allowed,
        "Access-Control-Expose-Headers": EXPOSED_HEADERS,
        "Vary": "Origin",
    }


def _preflight(allowed: str, headers: Headers) -> dict[str, str]:
    return _of_origin(allowed) | {
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Access-Control-Allow-Headers": headers.get("access-control-request-headers", "*"),
        "Access-Control-Max-Age": "600",
    }
