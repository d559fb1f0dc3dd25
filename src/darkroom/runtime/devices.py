"""The devices of this machine and their names. What a device is, its provider knows."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from darkroom.api.errors import PlacementError
from darkroom.runtime.assignment import RUNTIME_FLAG, is_default

if TYPE_CHECKING:
    from darkroom.runtime.backends import Backend

logger = logging.getLogger(__name__)


class DeviceType(StrEnum):
    """What sort of processor a device is; the choice of a default goes by it."""

    GPU = "gpu"
    INTEGRATED_GPU = "integrated gpu"
    CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """One device.

    name: lower case and unique on this machine: cpu, cuda0, rocm0, metal, xpu0, ...
    kind: the name shared by all devices of its sort (cuda); alone, it means the first of them.
    description: for people. memory: bytes in total, 0 where that is not known.
    """

    name: str
    kind: str
    type: DeviceType
    description: str
    memory: int = 0

    def __str__(self) -> str:
        return self.name


class Provider(Protocol):
    """A maker of backends for the devices that it finds."""

    def devices(self) -> Sequence[Device]:
        """What is there, the preferred device of each kind first."""

    def open(self, device: Device, *, threads: int) -> Backend:
        """A backend for one of `devices()`. threads: for those that compute with threads; below 1: choose."""


class Devices(Sequence[Device]):
    """Every device that some provider offers, in the providers' order."""

    def __init__(self, providers: Sequence[Provider]) -> None:
        offers = [(device, provider) for provider in providers for device in provider.devices()]
        self._devices = tuple(device for device, _ in offers)
        self._provider_of = {device.name: provider for device, provider in offers}
        if len(self._provider_of) < len(offers):
            raise ValueError(f"devices: names must be unique, these are not: {_names(self._devices)}")

    @classmethod
    def discover(cls) -> Devices:
        """The devices of this machine. Loads torch."""
        from darkroom.runtime.torch_backend import TorchProvider

        return cls([TorchProvider()])

    def __len__(self) -> int:
        return len(self._devices)

    def __getitem__(self, index: int) -> Device:  # type: ignore[override]  # a slice has no use here
        return self._devices[index]

    def __iter__(self) -> Iterator[Device]:
        return iter(self._devices)

    def lines(self) -> list[str]:
        """What --list-devices prints: name, tab, description."""
        return [f"{device.name}\t{device.description}" for device in self._devices]

    def open(self, device: Device, *, threads: int = -1) -> Backend:
        """A new backend; `BackendManager` is what keeps it one for each device."""
        return self._provider_of[device.name].open(device, threads=threads)

    def resolve(self, name: str, flag: str = RUNTIME_FLAG) -> Device:
        """The device that `name` means; case and surrounding blanks do not matter.

        In this order: a default (auto, default or nothing), gpu, a kind, a name, the beginning of one name.
        Raises PlacementError when no device or more than one is meant.
        """
        wanted = name.strip().lower()
        if is_default(wanted):
            return self.default()
        if wanted == "gpu":
            gpu = self._first(DeviceType.GPU) or self._first(DeviceType.INTEGRATED_GPU)
            found = [gpu] if gpu else []
        else:
            found = (
                [device for device in self if device.kind == wanted][:1]
                or [device for device in self if device.name == wanted]
                or [device for device in self if device.name.startswith(wanted)]
            )
        if len(found) > 1:
            raise PlacementError(
                f"{flag}: backend '{name.strip()}' is ambiguous, it fits {_names(found)}; "
                "write one of them in full"
            )
        if not found:
            raise PlacementError(
                f"{flag}: backend '{name.strip()}' was not found; available: {_names(self._devices)}"
            )
        return found[0]

    def default(self) -> Device:
        """The first GPU, else the first integrated GPU, else the CPU.

        SD_VK_DEVICE=1 in the environment prefers vulkan1, as it does for stable-diffusion.cpp.
        """
        chosen = os.environ.get("SD_VK_DEVICE")
        if chosen is not None:
            for device in self:
                if device.name == f"vulkan{chosen.strip()}":
                    return device
            logger.warning("SD_VK_DEVICE: device 'vulkan%s' was not found; taking the default device", chosen)
        for type in (DeviceType.GPU, DeviceType.INTEGRATED_GPU, DeviceType.CPU):
            if found := self._first(type):
                return found
        raise PlacementError(
            f"{RUNTIME_FLAG}: this machine offers no device at all; at least cpu was expected"
        )

    def _first(self, type: DeviceType) -> Device | None:
        return next((device for device in self if device.type is type), None)


def _names(devices: Sequence[Device]) -> str:
    return ", ".join(str(device) for device in devices)
