"""Which quantized weights are unpacked when they are loaded: those for which their device has room."""

from __future__ import annotations

import logging
from collections.abc import Collection

from darkroom.api.names import Module
from darkroom.runtime.backends import Backend
from darkroom.runtime.budget import format_bytes
from darkroom.runtime.component import Component
from darkroom.runtime.devices import DeviceType
from darkroom.runtime.limits import GIBIBYTE, Limits
from darkroom.runtime.residency import SPARE, Activations, Components
from darkroom.runtime.split import room_on

logger = logging.getLogger(__name__)

SHARE_OF_MAIN_MEMORY = 0.5
"""Of what is free there, since a file's pages and other programs have a use for it, too."""


def unpack_what_fits(
    components: Components, undecided: Collection[Module], limits: Limits, activations: Activations
) -> None:
    """Lets quantized weights of `undecided` modules be unpacked at load where they fit: they then run as fast
    as if they had never been quantized. To be called before weights are loaded.

    Weights that are brought from another device stay packed, being fewer bytes so.

    activations: bytes that a module takes besides its weights while it runs.
    """
    # The diffusion network first: it is called once a step.
    for module in sorted(undecided, key=lambda module: module is not Module.DIFFUSION):
        component = components[module]
        if not component.is_quantized:
            continue
        packed = component.weigh()[0]
        component.keep_packed = False
        unpacked = component.weigh()[0]
        needed, room = _needed(component.runtime, components, activations), _room(component, limits)
        component.keep_packed = _comes_and_goes(module, component, limits) or needed > room
        if not component.keep_packed:
            message = "%s: quantized weights are unpacked as they are loaded, %s become %s"
            logger.info(message, module, format_bytes(packed), format_bytes(unpacked))
        elif unpacked > packed:
            logger.info(
                "%s: quantized weights stay packed, %s instead of %s; %s has room for %s in all",
                module,
                format_bytes(packed),
                format_bytes(unpacked),
                " and ".join(backend.name for backend in component.backends),
                format_bytes(room),
            )


def _comes_and_goes(module: Module, component: Component, limits: Limits) -> bool:
    if limits.streams(module) and len(component.backends) == 1:
        return True
    return component.params not in (component.runtime, None)


def _needed(backend: Backend, components: Components, activations: Activations) -> int:
    """Bytes on a device when it holds most: weights that live there, one module's more, and activations."""
    here = {module: component for module, component in components.items() if component.runtime is backend}
    staying = sum(part.weigh()[0] for part in components.values() if part.params is backend)
    visiting = max((part.weigh()[0] for part in here.values() if part.params is not backend), default=0)
    return staying + visiting + max(int(SPARE * activations(module)) for module in here)


def _room(component: Component, limits: Limits) -> int:
    """Bytes that may be used of the devices that a component runs on."""
    if len(component.backends) > 1:
        return sum(room_on(backend, limits) for backend in component.backends)
    backend = component.runtime
    is_processor = backend.info.type is DeviceType.CPU
    free = backend.memory().free
    asked = int(limits.gibibytes(backend.name, is_processor) * GIBIBYTE)
    if asked:
        return min(asked, free) if asked > 0 else max(free + asked, 0)
    return int(free * SHARE_OF_MAIN_MEMORY) if is_processor else free
