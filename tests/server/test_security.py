from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx2
import pytest
from tests.server.conftest import RunningServer, StartServer, wait_for

KEY = "a key with ümlaut"
MEGABYTE = 2**20


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.fixture(scope="module")
def locked(module_server: StartServer) -> RunningServer:
    return module_server("--api-key", KEY, "--cors-origin", "https://good.example", "--max-body", "1")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": f"Bearer {KEY}".encode()}, 200),
        ({"authorization": f"bearer  {KEY}".encode()}, 200),
        ({"x-api-key": KEY.encode()}, 200),
        ({"Authorization": basic("anybody", KEY)}, 200),
        ({"Authorization": basic(KEY, "")}, 200),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Bearer {KEY}x".encode()}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": basic("anybody", "wrong")}, 401),
        ({"Authorization": "Basic %%%"}, 401),
        ({"Authorization": "Digest x"}, 401),
        ({"x-api-key": ""}, 401),
    ],
)
def test_keys(locked: RunningServer, headers: dict[str, str], status: int) -> None:
    answer = locked.http.get("/sdcpp/v1/jobs", headers=headers)
    assert answer.status_code == status, answer.text
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert KEY not in answer.text


def test_health_asks_for_no_key_and_errors_have_the_form_of_their_api(locked: RunningServer) -> None:
    assert locked.http.get("/health").status_code == 200
    assert locked.http.get("/openapi.json").status_code == 401
    assert isinstance(locked.http.get("/sdapi/v1/samplers").json()["error"], str)
    error = locked.http.get("/v1/models").json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


def test_origins_that_are_named_may_call(locked: RunningServer) -> None:
    wanted = {
        "Origin": "https://good.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, authorization",
    }
    answer = locked.http.options("/sdcpp/v1/img_gen", headers=wanted)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == "https://good.example"
    assert answer.headers["access-control-allow-headers"] == "content-type, authorization"
    assert "access-control-allow-credentials" not in answer.headers
    refused = locked.http.get("/sdcpp/v1/jobs", headers={"Origin": "https://good.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://good.example"


@pytest.mark.parametrize("origin", ["https://evil.example", "http://good.example", "null"])
def test_pages_of_other_origins_are_shut_out(server: RunningServer, origin: str) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    answer = server.http.options("/sdcpp/v1/img_gen", headers=headers)
    assert "access-control-allow-origin" not in answer.headers
    post = server.http.post("/sdcpp/v1/img_gen", json={}, headers={"Origin": origin})
    assert post.status_code == 403
    assert post.json()["code"] == "origin_not_allowed"
    read = server.http.get("/health", headers={"Origin": origin})
    assert "access-control-allow-origin" not in read.headers


def test_its_own_page_may_call(server: RunningServer) -> None:
    answer = server.http.post("/sdcpp/v1/img_gen", json={"no_such_field": 1}, headers={"Origin": server.url})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:1234", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
    ],
)
def test_names_that_were_made_to_point_here(server: RunningServer, host: str, status: int) -> None:
    assert server.http.get("/health", headers={"Host": host}).status_code == status


def bytes_of(count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield b" " * MEGABYTE


@pytest.mark.parametrize("path", ["/sdcpp/v1/img_gen", "/v1/images/generations", "/sdapi/v1/txt2img"])
def test_large_bodies_are_refused_whether_or_not_they_say_their_length(
    locked: RunningServer, path: str
) -> None:
    headers = {"x-api-key": KEY.encode(), "content-type": "application/json"}
    for content in (b" " * (2 * MEGABYTE), bytes_of(3)):
        answer = locked.http.post(path, content=content, headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 413, answer.text
        assert "at most 1 MB" in json.dumps(answer.json())
    assert locked.health()["status"] != "error"


def test_a_body_of_100_megabytes(server: RunningServer) -> None:
    answer = server.http.post("/v1/images/generations", content=bytes_of(100))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


def test_what_is_no_http_does_not_disturb(server: RunningServer) -> None:
    address = urlsplit(server.url)
    for junk in (
        b"\x00" * 1000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /health HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    ):
        with socket.create_connection((address.hostname, address.port)) as connection:  # type: ignore[arg-type]
            connection.sendall(junk)
    assert server.health()["status"] == "ok"


def test_paths_that_are_not_there(server: RunningServer) -> None:
    for path in ("/nothing", "/sdcpp/v1/jobs/..%2f..%2fetc%2fpasswd", "/v1/nothing", "/%ff"):
        answer = server.http.get(path)
        assert answer.status_code == 404, path
        assert answer.json()["error"]
    assert server.http.delete("/sdcpp/v1/img_gen").status_code == 405


def test_an_open_server_is_what_somebody_asked_for(start_server: StartServer) -> None:
    server = start_server("--listen-ip", "0.0.0.0", "--insecure")
    port = urlsplit(server.url).port
    answer = httpx2.get(f"http://127.0.0.1:{port}/health", headers={"Host": "some.name"}, trust_env=False)
    assert answer.status_code == 200


def test_the_key_may_stand_in_the_environment(start_server: StartServer) -> None:
    server = start_server(DARKROOM_API_KEY="secret")
    assert server.http.get("/sdcpp/v1/jobs").status_code == 401
    assert server.http.get("/sdcpp/v1/jobs", headers={"x-api-key": "secret"}).status_code == 200
    wait_for(lambda: server.health()["status"] == "ok", "it is ready")
    assert not any("secret" in line for line in server.log)
