"""Pictures that are handed out under signed URLs for a while."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from darkroom.api.signing import Signer
from darkroom.server.errors import ApiError

LIFETIME = 3600
"""Seconds that a URL works, OpenAI's 60 minutes."""

MOST_BYTES = 512 * 2**20
"""Of all pictures together; the oldest leave first."""

FOLDER = "/v1/images/files"


class FileGone(ApiError):
    """The URL has expired, or its picture had to make room."""

    status, code = 410, "url_expired"


class FileNotFound(ApiError):
    """No picture has this name, or the signature is not this server's."""

    status, code = 404, "file_not_found"


@dataclass(frozen=True)
class StoredFile:
    """One picture. expires: seconds since 1970."""

    data: bytes
    media_type: str
    expires: int


class SignedFiles:
    """Finished pictures in memory, each reachable by a URL that cannot be guessed and that expires.

    For several threads at once.

    clock: seconds since 1970.
    """

    def __init__(
        self,
        lifetime: int = LIFETIME,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lifetime = lifetime
        self._most_bytes = most_bytes
        self._clock = clock
        self._signer = Signer()
        self._files: OrderedDict[str, StoredFile] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, data: bytes, format: str) -> str:
        """Keeps a picture for its time; its path, signed. format: png, jpeg or webp."""
        expires = int(self._clock()) + self._lifetime
        name = f"{secrets.token_hex(16)}.{format}"
        with self._lock:
            self._files[name] = StoredFile(data, f"image/{format}", expires)
            self._bytes += len(data)
            self._make_room()
        return f"{FOLDER}/{name}?{self._signer.query(name, expires)}"

    def get(self, name: str, expires: str, signature: str) -> StoredFile:
        """The picture of a signed path. Raises FileNotFound, FileGone."""
        if not self._signer.is_ours(name, expires, signature):
            raise FileNotFound("file: no picture has this URL; the URL must be used as it was given")
        if self._clock() >= int(expires):
            raise FileGone(f"file: the URL has expired; it works for {self._lifetime} s")
        file = self._files.get(name)
        if file is None:
            raise FileGone("file: the picture had to make room for newer ones; ask for b64_json")
        return file

    @property
    def held_bytes(self) -> int:
        """Memory that the pictures take."""
        return self._bytes

    def _make_room(self) -> None:
        now = self._clock()
        while self._files:
            oldest = next(iter(self._files))
            if self._bytes <= self._most_bytes and self._files[oldest].expires > now:
                return
            self._bytes -= len(self._files.pop(oldest).data)
