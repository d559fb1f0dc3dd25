"""Keys: hashed on disk, compared whole, limited."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from darkroom.api.errors import RequestError
from darkroom.manager.gateway.errors import GatewayError
from darkroom.manager.gateway.keys import ApiKey, Keys, Scope
from darkroom.manager.gateway.limits import Limits


def test_a_key_is_known_by_its_whole_text(tmp_path: Path) -> None:
    keys = Keys(tmp_path / "config/keys.json")
    assert not keys
    key, text = keys.create("mine", frozenset({Scope.IMAGES}))
    assert keys.verify(text) == key
    assert Keys(tmp_path / "config/keys.json").verify(text) == key
    for wrong in ("", text[:-1], text + "x", text.upper(), f"dk-{key.id}-", f"xx{text[2:]}", "dk--"):
        assert keys.verify(wrong) is None


def test_the_file_holds_no_secret_and_is_private(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    _, text = Keys(file).create("mine")
    assert file.stat().st_mode & 0o777 == 0o600
    assert text.rpartition("-")[2] not in file.read_text()


def test_a_change_by_another_process_counts(tmp_path: Path) -> None:
    here, there = Keys(tmp_path / "keys.json"), Keys(tmp_path / "keys.json")
    key, text = there.create("theirs")
    assert here.verify(text)
    there.revoke(key.id)
    assert here.verify(text) is None
    with pytest.raises(RequestError, match="not there"):
        here.revoke(key.id)


def test_scopes() -> None:
    key = ApiKey(id="1", name="k", hash="", scopes=frozenset({Scope.IMAGES}), created=0)
    assert key.allows(Scope.IMAGES)
    assert key.allows(None)
    assert not key.allows(Scope.ADMIN)
    admin = key.model_copy(update={"scopes": frozenset({Scope.ADMIN})})
    assert all(admin.allows(scope) for scope in Scope)


def test_a_damaged_file_locks_everyone_out_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"keys": []}))
    with pytest.raises(RequestError, match="not a file of keys"):
        Keys(tmp_path / "keys.json").verify("dk-1-2")


def test_rate_and_concurrency() -> None:
    limits = Limits()
    key = ApiKey(id="1", name="k", hash="", scopes=frozenset(), created=0, rate=2, concurrency=1)
    with limits.admit(key), pytest.raises(GatewayError, match="run already"), limits.admit(key):
        pass
    with limits.admit(key):
        pass
    with pytest.raises(GatewayError, match="a minute") as raised, limits.admit(key):
        pass
    assert raised.value.status == 429
    assert 1 <= int(raised.value.headers["Retry-After"]) <= 30
