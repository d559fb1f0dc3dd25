"""The steps down that a model takes when memory is short, and the file that remembers them."""

from __future__ import annotations

import json
import logging
from enum import IntEnum
from pathlib import Path

from darkroom.manager.model_settings import write_atomically

_log = logging.getLogger(__name__)


class Rung(IntEnum):
    """How much memory a model may use; each rung includes those above it."""

    FULL = 0
    TILED_VAE = 1
    TEXT_ON_CPU = 2
    STREAMED = 3

    @property
    def title(self) -> str:
        """In words."""
        return _TITLES[self]

    @property
    def below(self) -> Rung | None:
        """The next one down, None at the bottom."""
        return Rung(self + 1) if self < Rung.STREAMED else None


_TITLES = {
    Rung.FULL: "everything on its device",
    Rung.TILED_VAE: "VAE by tiles",
    Rung.TEXT_ON_CPU: "VAE by tiles, text encoders on the CPU",
    Rung.STREAMED: "VAE by tiles, text encoders on the CPU, weights in RAM and brought block by block",
}


class Rungs:
    """The rung of each model on each device, remembered in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rungs: dict[str, dict[str, int]] = {}
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            self._rungs = {
                str(model): {str(device): Rung(rung) for device, rung in devices.items()}
                for model, devices in known.items()
            }
        except FileNotFoundError:
            pass
        except (OSError, ValueError, AttributeError) as error:
            _log.warning("%s: not readable, rungs start anew: %s", file, error)

    def get(self, model: str, device: str) -> Rung:
        """Where the model last stood."""
        return Rung(self._rungs.get(model, {}).get(device, Rung.FULL))

    def set(self, model: str, device: str, rung: Rung) -> None:
        """Remembers; a file that cannot be written costs the memory, not the work."""
        devices = self._rungs.setdefault(model, {})
        if rung is Rung.FULL:
            devices.pop(device, None)
        else:
            devices[device] = rung
        self._save()

    def forget(self, model: str) -> None:
        """The model may try the top again, on every device."""
        if self._rungs.pop(model, None):
            self._save()

    def _save(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._file, json.dumps(self._rungs, indent=1))
        except OSError as error:
            _log.warning("%s: rungs are not saved: %s", self._file, error)
