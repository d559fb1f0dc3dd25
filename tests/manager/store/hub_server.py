"""A hub and its CDN on this machine, which speak the protocol of huggingface.co and misbehave when told.

`resolve/` answers with what a repository has of a file (`X-Linked-Etag`, `X-Linked-Size`, `X-Repo-Commit`)
and leads large files to another host by a signed URL, as the real one does. `/plain/` of the CDN serves the
same files without signature. Every request is kept, with the bytes that were sent for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_RANGE = re.compile(r"bytes=(\d+)-")


@dataclass
class Serve:
    """How one GET of the bytes is answered. Positions count from the beginning of the file.

    status: an error instead, or 200; headers go with it. cut_at: the connection ends there. hold_at: nothing
    more comes from there on until `release` is set. swap: the file becomes this before the answer.
    ranges: whether they are understood. drip_s: seconds before each piece of 64 KiB.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    hold_at: int | None = None
    release: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)
    swap: bytes | None = None
    ranges: bool = True
    drip_s: float = 0.0


@dataclass
class Served:
    """A file that is offered. lfs: by the CDN, with its sha256 as ETag."""

    content: bytes
    lfs: bool = True
    gated: bool = False
    etag: str | None = None
    script: deque[Serve] = field(default_factory=deque)
    """the next answers; normal ones after them"""
    lies: bytes = b""
    """what is sent instead of the content"""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def version(self) -> str:
        if self.etag is not None:
            return self.etag
        return self.sha256 if self.lfs else hashlib.sha1(b"blob " + self.content).hexdigest()


@dataclass
class Asked:
    """A request. sent: bytes of the body that went out."""

    host: str
    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0

    @property
    def start(self) -> int:
        found = _RANGE.match(self.headers.get("range", ""))
        return int(found[1]) if found else 0


