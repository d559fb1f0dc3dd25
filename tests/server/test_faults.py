"""What no client should send. Each of it is answered in words, and the server lives on as it was."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import psutil
import pytest
from tests.server.conftest import RunningServer, wait_for

MEGABYTE = 2**20

EACH_API = {
    "openai": ("/v1/images/generations", {"prompt": "x"}),
    "a1111": ("/sdapi/v1/txt2img", {"prompt": "x"}),
    "sdcpp": ("/sdcpp/v1/img_gen", {"prompt": "x"}),
}
each_api = pytest.mark.parametrize("api", EACH_API)


@pytest.fixture(autouse=True)
def unharmed(server: RunningServer) -> Iterator[None]:
    """After each test the server is idle and draws."""
    yield
    wait_for(lambda: (server.health()["queued"], server.health()["generating"]) == (0, 0), "it is idle")
    body = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 1}
    assert server.http.post("/sdapi/v1/txt2img", json=body).status_code == 200


def refusal(server: RunningServer, path: str, body: object) -> str:
    """The message of an answer that must be a refusal."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = server.http.post(path, content=content, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    said = answer.json()["error"]
    message = said["message"] if isinstance(said, dict) else said
    assert isinstance(message, str)
    assert message
    assert "Traceback" not in answer.text
    return message


@each_api
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"prompt": "x"', b"[]", b'"x"', b"null", b"\xff\xfe{}", b"[" * 50_000, b'{"seed": NaN'],
    ids=["empty", "brace", "cut", "list", "text", "null", "latin", "deep", "nan"],
)
def test_json_that_is_none(server: RunningServer, api: str, body: bytes) -> None:
    refusal(server, EACH_API[api][0], body)


@each_api
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", {"a": 1}),
        ("seed", "seven"),
        ("seed", [1]),
        ("seed", 2**80),
        ("sampler_name", "no_such_one"),
    ],
)
def test_values_of_the_wrong_kind(server: RunningServer, api: str, field: str, value: object) -> None:
    path, body = EACH_API[api]
    name = (
        {"openai": "sampler", "sdcpp": "sample_method"}.get(api, field) if field.startswith("sa") else field
    )
    inner = {"sample_params": {name: value}} if (api, name) == ("sdcpp", "sample_method") else {name: value}
    assert name in refusal(server, path, {**body, **inner})


@each_api
@pytest.mark.parametrize("side", [0, -64, 7, 10**6, 2**40])
def test_sizes_that_cannot_be(server: RunningServer, api: str, side: int) -> None:
    path, body = EACH_API[api]
    size = {"size": f"{side}x256"} if api == "openai" else {"width": side, "height": 256}
    assert ("size" if api == "openai" else "width") in refusal(server, path, {**body, **size})


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it is as large as that."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(4 * MEGABYTE), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        bomb(50_000, 50_000),
        bomb(2**31 - 1, 2**31 - 1),
        bomb(4000, 4000)[:200],
        b"GIF89a" * 9,
    ],
    ids=["empty", "text", "bomb", "largest", "cut", "gif"],
)
def test_pictures_that_are_none(server: RunningServer, data: bytes) -> None:
    before = memory(server)
    text = base64.b64encode(data).decode()
    assert "init_images" in refusal(server, "/sdapi/v1/img2img", {"prompt": "x", "init_images": [text]})
    if text:  # stable-diffusion.cpp takes an empty one for none
        assert "init_image" in refusal(server, "/sdcpp/v1/img_gen", {"prompt": "x", "init_image": text})
    edit = {"prompt": "x", "images": [{"image_url": f"data:image/png;base64,{text}"}]}
    assert "image" in refusal(server, "/v1/images/edits", edit)
    form = server.http.post("/v1/images/edits", data={"prompt": "x"}, files={"image": ("a.png", data)})
    assert form.status_code == 400
    assert memory(server) - before < 300 * MEGABYTE


@pytest.mark.parametrize(
    "name", ["../../../../etc/passwd", "/etc/passwd", "..\\..\\x", "a\x00b", "file:///etc/passwd"]
)
def test_names_of_networks_open_no_file(server: RunningServer, name: str) -> None:
    extra = json.dumps({"lora": [{"path": name, "multiplier": 1}]})
    prompt = f"x <sd_cpp_extra_args>{extra}</sd_cpp_extra_args>"
    messages = [
        refusal(server, "/sdapi/v1/txt2img", {"prompt": f"x <lora:{name}:1>"}),
        refusal(server, "/sdcpp/v1/img_gen", {"prompt": "x", "lora": [{"path": name, "multiplier": 1}]}),
        *(refusal(server, path, {"prompt": prompt}) for path, _ in EACH_API.values() if "sdcpp" not in path),
    ]
    assert not any("root:" in message for message in messages)


def test_eight_bodies_of_100_megabytes_leave_memory_flat(server: RunningServer) -> None:
    before, statuses, most = memory(server), [], [0]
    paths = [path for path, _ in EACH_API.values()] + ["/v1/images/edits"]

    def body() -> Iterator[bytes]:
        yield b'{"prompt": "'
        for _ in range(100):
            yield b"x" * MEGABYTE
            most[0] = max(most[0], memory(server))
        yield b'"}'

    def send(path: str) -> None:
        answer = server.http.post(path, content=body(), headers={"content-type": "application/json"})
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=send, args=(paths[n % len(paths)],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [413] * 8
    # each may hold what is allowed (64 MB), and the same again while it is put together
    assert most[0] - before < 8 * 2.2 * 64 * MEGABYTE
    wait_for(lambda: memory(server) - before < 200 * MEGABYTE, "memory comes back")


def test_floods_of_headers(server: RunningServer) -> None:
    many = b"".join(b"x-%d: y\r\n" % n for n in range(20_000))
    for headers in (many, b"x-long: " + b"y" * MEGABYTE + b"\r\n"):
        with connection(server) as client:
            answer = b""
            try:
                client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + headers + b"\r\n")
                answer = client.recv(4096)
            except OSError:  # cut off while it sent
                continue
            assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 200")) or answer == b""


def test_a_hundred_clients_that_never_finish_keep_nobody_waiting(server: RunningServer) -> None:
    head = b"POST /sdapi/v1/txt2img HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    clients = [connection(server) for _ in range(100)]
    try:
        for n, client in enumerate(clients):
            client.sendall(head if n % 2 else head + b'content-length: 500\r\n\r\n{"prompt": "')
        answer = server.http.post(
            "/sdapi/v1/txt2img", json={"prompt": "x", "width": 64, "height": 64, "steps": 1}
        )
        assert answer.status_code == 200
    finally:
        for client in clients:
            client.close()


def memory(server: RunningServer) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


def connection(server: RunningServer) -> socket.socket:
    address = urlsplit(server.url)
    assert address.port
    return socket.create_connection((address.hostname, address.port), timeout=60)
