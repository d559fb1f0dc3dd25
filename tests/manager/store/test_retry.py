from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from darkroom.manager.store.retry import pause_before, wait_asked_for


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("0", 0.0), ("-3", 0.0), ("86400", 600.0), ("", None), ("soon", None)]
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert wait_asked_for({"Retry-After": value}) == seconds


def test_retry_after_as_a_date() -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    wait = wait_asked_for({"Retry-After": then})
    assert wait is not None
    assert 90 < wait <= 100


def test_pauses_double_and_differ() -> None:
    for attempt in range(1, 12):
        whole = min(2.0 ** (attempt - 1), 60.0)
        pauses = {pause_before(attempt, 1.0) for _ in range(20)}
        assert all(whole / 2 <= pause <= whole for pause in pauses)
        assert len(pauses) > 1
