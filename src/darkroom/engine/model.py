"""From files to a known model: what family it is, its architecture, and the weights of each of its networks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from darkroom.api.config import EngineConfig
from darkroom.api.errors import CheckpointError
from darkroom.api.names import Module
from darkroom.families import discover
from darkroom.families.base import Family
from darkroom.weights.checkpoint import open_checkpoint
from darkroom.weights.source import CheckpointSource, TensorSource, replace_prefix

ALPHAS_CUMPROD = "alphas_cumprod"


@dataclass(frozen=True)
class Model:
    """A recognised model, nothing of it loaded yet.

    path: the main file. sources: the tensors of each network under the network's own names.
    alphas_cumprod: the file's own noise schedule (1000,), or None.
    """

    path: Path
    family: Family[Any]
    architecture: Any
    sources: Mapping[Module, TensorSource]
    alphas_cumprod: Tensor | None
    files: ExitStack

    def close(self) -> None:
        """Closes the files; a second call does nothing."""
        self.files.close()


def builtin_model() -> Path:
    """The model that the package brings along."""
    return Path(str(files("darkroom").joinpath("data/builtin.gguf")))
