"""What a place that has a file says about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Offer:
    """A place that has a file. sha256 and size as the place states them, empty and None if it does not."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    """sent to this URL's own origin alone"""
    size: int | None = None
    sha256: str = ""
    etag: str = ""
    revision: str = ""
    """commit"""
    repo: str = ""
    page: str = ""
    """where people read about it"""
    name: str = ""
    """what the file should be called here"""
    unless: str = ""
    """the version (ETag) that is not wanted again"""


def shown(url: str) -> str:
    """A URL without what may be secret in it: user, query, fragment."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
