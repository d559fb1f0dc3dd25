"""What `GET /health` of sd-server answers."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel

NONCE_VARIABLE = "DARKROOM_NONCE"
"""The environment variable whose text `Health.nonce` repeats, so that who started a server knows it again."""


class HealthStatus(StrEnum):
    """Whether a server can draw: not yet, now, or never."""

    LOADING = "loading"
    OK = "ok"
    ERROR = "error"


class Health(BaseModel):
    """How a server is.

    bytes_read, bytes_total: of the model's files; the total is 0 until the files have been looked at.
    error: what is wrong with the model. model: its name. nonce: what DARKROOM_NONCE said.
    loaded: whether weights are in memory. stopping: it takes no more requests.
    queued, generating: the jobs that wait and that are drawn.
    """

    status: HealthStatus
    bytes_read: int = 0
    bytes_total: int = 0
    error: str | None = None
    model: str
    version: str
    nonce: str | None = None
    pid: int
    loaded: bool = False
    stopping: bool = False
    queued: int = 0
    generating: int = 0
    uptime: float = 0.0
