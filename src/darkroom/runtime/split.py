"""Networks that were given several devices: what goes where, decided before any weight is read."""

from __future__ import annotations

import logging
from collections.abc import Collection

from darkroom.api.names import Module, SplitMode
from darkroom.runtime.backends import Backend, BackendManager
from darkroom.runtime.budget import format_bytes
from darkroom.runtime.component import Component
from darkroom.runtime.devices import DeviceType
from darkroom.runtime.layer_split import Share, contiguous, spread_blocks
from darkroom.runtime.limits import GIBIBYTE, Limits
from darkroom.runtime.residency import Components
from darkroom.runtime.row_split import CannotSplit, split_rows

logger = logging.getLogger(__name__)

SPLITTABLE = (Module.DIFFUSION, Module.TE)

HEADROOM = 2 * GIBIBYTE
"""What is left free on each of several devices, where --max-vram says nothing: activations, libraries."""


def spread_of(module: Module, manager: BackendManager) -> tuple[Backend, ...]:
    """The devices that `module` runs on, the main one first; a warning for those that it cannot use."""
    backends = manager.spread(module)
    if len(backends) == 1:
        return backends
    main, names = backends[0], "&".join(backend.name for backend in backends)
    if module not in SPLITTABLE:
        logger.warning("%s: runs on one device; of %s only %s is used", module, names, main.name)
        return (main,)
    if any(backend.info.type is DeviceType.CPU for backend in backends):
        logger.warning(
            "%s: layer split across a CPU device is not supported; using %s "
            "(use --params-backend %s=cpu to keep weights in RAM)",
            module,
            main.name,
            module,
        )
        return (main,)
    return backends


def apply_splits(components: Components, manager: BackendManager) -> None:
    """Splits the components that were given several devices; to be called before weights are loaded."""
    placement = manager.placement
    for module, component in components.items():
        backends = component.backends
        if len(backends) == 1:
            continue
        if placement.limits.streams(module):
            logger.warning("%s: is split over several devices, and so none of its blocks is streamed", module)
        if placement.spreads[module].mode is SplitMode.ROW:
            try:
                _split_rows(module, component)
                continue
            except CannotSplit as reason:
                logger.warning("%s: row split unavailable (%s); falling back to layer split", module, reason)
        _split_layers(module, component, placement.limits)


def room_on(backend: Backend, limits: Limits) -> int:
    """Bytes that weights may take on one of several devices."""
    free, asked = backend.memory().free, int(limits.gibibytes(backend.name, False) * GIBIBYTE)
    if asked:
        return min(asked, free) if asked > 0 else max(free + asked, 0)
    return max(free - HEADROOM, 0)


def _split_rows(module: Module, component: Component) -> None:
    backends = component.backends
    net, source, shares = split_rows(component.build, component.source, backends)
    whole = component.weigh()[0]
    component.split(net, source, shares, is_recordable=True)
    message = "%s: row split over %s, %s on each of %s in all"
    each = component.weigh()[0] // len(backends)
    logger.info(message, module, _named(backends), format_bytes(each), format_bytes(whole))


def _split_layers(module: Module, component: Component, limits: Limits) -> None:
    total, blocks = component.weigh()
    sizes, backends = [block.nbytes for block in blocks], component.backends
    numbers = contiguous(sizes, [room_on(backend, limits) for backend in backends], total - sum(sizes))
    shares = []
    for number, backend in enumerate(backends):
        theirs = [block for block, owner in zip(blocks, numbers, strict=True) if owner == number]
        size = sum(block.nbytes for block in theirs) + (0 if number else total - sum(sizes))
        logger.info(
            "%s: layer split: %s has %d of %d blocks, %s",
            module,
            backend.name,
            len(theirs),
            len(blocks),
            format_bytes(size),
        )
        if number and theirs:
            shares.append(Share.of(backend, theirs))
    if shares:
        net = spread_blocks(component.build(), shares, backends[0])
        component.split(net, component.source, shares)


def _named(backends: Collection[Backend]) -> str:
    return " and ".join(backend.name for backend in backends)
