"""--auto-fit for a model's files: what its modules need, measured from headers, and the plan."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from darkroom.api.config import EngineConfig
from darkroom.api.errors import PlacementError
from darkroom.api.names import Module
from darkroom.engine.model import open_model
from darkroom.engine.parts import Parts
from darkroom.runtime.backends import BackendManager, Placement
from darkroom.runtime.devices import Device, Devices, DeviceType
from darkroom.runtime.fit import MAIN, Fit, Need, Room, fit
from darkroom.runtime.limits import GIBIBYTE, Limits
from darkroom.runtime.residency import SPARE

logger = logging.getLogger(__name__)

SHARE_OF_MAIN_MEMORY = 0.8
"""Of what is free there; the rest is for a file's pages and other programs."""

IGNORED = {
    "backend": "--backend",
    "params_backend": "--params-backend",
    "split_mode": "--split-mode",
    "offload_to_cpu": "--offload-to-cpu",
    "clip_on_cpu": "--clip-on-cpu",
    "vae_on_cpu": "--vae-on-cpu",
    "gpu_layers": "--n-gpu-layers",
    "stream_layers": "--stream-layers",
}
"""Placement options that a plan takes the place of, by field."""


def fitted(config: EngineConfig, devices: Devices) -> tuple[EngineConfig, Fit]:
    """The configuration with its model placed so that it fits, and the plan.

    --max-vram counts as what may be used of each device. Reads headers, no weights.
    Raises what opening the model raises, and PlacementError.
    """
    defaults = EngineConfig()
    given = [flag for name, flag in IGNORED.items() if getattr(config, name) != getattr(defaults, name)]
    if given:
        logger.warning("--auto-fit: %s %s ignored", " and ".join(given), "is" if len(given) == 1 else "are")
    plain = config.model_copy(
        update={name: getattr(defaults, name) for name in IGNORED} | {"max_vram": "0", "auto_fit": False}
    )
    with BackendManager(Placement.parse(plain, devices), threads=config.threads) as manager:
        limits = Limits.of(config).resolved(lambda name: devices.resolve(name).name)
        rooms, main = _rooms(devices, manager, limits), _main_memory(manager, limits)
    plan = fit(_needs(plain, rooms[0].device if rooms else MAIN, devices), rooms, main)
    update = {
        "backend": plan.backend,
        "params_backend": plan.params_backend,
        "max_vram": plan.max_vram or "0",
    }
    return plain.model_copy(update=update), plan


def _needs(plain: EngineConfig, device: str, devices: Devices) -> list[Need]:
    """What the modules take on a device, as its type of numbers makes them."""
    placed = plain.model_copy(update={"backend": device})
    placement = Placement.parse(placed, devices)
    with BackendManager(placement, threads=plain.threads) as manager, ExitStack() as undo:
        model = open_model(placed)
        undo.callback(model.close)
        parts = Parts(placed, model, manager, is_arranged=False)
        undo.callback(parts.close)
        return [_need(parts, module) for module in parts.components]


def _need(parts: Parts, module: Module) -> Need:
    weights, blocks = parts.components[module].weigh()
    work = int(SPARE * parts.least_activations(module))
    return Need(module, weights, tuple(block.nbytes for block in blocks), work)


def _main_memory(manager: BackendManager, limits: Limits) -> int:
    host = manager.host(Module.DIFFUSION)
    free, asked = host.memory().free, int(limits.gibibytes(host.name, is_processor=True) * GIBIBYTE)
    if not asked:
        return int(free * SHARE_OF_MAIN_MEMORY)
    return min(asked, free) if asked > 0 else max(free + asked, 0)


def _rooms(devices: Devices, manager: BackendManager, limits: Limits) -> list[Room]:
    """What may be used of the cards; of integrated ones, slow and in main memory, if there are no others."""
    for kind in (DeviceType.GPU, DeviceType.INTEGRATED_GPU):
        found = [_room(device, manager, limits) for device in devices if device.type is kind]
        if rooms := [room for room in found if room is not None]:
            return rooms
    return []


def _room(device: Device, manager: BackendManager, limits: Limits) -> Room | None:
    """As much as is free, unless --max-vram says less; None for a card that does not start."""
    try:
        free = manager.open(device).memory().free
    except PlacementError as error:
        logger.warning("--auto-fit: %s is not used; %s", device.name, error)
        return None
    asked = limits.gibibytes(device.name, is_processor=False)
    if not asked:
        return Room(device.name, free)
    allowed = int(asked * GIBIBYTE)
    return Room(device.name, min(allowed, free) if asked > 0 else max(free + allowed, 0), limit=True)
