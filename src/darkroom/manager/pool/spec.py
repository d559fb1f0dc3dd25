"""What the pool is told: the model to start, and how patient to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from darkroom.api.names import Role
from darkroom.manager.library.roles import FileRole
from darkroom.manager.model_settings import ModelSettings


@dataclass(frozen=True)
class LaunchSpec:
    """Everything a process needs to serve one model.

    files: empty for the built-in model. weight_bytes: sum of the files, a first guess of the memory needed.
    diffusion_layers, diffusion_bytes: of the diffusion network, where known; engines that cannot count
    layers get a share of the bytes instead.
    """

    model: str
    files: Mapping[Role, Path] | Mapping[FileRole, Path] = field(default_factory=dict)
    settings: ModelSettings = field(default_factory=ModelSettings)
    weight_bytes: int = 0
    diffusion_layers: int | None = None
    diffusion_bytes: int | None = None


@dataclass(frozen=True)
class Patience:
    """Seconds and counts that tests make short; what people set is in ManagerConfig."""

    poll: float = 0.1
    """between looks at a process that loads"""
    watch: float = 1.0
    """between looks at one that is ready"""
    probe: float = 5.0
    """between HTTP probes of one that is idle"""
    probe_timeout: float = 5.0
    probe_failures: int = 3
    """probes that fail one after the other before the process counts as hung"""
    hang_steps: float = 20.0
    """median steps that are added to ManagerConfig.hang_timeout"""
    stop: float = 5.0
    """between SIGTERM and SIGKILL"""
    crashes: int = 3
    crash_window: float = 600.0
    quarantine: tuple[float, ...] = (30.0, 120.0, 600.0)
    """one after the other; the last one is repeated"""
    measure: float = 5.0
    """between measurements of memory"""
    port_attempts: int = 3
    linger: float = 0.3
    """how long a model that has just become idle is left alone: its next request often follows at once"""
    recovery: float = 5.0
    """how long to wait until a stopped process' GPU memory is free again"""
