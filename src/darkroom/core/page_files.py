"""The files that a server's page in the browser is made of, and how they are answered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

INDEX = "index.html"

_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""A page loads and calls nothing but its own server, and runs no text as a program."""

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class PageFile:
    """One file of a page, in memory. etag: changes with the content."""

    content: bytes
    media_type: str
    etag: str

    def answer(self, if_none_match: str = "") -> tuple[bytes, int, Mapping[str, str]]:
        """Body, status and headers: the file, or 304 for a browser that has it."""
        headers = {**_HEADERS, "ETag": self.etag}
        if self.etag in if_none_match:
            return b"", 304, headers
        return self.content, 200, {**headers, "Content-Type": self.media_type}


def page_files(room: str) -> dict[str, PageFile]:
    """By their names: those of `room`'s folder `page`, and what the pages of all rooms share."""
    found = {}
    package = files("darkroom")
    for folder in (package.joinpath("data/page"), package.joinpath(room, "page")):
        for file in folder.iterdir():
            media_type = _MEDIA_TYPES.get(Path(file.name).suffix)
            if media_type is not None:
                content = file.read_bytes()
                etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
                found[file.name] = PageFile(content, media_type, etag)
    return found
