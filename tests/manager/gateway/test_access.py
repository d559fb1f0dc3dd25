"""Who gets in: keys and scopes, Host and Origin, sizes. Against a real server."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator

import httpx2
import pytest
from tests.manager.gateway.conftest import Served, serving

from darkroom.manager.config import Paths
from darkroom.manager.gateway.access import is_public_path, scopes_for
from darkroom.manager.gateway.keys import Keys, Scope

EVIL = {"Origin": "https://evil.example"}


class Guarded:
    """A manager with keys."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.keys = Keys(Paths.under(served.home).keys_file)

    def key(self, *scopes: Scope, **limits: int) -> str:
        return self.keys.create("test", frozenset(scopes), **limits)[1]

    def status(self, method: str, path: str, key: str = "", **headers: str) -> int:
        with self.served.client(key, **headers) as client:
            return client.request(method, path, json={"prompt": "x"}).status_code


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    home = tmp_path_factory.mktemp("guarded")
    origins = ["https://friend.example"]
    with serving(home, allowed_origins=origins, max_body=1_000_000) as served:
        made = Guarded(served)
        made.admin = made.key(Scope.ADMIN)  # type: ignore[attr-defined]
        yield made


def test_without_a_key_only_the_public_paths(guarded: Guarded) -> None:
    assert guarded.status("GET", "/healthz") == 200
    assert guarded.status("GET", "/docs") == 200
    for path in ("/v1/models", "/admin/pool", "/metrics", "/v1/jobs", "/sdapi/v1/options"):
        assert guarded.status("GET", path) == 401
    with guarded.served.client("dk-00000000-wrong") as client:
        answer = client.post("/v1/images/generations", json={"prompt": "x"})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (401, "invalid_api_key")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_scopes_are_kept_apart(guarded: Guarded) -> None:
    drawing, watching = guarded.key(Scope.IMAGES), guarded.key(Scope.JOBS_READ)
    stocking = guarded.key(Scope.MODELS_WRITE)
    assert guarded.status("POST", "/v1/images/generations", drawing) == 200
    assert guarded.status("POST", "/v1/images/generations", watching) == 403
    assert guarded.status("GET", "/v1/jobs", watching) == 200
    assert guarded.status("POST", "/v1/jobs", watching) == 403
    assert guarded.status("GET", "/admin/pool", drawing) == 403
    assert guarded.status("POST", "/v1/store/gc", stocking) == 200
    assert guarded.status("POST", "/v1/store/gc", drawing) == 403
    assert guarded.status("GET", "/v1/models", stocking) == 200


def test_keys_may_come_in_other_headers(guarded: Guarded) -> None:
    key = guarded.key(Scope.IMAGES)
    basic = base64.b64encode(f"user:{key}".encode()).decode()
    assert guarded.status("GET", "/v1/models", **{"X-Api-Key": key}) == 200
    assert guarded.status("GET", "/v1/models", Authorization=f"Basic {basic}") == 200
    assert guarded.status("GET", "/v1/models", Authorization="Basic %%%") == 401


def test_jobs_are_their_owners(guarded: Guarded) -> None:
    mine, theirs = guarded.key(Scope.IMAGES), guarded.key(Scope.IMAGES)
    with guarded.served.client(mine) as client:
        id = client.post("/v1/jobs", json={"prompt": "x"}).json()["id"]
        assert client.get(f"/v1/jobs/{id}").status_code == 200
    assert guarded.status("GET", f"/v1/jobs/{id}", theirs) == 404
    assert guarded.status("DELETE", f"/v1/jobs/{id}", theirs) == 404
    assert guarded.status("GET", f"/v1/jobs/{id}", guarded.admin) == 200  # type: ignore[attr-defined]


def test_rate_of_a_key(guarded: Guarded) -> None:
    key = guarded.key(Scope.IMAGES, rate=2)
    assert [guarded.status("GET", "/v1/models", key) for _ in range(3)] == [200, 200, 429]


def test_other_sites_and_other_names_stay_out(guarded: Guarded) -> None:
    key = guarded.key(Scope.IMAGES)
    post = "/v1/images/generations"
    assert guarded.status("POST", post, key, **EVIL) == 403
    assert guarded.status("POST", post, key, Origin="null") == 403
    assert guarded.status("POST", post, key, Origin=guarded.served.url) == 200
    for name in ("evil.example", "127.0.0.1.evil.example", "evil.example:8080", "", "[::1"):
        assert guarded.status("GET", "/healthz", key, Host=name) in (400, 403)
    assert guarded.status("GET", "/healthz", Host="localhost:1234") == 200


def test_cors_is_for_friends(guarded: Guarded) -> None:
    ask = {"Access-Control-Request-Method": "POST"}
    with guarded.served.client() as client:
        friend = client.options("/v1/jobs", headers={"Origin": "https://friend.example", **ask})
        evil = client.options("/v1/jobs", headers={**EVIL, **ask})
        plain = client.get("/healthz", headers=EVIL)
    assert friend.headers["access-control-allow-origin"] == "https://friend.example"
    assert "access-control-allow-credentials" not in friend.headers
    assert evil.status_code == 403
    assert "access-control-allow-origin" not in plain.headers


def test_large_bodies_are_refused_however_they_come(guarded: Guarded) -> None:
    key = guarded.key(Scope.IMAGES)
    with guarded.served.client(key) as client:
        announced = client.post("/v1/jobs", content=b"x" * 1_000_001)
        assert (announced.status_code, announced.json()["error"]["code"]) == (413, "request_too_large")

        def pieces() -> Iterator[bytes]:
            for _ in range(20):
                yield b"x" * 100_000

        with contextlib.suppress(httpx2.TransportError):  # it may be closed while this is still being sent
            assert client.post("/v1/jobs", content=pieces()).status_code == 413
        assert client.get("/healthz").status_code == 200


def test_request_ids(guarded: Guarded) -> None:
    with guarded.served.client() as client:
        mine = client.get("/healthz", headers={"X-Request-Id": "mine-1"})
        bad = client.get("/healthz", headers={"X-Request-Id": "bad id"})
    assert mine.headers["x-request-id"] == "mine-1"
    assert bad.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("path", ["/adminx", "/v2/anything", "/v1/imagesx"])
def test_paths_without_a_rule_are_the_administrators_to_change(path: str) -> None:
    assert scopes_for("POST", path) == {Scope.ADMIN}
    assert not is_public_path(path)
