"""The pool of sd-server processes: `Pool`, what it is told (`LaunchSpec`) and what it answers.

pool.py       leases, loading, pinning, events: what the rest of the manager calls
keeper.py     the one task that writes state; roster.py what it does to a model; record.py a model's state
scheduler.py, eviction.py, placing.py   pure rules: whose turn, who goes, whether there is room
sidecar.py    one process from start to end; process.py, probe.py, output.py, diagnosis.py its parts
engine.py, command_line.py, ladder.py   programs, and from settings and rung to their flags
"""

from darkroom.manager.pool.errors import (
    FailureKind,
    LoadFailed,
    PoolError,
    PoolFull,
    Quarantined,
    ShuttingDown,
    SidecarError,
    SidecarLost,
)
from darkroom.manager.pool.pool import Lease, Pool
from darkroom.manager.pool.spec import LaunchSpec, Patience
from darkroom.manager.pool.state import Capabilities, Failure, ModelState, ModelStatus, PoolEvent, as_json

__all__ = [
    "Capabilities",
    "Failure",
    "FailureKind",
    "LaunchSpec",
    "Lease",
    "LoadFailed",
    "ModelState",
    "ModelStatus",
    "Patience",
    "Pool",
    "PoolError",
    "PoolEvent",
    "PoolFull",
    "Quarantined",
    "ShuttingDown",
    "SidecarError",
    "SidecarLost",
    "as_json",
]
