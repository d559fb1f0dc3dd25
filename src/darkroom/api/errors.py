"""Every error that Darkroom raises on purpose.

DarkroomError
├── RequestError        what was asked for cannot be: a size, a count, an unreadable image (exit 1, HTTP 400)
├── PlacementError      a --backend or --params-backend that names no module or no device
├── CheckpointError     a model file that cannot be read, is of no known model, or does not fit its network
├── OutOfMemoryError    the device cannot hold what the request needs
└── Cancelled           the caller stopped the work; nothing was written

A message reads *subject: what is wrong; what would be right*, for example
`--backend: backend 'cuda3' was not found; available: cpu, cuda0`.
"""


class DarkroomError(Exception):
    """Root of the tree: a message for people, no traceback needed to understand it."""


class RequestError(DarkroomError):
    """The request cannot be served as it stands."""


class PlacementError(DarkroomError):
    """A backend assignment is malformed, or names a module or a device that does not exist."""


class CheckpointError(DarkroomError):
    """A model file cannot be read, is of no known model, or does not fit the network it should fill."""


class OutOfMemoryError(DarkroomError):
    """The device has too little memory for the work asked of it. device: its name."""

    def __init__(self, message: str, device: str = "") -> None:
        super().__init__(message)
        self.device = device


class Cancelled(DarkroomError):
    """The caller cancelled; partial work is dropped."""
