"""Darkroom: pictures from single-file checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from darkroom.api.version import __version__

if TYPE_CHECKING:
    from darkroom.api.config import EngineConfig
    from darkroom.api.request import GenerationRequest
    from darkroom.api.result import GenerationResult, Phase, Progress
    from darkroom.engine.engine import Engine

__all__ = [
    "Engine",
    "EngineConfig",
    "GenerationRequest",
    "GenerationResult",
    "Phase",
    "Progress",
    "__version__",
]

_HOMES = {
    "Engine": "darkroom.engine.engine",
    "EngineConfig": "darkroom.api.config",
    "GenerationRequest": "darkroom.api.request",
    "GenerationResult": "darkroom.api.result",
    "Phase": "darkroom.api.result",
    "Progress": "darkroom.api.result",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Imports a public name when it is first used: only `Engine` needs torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'darkroom' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
