"""The flags that say how much of the weights a device holds, and --max-vram's grammar. Needs no device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from darkroom.api.config import EngineConfig
from darkroom.api.errors import PlacementError
from darkroom.api.names import Module
from darkroom.runtime.assignment import DEFAULT_KEYS

MAX_VRAM_FLAG = "--max-vram"
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Limits:
    """How much of the weights may be on a device.

    default: GiB for every device but the processor; 0 is no limit, below 0 what is free less so much.
    devices: the same by device name. gpu_layers: blocks of the diffusion network that stay on its device, -1
    for all. stream_layers: bring its blocks one by one if nothing else says how many stay.
    """

    default: float = 0.0
    devices: Mapping[str, float] = field(default_factory=dict)
    gpu_layers: int = -1
    stream_layers: bool = False

    @classmethod
    def of(cls, config: EngineConfig) -> Limits:
        """The limits of a configuration, device names as they were written.

        Raises PlacementError for a part of --max-vram that is no number of GiB, or for no device.
        """
        default = 0.0
        devices: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in config.max_vram.split(","))):
            key, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals:
                default = _gibibytes(part)
            elif not key or not value:
                raise PlacementError(
                    f"{MAX_VRAM_FLAG}: invalid {MAX_VRAM_FLAG} assignment '{part}'; "
                    "write device=GiB, for example cuda0=6"
                )
            elif key.lower() in DEFAULT_KEYS:
                default = _gibibytes(value)
            else:
                devices[key] = _gibibytes(value)
        return cls(default, devices, config.gpu_layers, config.stream_layers)

    def resolved(self, resolve: Callable[[str], str]) -> Limits:
        """The same with the devices' own names. Raises PlacementError for a name that means none of them."""
        devices: dict[str, float] = {}
        for name, value in self.devices.items():
            try:
                devices[resolve(name)] = value
            except PlacementError as error:
                reason = str(error).partition(": ")[2]
                raise PlacementError(
                    f"{MAX_VRAM_FLAG}: unknown {MAX_VRAM_FLAG} backend '{name}'; {reason}"
                ) from None
        return Limits(self.default, devices, self.gpu_layers, self.stream_layers)

    def streams(self, module: Module) -> bool:
        """Whether blocks of a module are to come and go, whatever the devices' memory is."""
        return module is Module.DIFFUSION and (self.stream_layers or self.gpu_layers >= 0)

    def gibibytes(self, device: str, is_processor: bool) -> float:
        """What was said about a device, as `default` is said. The processor is limited only by its name."""
        return self.devices.get(device, 0.0 if is_processor else self.default)


def _gibibytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise PlacementError(
            f"{MAX_VRAM_FLAG}: invalid {MAX_VRAM_FLAG} value '{text}'; "
            "expected GiB: 6 for at most 6, -1 for all that is free but 1, 0 for no limit"
        )
    return value
