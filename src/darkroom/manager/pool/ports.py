"""Ports for processes: tested, and never one that somebody else holds."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

HOST = "127.0.0.1"


class Ports:
    """A range of ports that are given out one after the other."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._ports = list(ports)
        self._next = 0
        self._taken: set[int] = set()

    def take(self) -> int | None:
        """The next free port, None when there is none.

        Round robin, because the kernel keeps a port's old connections for a minute; one that only those hold
        is given out when no other is left.
        """
        order = self._ports[self._next :] + self._ports[: self._next]
        free = [port for port in order if port not in self._taken]
        port = next((port for port in free if can_bind(port)), None)
        if port is None:
            port = next((port for port in free if can_bind(port, reuse=True)), None)
        if port is not None:
            self._taken.add(port)
            self._next = (self._ports.index(port) + 1) % len(self._ports)
        return port

    def give_back(self, port: int) -> None:
        """The process is gone."""
        self._taken.discard(port)

    def free(self) -> int:
        """How many could be given out now."""
        return sum(can_bind(port, reuse=True) for port in self._ports if port not in self._taken)


def can_bind(port: int, *, reuse: bool = False) -> bool:
    """Whether nobody listens there. reuse: old connections, which a server may ignore, do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if reuse:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            if reuse:
                probe.listen(1)  # Linux lets two bind with SO_REUSEADDR as long as nobody listens
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True
