"""Which names and web pages may speak to the manager: against DNS rebinding and pages that post in secret."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from darkroom.manager.config import ManagerConfig
from darkroom.manager.gateway.errors import GatewayError

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Origins:
    """The Host headers and Origins that are accepted."""

    def __init__(self, config: ManagerConfig) -> None:
        names = {*_LOOPBACK, config.host.strip("[]"), *config.allowed_hosts}
        if config.public_url:
            names.add(urlsplit(config.public_url).hostname or "")
        if not config.is_loopback:
            host = socket.gethostname()
            names |= {host, f"{host}.local"}
        self._names = {name.lower() for name in names if name}
        self._addresses = not config.is_loopback  # an address needs no name, so it cannot be rebound
        self._allowed = {origin.rstrip("/").lower() for origin in config.allowed_origins}

    def check(self, method: str, host: str, origin: str | None) -> None:
        """Errors: GatewayError 403 for a foreign Host, or a foreign Origin where things are changed."""
        name = _host_name(host)
        if name not in self._names and not (self._addresses and _is_address(name)):
            raise GatewayError(
                f"Host '{host[:80]}': not a name of this manager; use its own, or add to allowed_hosts",
                status=403,
                code="host_not_allowed",
                retry=False,
            )
        if origin is None or method in SAFE_METHODS or self.allows(origin):
            return
        if urlsplit(origin).netloc.lower() != host.lower():
            raise GatewayError(
                f"Origin '{origin[:80]}': other sites may not use this manager; add it to allowed_origins",
                status=403,
                code="origin_not_allowed",
                retry=False,
            )

    def allows(self, origin: str) -> bool:
        """Whether pages of that origin, another one than the manager's own, may use the API."""
        return origin.lower() in self._allowed


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
