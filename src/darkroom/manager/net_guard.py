"""Requests that a user's URL may cause: to public addresses only, whatever names and redirects say.

The address is checked where the connection is made, so that a name cannot mean one machine when it is
checked and another when it is used (DNS rebinding), and each redirect passes the same check.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

import httpx2

from darkroom.api.errors import RequestError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
_EMBEDDED = (
    _NAT64,
    ipaddress.IPv6Network("::/96"),  # IPv4-compatible, RFC 4291 §2.5.5.1
    ipaddress.IPv6Network("::ffff:0:0:0/96"),  # IPv4-translated, RFC 2765
)
_SPECIAL = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # IETF's own; one cloud keeps its metadata there
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # local NAT64, RFC 8215
    ipaddress.IPv6Network("fec0::/10"),  # site-local, RFC 3879
)
_REDIRECTS = 3


class AddressRefused(RequestError):
    """A URL leads to an address that the manager must not ask on a user's behalf."""


def is_public(address: Address) -> bool:
    """Whether anyone on the internet would reach the same machine by this address.

    Addresses that carry an IPv4 address (mapped, translated, NAT64, 6to4, Teredo) count as that one.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            return False
        if address.ipv4_mapped:
            return is_public(address.ipv4_mapped)
        if address in _SIX_TO_FOUR and address.sixtofour:
            return is_public(address.sixtofour)
        if address.teredo:
            return False
        for network in _EMBEDDED:
            if address in network:
                return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    special = address.is_multicast or address.is_unspecified or address.is_reserved
    return address.is_global and not special and not any(address in network for network in _SPECIAL)


async def public_address(host: str, port: int) -> str:
    """An address of `host`, resolved now.

    Errors: AddressRefused when any of its addresses is not public: a name with both kinds is a trap.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise RequestError(f"URL host '{host}': no such host; check the spelling") from error
    addresses = [ipaddress.ip_address(info[4][0]) for info in found]
    for address in addresses:
        if not is_public(address):
            raise AddressRefused(f"URL host '{host}': {address} is not a public address; give a public URL")
    return str(addresses[0])


class PinnedTransport(httpx2.AsyncHTTPTransport):
    """Connects to the very address that was checked; TLS still proves the name."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """One request, or one hop of a redirect."""
        url = request.url
        if url.scheme not in ("http", "https") or not url.host:
            raise AddressRefused(f"URL with scheme '{url.scheme}': not fetched; give an http or https URL")
        if url.userinfo:
            raise AddressRefused(f"URL of {url.host}: carries a user name; give it without")
        port = url.port or (443 if url.scheme == "https" else 80)
        address = await public_address(url.host, port)
        pinned = httpx2.Request(
            request.method,
            url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions | {"sni_hostname": url.host},
        )
        return await super().handle_async_request(pinned)


def guarded_client(*, allow_private: bool = False, **options: Any) -> httpx2.AsyncClient:  # noqa: ANN401
    """A client for users' URLs: at most 3 redirects, no proxies or credentials of the environment.

    allow_private: any address will do, as tests and private mirrors need; the rest holds.
    `options` are httpx2.AsyncClient's.
    """
    transport = httpx2.AsyncHTTPTransport() if allow_private else PinnedTransport()
    settings: dict[str, Any] = {
        "follow_redirects": True,
        "max_redirects": _REDIRECTS,
        "timeout": httpx2.Timeout(30.0, connect=10.0),
        "limits": httpx2.Limits(max_keepalive_connections=0),  # the pool knows addresses, TLS names hosts
    }
    return httpx2.AsyncClient(transport=transport, trust_env=False, **(settings | options))