class HubServer:
    """`with HubServer() as hub:`; `hub.endpoint` is what HF_ENDPOINT would be."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[Asked] = []
        self.tokens: set[str] = set()
        """accepted for gated files"""
        self.hub_script: deque[Serve] = deque()
        self._closing = threading.Event()
        self._hub = _listen(self, _HubHandler)
        self._cdn = _listen(self, _CdnHandler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._hub.server_port}"

    @property
    def cdn(self) -> str:
        """Another host, by name as well."""
        return f"http://localhost:{self._cdn.server_port}"

    def add(self, repo: str, path: str, content: bytes, **options: object) -> Served:
        """Offers a file."""
        served = self.files[f"{repo}/{path}"] = Served(content, **options)  # type: ignore[arg-type]
        return served

    def plain(self, repo: str, path: str) -> str:
        """A URL that has nothing to do with a hub."""
        return f"{self.cdn}/plain/{quote(repo)}/{quote(path)}"

    def gets(self) -> list[Asked]:
        """Requests for bytes."""
        return [a for a in self.asked if a.method == "GET" and a.host == "cdn"]

    @property
    def sent(self) -> int:
        """Bytes of files that went out."""
        return sum(a.sent for a in self.asked)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        for served in self.files.values():
            for serve in served.script:
                serve.release.set()
        for server in (self._hub, self._cdn):
            server.shutdown()
            server.server_close()

    def _wait(self, serve: Serve) -> None:
        serve.held.set()
        while not serve.release.wait(0.05):
            if self._closing.is_set():
                return


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer


def _listen(hub: HubServer, handler: type[BaseHTTPRequestHandler]) -> _Server:
    server = _Server(("127.0.0.1", 0), handler)
    server.hub = hub
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    host = ""
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._handle()

    def do_GET(self) -> None:
        self._handle()

    def _handle(self) -> None:
        self.ask = Asked(self.host, self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
        self.server.hub.asked.append(self.ask)
        with contextlib.suppress(ConnectionError):
            self.answer(self.server.hub)

    def answer(self, hub: HubServer) -> None:
        raise NotImplementedError

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.ask.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers and status not in (304,):
            self.send_header("Content-Length", "0")
        self.end_headers()

    def _error(self, status: int, code: str = "", message: str = "", **headers: str) -> None:
        extra = {"X-Error-Code": code} if code else {}
        self._head(status, extra | ({"X-Error-Message": message} if message else {}) | headers)

    def _bytes(self, hub: HubServer, served: Served) -> None:
        serve = served.script.popleft() if served.script else Serve()
        if serve.status != 200:
            self._error(serve.status, **serve.headers)
            return
        if serve.swap is not None:
            served.content, served.etag = serve.swap, None
        body = served.lies or served.content
        etag = f'"{served.version}"'
        if self.headers.get("If-None-Match") == etag:
            self._head(304, {"ETag": etag})
            return
        start = 0
        wanted = _RANGE.match(self.headers.get("Range", "")) if serve.ranges else None
        if wanted and self.headers.get("If-Range", etag) == etag:
            start = int(wanted[1])
            if start >= len(body):
                self._error(416, **{"Content-Range": f"bytes */{len(body)}"})
                return
        headers = {"ETag": etag, "Content-Length": str(len(body) - start), **serve.headers}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        self._head(206 if start else 200, headers)
        if self.command == "HEAD":
            return
        self._send(hub, serve, body, start)

    def _send(self, hub: HubServer, serve: Serve, body: bytes, start: int) -> None:
        stops = sorted(
            {s for s in (serve.cut_at, serve.hold_at) if s is not None and s >= start} | {len(body)}
        )
        position = start
        for stop in stops:
            while position < stop:
                time.sleep(serve.drip_s)
                piece = body[position : min(stop, position + 65536)]
                self.wfile.write(piece)
                position += len(piece)
                self.ask.sent += len(piece)
            self.wfile.flush()
            if stop == serve.cut_at:
                self.close_connection = True
                return
            if stop == serve.hold_at:
                hub._wait(serve)


class _HubHandler(_Handler):
    host = "hub"

    def answer(self, hub: HubServer) -> None:
        if hub.hub_script:
            serve = hub.hub_script.popleft()
            if serve.status != 200:
                self._error(serve.status, **serve.headers)
                return
        repo, _, rest = unquote(urlsplit(self.path).path).strip("/").partition("/resolve/")
        revision, _, path = rest.partition("/")
        served = hub.files.get(f"{repo}/{path}")
        if not any(name.startswith(f"{repo}/") for name in hub.files):
            self._error(401, "RepoNotFound", "Repository not found")
        elif revision not in ("main", COMMIT):
            self._error(404, "RevisionNotFound", "Invalid rev id: " + revision)
        elif served is None:
            self._error(404, "EntryNotFound", "Entry not found")
        elif served.gated and self._token() not in hub.tokens:
            status = 403 if self._token() else 401
            self._error(status, "GatedRepo", f"Access to model {repo} is restricted.")
        elif served.lfs:
            linked = {
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{served.version}"',
                "X-Linked-Size": str(len(served.content)),
                "ETag": f'"{hashlib.sha1(served.version.encode()).hexdigest()}"',
                "Location": f"{hub.cdn}/signed/{quote(repo)}/{quote(path)}?Signature=s3cret&Expires=1",
            }
            self._head(302, linked)
        else:
            self.ask.host = "cdn"
            self._head(
                200,
                {
                    "X-Repo-Commit": COMMIT,
                    "ETag": f'"{served.version}"',
                    "Content-Length": str(len(served.content)),
                },
            )
            if self.command == "GET":
                self._send(hub, Serve(), served.content, 0)

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")


class _CdnHandler(_Handler):
    host = "cdn"

    def answer(self, hub: HubServer) -> None:
        url = urlsplit(self.path)
        kind, _, name = unquote(url.path).strip("/").partition("/")
        if kind == "hop":
            left = int(name)
            self._head(302, {"Location": f"{hub.cdn}/hop/{left - 1}" if left else "ftp://localhost/x"})
            return
        served = hub.files.get(name)
        if served is None:
            self._error(404)
        elif kind == "signed" and "Signature=s3cret" not in url.query:
            self._error(403)
        elif kind == "locked" and self.headers.get("Authorization") != "Bearer civ":
            self._error(401)
        else:
            self._bytes(hub, served)
