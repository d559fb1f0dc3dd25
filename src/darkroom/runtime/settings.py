"""Settings of the process that open backends want, whatever the order in which they close."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Setting(Generic[T]):
    """One setting. The holder who came last has its way; without holders it is what it was before them."""

    def __init__(self, get: Callable[[], T], set: Callable[[T], object]) -> None:
        self._get = get
        self._set = set
        self._wishes: dict[object, T] = {}
        self._before: list[T] = []
        self._lock = threading.Lock()

    def hold(self, value: T) -> Callable[[], None]:
        """Sets `value` until the function that it returns is called."""
        holder = object()
        with self._lock:
            if not self._wishes:
                self._before = [self._get()]
            self._wishes[holder] = value
            self._set(value)

        def release() -> None:
            with self._lock:
                if holder in self._wishes:
                    del self._wishes[holder]
                    self._set([*self._before, *self._wishes.values()][-1])

        return release
