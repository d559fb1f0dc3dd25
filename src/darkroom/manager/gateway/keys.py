"""API keys: who may do what, and how often. The file holds hashes, never a key."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from darkroom.api.errors import RequestError

_PREFIX = "dk"


class Scope(StrEnum):
    """What a key allows. `admin` allows everything."""

    IMAGES = "images"
    JOBS_READ = "jobs:read"
    MODELS_WRITE = "models:write"
    ADMIN = "admin"


class ApiKey(BaseModel):
    """One key as it is kept.

    hash: SHA-256 of the key's secret, hexadecimal; a secret of 32 random bytes needs no slow hash.
    rate: requests a minute; concurrency: requests at the same time; None: no limit.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    hash: str
    scopes: frozenset[Scope]
    created: int
    rate: int | None = Field(default=None, ge=1)
    concurrency: int | None = Field(default=None, ge=1)

    def allows(self, scope: Scope | None) -> bool:
        """Whether the key may do what needs `scope`; None: whoever has a key may."""
        return scope is None or scope in self.scopes or Scope.ADMIN in self.scopes

    def public(self) -> dict[str, object]:
        """All but the hash."""
        values = self.model_dump(mode="json", exclude={"hash"})
        return {**values, "scopes": sorted(self.scopes)}


_KEYS = TypeAdapter(list[ApiKey])


class Keys:
    """The keys of one file, read again whenever it has changed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stamp: tuple[int, int] | None = None
        self._keys: dict[str, ApiKey] = {}

    def all(self) -> list[ApiKey]:
        """Every key, oldest first. Errors: RequestError when the file is not what this class writes."""
        self._refresh()
        return sorted(self._keys.values(), key=lambda key: (key.created, key.id))

    def __bool__(self) -> bool:
        self._refresh()
        return bool(self._keys)

    def create(
        self,
        name: str,
        scopes: frozenset[Scope] = frozenset({Scope.IMAGES, Scope.JOBS_READ}),
        *,
        rate: int | None = None,
        concurrency: int | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its text, which is known now and never again."""
        self._refresh()
        if not scopes:
            raise RequestError(f"key '{name}': no scopes; give some of [{', '.join(Scope)}]")
        id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        try:
            key = ApiKey(
                id=id,
                name=name,
                hash=_hash(secret),
                scopes=scopes,
                created=int(time.time()),
                rate=rate,
                concurrency=concurrency,
            )
        except ValidationError as error:
            raise RequestError(f"key '{name}': {error.errors()[0]['msg']}") from None
        self._write({**self._keys, id: key})
        return key, f"{_PREFIX}-{id}-{secret}"

    def revoke(self, id: str) -> ApiKey:
        """Takes the key back. Errors: RequestError when there is none."""
        self._refresh()
        if id not in self._keys:
            raise RequestError(f"key '{id}': not there; `darkroom keys list` shows what is")
        kept = dict(self._keys)
        key = kept.pop(id)
        self._write(kept)
        return key

    def verify(self, text: str) -> ApiKey | None:
        """The key whose text this is."""
        self._refresh()
        prefix, _, rest = text.partition("-")
        id, _, secret = rest.partition("-")
        key = self._keys.get(id)
        known = key.hash if key else _hash("")  # as much work when there is no such key
        matches = hmac.compare_digest(_hash(secret), known)
        return key if key and matches and prefix == _PREFIX else None

    def _refresh(self) -> None:
        try:
            status = self._file.stat()
        except FileNotFoundError:
            self._stamp, self._keys = None, {}
            return
        stamp = (status.st_mtime_ns, status.st_size)
        if stamp == self._stamp:
            return
        try:
            keys = _KEYS.validate_json(self._file.read_bytes())
        except (OSError, ValidationError) as error:
            raise RequestError(f"{self._file}: not a file of keys; move it away and make new keys") from error
        self._stamp, self._keys = stamp, {key.id: key for key in keys}

    def _write(self, keys: dict[str, ApiKey]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([key.model_dump(mode="json") for key in keys.values()], indent=1)
        fresh = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(self._file)
        self._refresh()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
