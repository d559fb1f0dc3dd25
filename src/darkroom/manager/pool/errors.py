"""What the pool answers when a model cannot be had.

PoolError
├── PoolFull        no port, no place or no memory, and nothing that may be unloaded
├── LoadFailed      the model's process did not become ready
├── SidecarLost     the process died or hung while it worked
├── Quarantined     it failed too often; it may be tried again later
└── ShuttingDown    the manager stops
"""

from __future__ import annotations

from enum import StrEnum

from darkroom.api.errors import DarkroomError


class FailureKind(StrEnum):
    """Why a process failed, as far as its last lines tell."""

    OUT_OF_MEMORY = "out_of_memory"
    BAD_FILE = "bad_file"
    MISSING_TENSOR = "missing_tensor"
    UNKNOWN_MODEL = "unknown_model"
    BAD_SETTING = "bad_setting"
    PORT = "port"
    ILLEGAL_INSTRUCTION = "illegal_instruction"
    DRIVER = "driver"
    HANG = "hang"
    STALLED_LOAD = "stalled_load"
    REFUSED = "refused"
    NOT_STARTED = "not_started"
    KILLED = "killed"
    CRASH = "crash"


class PoolError(DarkroomError):
    """The pool cannot give what was asked for. retry_after: seconds, None where waiting does not help."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PoolFull(PoolError):
    """There is no room, and nothing that may be unloaded."""


class SidecarError(PoolError):
    """A process failed: `kind` says how, `tail` holds its last lines."""

    def __init__(
        self, message: str, kind: FailureKind, tail: tuple[str, ...], retry_after: float | None = None
    ) -> None:
        super().__init__(message, retry_after)
        self.kind = kind
        self.tail = tail


class LoadFailed(SidecarError):
    """The model's process did not become ready."""


class SidecarLost(SidecarError):
    """The process died, or was stopped because it hung, while a request was with it."""


class Quarantined(SidecarError):
    """The model failed too often and is left alone for `retry_after` seconds."""


class ShuttingDown(PoolError):
    """The manager stops and takes nothing more."""
