"""URLs of users reach public addresses only: the corpus of tricks."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpx2
import pytest

from darkroom.api.errors import RequestError
from darkroom.manager import net_guard
from darkroom.manager.net_guard import AddressRefused, guarded_client, is_public

PRIVATE = [
    "127.0.0.1",
    "127.8.9.1",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",  # cloud metadata
    "100.64.0.1",  # carrier-grade NAT
    "100.100.100.200",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:0:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://0/",
        "http://localhost/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://\u2460\u2461\u2466.0.0.1/",  # circled digits
        "http://1.1.1.1@127.0.0.1/",
        "http://user:password@example.com/",
        "file:///etc/passwd",
        "ftp://example.com/",
        "gopher://127.0.0.1:6379/",
    ],
)
def test_urls_that_lead_inside(url: str) -> None:
    async def ask() -> None:
        async with guarded_client() as client:
            await client.get(url)

    with pytest.raises((RequestError, httpx2.InvalidURL, httpx2.UnsupportedProtocol)):
        asyncio.run(ask())


class Names:
    """A resolver whose answers change from one question to the next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: dict[str, list[list[str]]]) -> None:
        self.asked: list[str] = []
        real = socket.getaddrinfo

        def getaddrinfo(host: str, port: int, *rest: object, **options: object) -> list[object]:
            name = host.decode() if isinstance(host, bytes) else host
            if name not in answers:
                return real(host, port, *rest, **options)  # type: ignore[arg-type, return-value]
            self.asked.append(name)
            found = answers[name].pop(0) if len(answers[name]) > 1 else answers[name][0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
def inner() -> Iterator[ThreadingHTTPServer]:
    """A service of this machine that answers or sends elsewhere, and counts."""

    class Handler(BaseHTTPRequestHandler):
        hits: ClassVar[list[tuple[str, str]]] = []

        def do_GET(self) -> None:
            self.hits.append((self.path, self.headers["Host"]))
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
            else:
                self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, {"mixed.example": [["93.184.216.34", "127.0.0.1"]]})

    async def ask() -> None:
        async with guarded_client() as client:
            await client.get("http://mixed.example/")

    with pytest.raises(AddressRefused, match=r"127\.0\.0\.1"):
        asyncio.run(ask())


def test_rebinding_reaches_what_was_checked(
    monkeypatch: pytest.MonkeyPatch, inner: ThreadingHTTPServer
) -> None:
    port = inner.server_address[1]
    names = Names(monkeypatch, {"rebind.example": [["127.0.0.1"], ["10.255.255.1"]]})
    loopback = ipaddress.ip_address("127.0.0.1")
    monkeypatch.setattr(net_guard, "is_public", lambda address: address == loopback)

    async def ask() -> httpx2.Response:
        async with guarded_client() as client:
            return await client.get(f"http://rebind.example:{port}/x")

    response = asyncio.run(ask())
    assert response.status_code == 200
    assert names.asked == ["rebind.example"]  # resolved once; the second answer never counted
    assert inner.RequestHandlerClass.hits[-1] == ("/x", f"rebind.example:{port}")  # type: ignore[attr-defined]


def test_every_redirect_is_checked(monkeypatch: pytest.MonkeyPatch, inner: ThreadingHTTPServer) -> None:
    port = inner.server_address[1]
    loopback = ipaddress.ip_address("127.0.0.1")
    monkeypatch.setattr(net_guard, "is_public", lambda address: address == loopback)

    async def ask(path: str) -> httpx2.Response:
        async with guarded_client() as client:
            return await client.get(f"http://127.0.0.1:{port}{path}")

    with pytest.raises(AddressRefused, match=r"169\.254\.169\.254"):
        asyncio.run(ask("/to/http://169.254.169.254/latest/"))
    with pytest.raises(httpx2.TooManyRedirects):
        asyncio.run(ask("/to//to//to//to//to/"))
