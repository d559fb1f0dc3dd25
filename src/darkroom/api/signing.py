"""Links that work without a key, for a while: their query holds a time and a signature."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from urllib.parse import urlencode


class Signer:
    """A secret that ends with the process."""

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def query(self, name: str, expires: int) -> str:
        """`exp=...&sig=...` for a link to `name`; expires: seconds since 1970."""
        return urlencode({"exp": expires, "sig": self._sign(name, expires)})

    def is_ours(self, name: str, expires: str, signature: str) -> bool:
        """Whether the query of a link was made here, for that name; it may have expired."""
        if not (expires.isascii() and expires.isdecimal() and len(expires) <= 12):
            return False
        expected = self._sign(name, int(expires))
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass"))

    def _sign(self, name: str, expires: int) -> str:
        return hmac.new(self._secret, f"{name}\n{expires}".encode(), hashlib.sha256).hexdigest()
