"""How the pool's models are, as others see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from darkroom.manager.model_settings import Setting
from darkroom.manager.pool.errors import FailureKind


class ModelState(StrEnum):
    """Where a model is on its way.

    absent -> validating -> queued -> starting -> loading -> ready <-> busy -> draining -> stopping -> absent;
    failed after a process that failed, quarantined after too many.
    """

    ABSENT = "absent"
    VALIDATING = "validating"
    QUEUED = "queued"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    BUSY = "busy"
    DRAINING = "draining"
    STOPPING = "stopping"
    FAILED = "failed"
    QUARANTINED = "quarantined"

    @property
    def is_serving(self) -> bool:
        """Whether its process answers requests."""
        return self in (ModelState.READY, ModelState.BUSY, ModelState.DRAINING)


@dataclass(frozen=True)
class Capabilities:
    """What the engine behind a model can do besides drawing; what it cannot is never imitated.

    progress: it tells the step over HTTP. previews: pictures of the running denoise.
    cancel_running: one job can be stopped; otherwise its process is killed and started again.
    """

    progress: bool
    previews: bool
    cancel_running: bool


@dataclass(frozen=True)
class Failure:
    """Why a process failed. at: seconds since 1970. tail: its last lines."""

    kind: FailureKind
    message: str
    tail: tuple[str, ...]
    at: float


@dataclass(frozen=True)
class ModelStatus:
    """One model in the pool.

    bytes_read, bytes_total: of a load; the total is 0 while it is not known.
    memory: bytes by device ("ram", "cuda0"). rung: of the memory ladder, 0 is the top.
    leases: requests that are with it. waiting: requests that wait for it.
    idle_seconds: since its last request. unloads_in: seconds, None while it is busy or stays for ever.
    """

    model: str
    state: ModelState
    engine: str = ""
    bytes_read: int = 0
    bytes_total: int = 0
    load_seconds: float | None = None
    port: int | None = None
    pid: int | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    rung: int = 0
    rung_name: str = ""
    settings: Mapping[str, Setting] = field(default_factory=dict)
    capabilities: Capabilities | None = None
    pinned: bool = False
    leases: int = 0
    waiting: int = 0
    loads: int = 0
    restarts: int = 0
    idle_seconds: float | None = None
    unloads_in: float | None = None
    quarantined_for: float | None = None
    failure: Failure | None = None


def absent(model: str) -> ModelStatus:
    """A model that nothing is known of."""
    return ModelStatus(model, ModelState.ABSENT)


@dataclass(frozen=True)
class PoolEvent:
    """Something changed; `status` is how the model is now.

    type: state, progress, memory, evicted, out_of_memory, failed or reaped.
    """

    id: int
    type: str
    status: ModelStatus
    reason: str = ""


_STATUS: TypeAdapter[ModelStatus] = TypeAdapter(ModelStatus)


def as_json(status: ModelStatus) -> dict[str, Any]:
    """The status as JSON has it."""
    document: dict[str, Any] = _STATUS.dump_python(status, mode="json")
    return document
