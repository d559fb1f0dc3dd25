"""Room on the disk, shared out among the downloads of this process."""

from __future__ import annotations

from pathlib import Path

from darkroom.manager.store.errors import StoreFull
from darkroom.manager.store.options import StoreOptions
from darkroom.manager.units import readable_bytes


class Space:
    """What downloads still need, all together, must fit and leave a reserve."""

    def __init__(self, folder: Path, options: StoreOptions) -> None:
        self._folder = folder
        self._options = options
        self._missing: dict[str, int] = {}

    def need(self, key: str, name: str, missing: int) -> None:
        """A download still needs `missing` bytes; call it again as it goes on.

        Errors: StoreFull when they do not fit beside those of the others.
        """
        self._missing[key] = missing
        self.check(name, sum(self._missing.values()))

    def done(self, key: str) -> None:
        """A download needs nothing more."""
        self._missing.pop(key, None)

    def check(self, name: str, needed: int) -> None:
        """Errors: StoreFull when `needed` bytes and the reserve are more than is free."""
        free = self._options.free_space(self._folder)
        reserve = self._options.reserve
        if needed + reserve > free:
            raise StoreFull(
                f"{name}: {readable_bytes(needed)} are needed and {readable_bytes(reserve)} stay in reserve, "
                f"but {self._folder} has {readable_bytes(free)} free; make room (`darkroom gc`) and resume",
                needed,
                free,
            )
