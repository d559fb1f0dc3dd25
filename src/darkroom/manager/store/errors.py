"""What can go wrong between a wanted file and the store."""

from __future__ import annotations

from darkroom.api.errors import DarkroomError


class StoreError(DarkroomError):
    """The store cannot do what was asked of it."""


class GatedFile(StoreError):
    """A file is given only to those who accepted its terms.

    repo: as `owner/name`; page: where the terms can be accepted.
    """

    def __init__(self, message: str, repo: str, page: str) -> None:
        super().__init__(message)
        self.repo = repo
        self.page = page


class FileNotOffered(StoreError):
    """No such file where it was looked for."""


class FileRejected(StoreError):
    """The bytes are not those that were wanted. `expected` and `received` are sha256 or sizes."""

    def __init__(self, message: str, expected: str = "", received: str = "") -> None:
        super().__init__(message)
        self.expected = expected
        self.received = received


class StoreFull(StoreError):
    """The disk has too little room. `needed` and `free` are bytes."""

    def __init__(self, message: str, needed: int, free: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.free = free


class Offline(StoreError):
    """A download is needed and the network must not be used."""


class DownloadFailed(StoreError):
    """The server could not be made to give the file."""
