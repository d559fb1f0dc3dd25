"""Pictures that answers name by URL: signed, so that a link works without a key, and only for a while."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from darkroom.api.signing import Signer
from darkroom.manager.gateway.errors import GatewayError

SECONDS = 3600.0
_MEDIA_TYPES = {".png": "image/png", ".jpeg": "image/jpeg", ".webp": "image/webp"}


class SignedFiles:
    """Files of one folder. Links end with this process: the secret is kept nowhere."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._signer = Signer()

    def add(self, data: bytes, output_format: str) -> str:
        """Keeps a picture, and returns the path and query of its link."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{secrets.token_hex(16)}.{output_format}"
        (self._folder / name).write_bytes(data)
        return f"/v1/images/files/{name}?{self._signer.query(name, int(time.time() + SECONDS))}"

    def find(self, name: str, expires: str, signature: str) -> tuple[Path, str]:
        """The file of a link and its media type. Errors: GatewayError 403, 404, 410."""
        if not self._signer.is_ours(name, expires, signature):
            raise GatewayError("link: its signature is wrong; ask for the picture again", status=403)
        if int(expires) < time.time():
            raise GatewayError("link: expired; ask for the picture again", status=410, code="url_expired")
        file = self._folder / name
        if file.suffix not in _MEDIA_TYPES or not file.is_file():
            raise GatewayError("link: its picture is gone", status=404, code="file_not_found")
        return file, _MEDIA_TYPES[file.suffix]

    def prune(self) -> None:
        """Deletes pictures whose links have expired."""
        before = time.time() - SECONDS
        for file in self._folder.glob("*"):
            if file.stat().st_mtime < before:
                file.unlink(missing_ok=True)
