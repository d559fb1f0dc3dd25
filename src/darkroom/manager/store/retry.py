"""When to ask a server again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from darkroom.manager.store.errors import StoreError

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""answers that may be others a little later"""

_LONGEST_S = 60.0
_LONGEST_ASKED_S = 600.0


class TryAgain(StoreError):
    """This try came to nothing, another may not. wait_s: what the server asked for."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def wait_asked_for(headers: Mapping[str, str]) -> float | None:
    """Seconds of a Retry-After header, which may be a number or a date; at most ten minutes."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            then = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp() - datetime.now(
            UTC
        ).timestamp()
    return min(max(seconds, 0.0), _LONGEST_ASKED_S)


def pause_before(attempt: int, first_s: float) -> float:
    """Seconds before try number `attempt` (1 is the second try): doubling, half of it by chance."""
    whole = min(first_s * 2.0 ** (attempt - 1), _LONGEST_S)
    return whole * random.uniform(0.5, 1.0)
