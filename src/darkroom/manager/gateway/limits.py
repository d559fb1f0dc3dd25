"""How often, and how many at a time, one key may ask."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from darkroom.api.openai.errors import ErrorType
from darkroom.manager.gateway.errors import GatewayError
from darkroom.manager.gateway.keys import ApiKey


@dataclass
class _Account:
    tokens: float
    at: float = field(default_factory=time.monotonic)
    running: int = 0


class Limits:
    """A token bucket and a count of running requests for each key."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    @contextmanager
    def admit(self, key: ApiKey) -> Iterator[None]:
        """Counts one request of `key` while it runs. Errors: GatewayError 429 with Retry-After."""
        account = self._accounts.setdefault(key.id, _Account(tokens=float(key.rate or 0)))
        if key.concurrency and account.running >= key.concurrency:
            raise _too_many(f"key '{key.name}': {key.concurrency} requests run already; wait for one", 1.0)
        if key.rate:
            self._take(account, key)
        account.running += 1
        try:
            yield
        finally:
            account.running -= 1

    def _take(self, account: _Account, key: ApiKey) -> None:
        assert key.rate is not None
        now = time.monotonic()
        account.tokens = min(key.rate, account.tokens + (now - account.at) * key.rate / 60)
        account.at = now
        if account.tokens < 1:
            wait = (1 - account.tokens) * 60 / key.rate
            raise _too_many(f"key '{key.name}': more than {key.rate} requests a minute; wait", wait)
        account.tokens -= 1


def _too_many(message: str, wait: float) -> GatewayError:
    return GatewayError(
        message, status=429, code="rate_limit_exceeded", type=ErrorType.RATE_LIMIT, retry_after=wait
    )
