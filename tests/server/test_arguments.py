"""sd-server's own options, as far as they can be wrong by themselves."""

from __future__ import annotations

import pytest

from darkroom.api.arguments import UsageError
from darkroom.server.arguments import KEY_VARIABLE, parse


@pytest.mark.parametrize(
    "origin", ["", "nonsense", "localhost:3000", "https://name/", "https://NAME", "null"]
)
def test_what_no_browser_sends_is_no_origin(origin: str) -> None:
    with pytest.raises(UsageError, match="is no origin"):
        parse(["--cors-origin", origin])


@pytest.mark.parametrize(
    "origin", ["*", "https://name.example", "http://localhost:3000", "http://[::1]:8080"]
)
def test_origins(origin: str) -> None:
    assert parse(["--cors-origin", origin]).server.cors_origin == (origin,)


@pytest.mark.parametrize("key", ["", " ", "key\n", " key", "k\x00y"])
def test_a_key_that_nobody_can_send_is_refused(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(UsageError, match="--api-key: "):
        parse(["--api-key", key])


def test_keys_of_any_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert parse(["--api-key", "schlüssel mit platz"]).server.api_key == "schlüssel mit platz"
    assert parse([]).server.api_key == ""
