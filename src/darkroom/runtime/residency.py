"""Which weights stay on their device and which come when they are needed, decided before any is read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from darkroom.api.names import Module
from darkroom.runtime.backends import Backend, BackendManager
from darkroom.runtime.budget import blocks_to_stream, evenly, format_bytes, resident_bytes
from darkroom.runtime.component import Component
from darkroom.runtime.devices import DeviceType
from darkroom.runtime.limits import GIBIBYTE

logger = logging.getLogger(__name__)

SPARE = 1.5
"""Times the estimate of the activations that is left free: it is rather low, and libraries take a share."""

Components = Mapping[Module, Component]
Activations = Callable[[Module], int]


def apply_limits(components: Components, manager: BackendManager, activations: Activations) -> None:
    """Makes the components keep to the limits of the placement; to be called before weights are loaded.

    activations: bytes that a module takes besides its weights while it runs.
    """
    limits = manager.placement.limits
    if limits.default and all(_is_processor(component.runtime) for component in components.values()):
        logger.warning(
            "--max-vram has no effect on a CPU; cpu=%g limits the weights that are kept in RAM",
            limits.default,
        )
    for backend in dict.fromkeys(component.runtime for component in components.values()):
        asked = limits.gibibytes(backend.name, _is_processor(backend))
        here = {
            module: part
            for module, part in components.items()
            if part.runtime is backend and not part.is_split
        }
        if asked and here:
            _keep_within(_budget(backend, asked), here, manager, activations)
    diffusion = components.get(Module.DIFFUSION)
    if diffusion is None or diffusion.is_split:
        return
    if limits.gpu_layers >= 0:
        _, blocks = diffusion.weigh()
        moving = evenly(len(blocks), limits.gpu_layers)
        stream_blocks(Module.DIFFUSION, diffusion, moving, manager)
    elif limits.stream_layers and not diffusion.is_streamed:
        if diffusion.params is diffusion.runtime:
            logger.warning(
                "--stream-layers has no effect unless diffusion params backend is cpu or disk; ignoring"
            )
        elif not limits.gibibytes(diffusion.runtime.name, _is_processor(diffusion.runtime)):
            _, blocks = diffusion.weigh()
            stream_blocks(Module.DIFFUSION, diffusion, evenly(len(blocks), 0), manager)


def room_for_work(backend: Backend, manager: BackendManager, held: int) -> int:
    """Bytes of a device that may be used besides `held`, the weights on it; below 0 if those are too many."""
    asked = manager.placement.limits.gibibytes(backend.name, _is_processor(backend))
    free = backend.memory().free
    return min(free, int(asked * GIBIBYTE) - held) if asked > 0 else free + int(asked * GIBIBYTE)


def stream_blocks(
    module: Module, component: Component, moving: Iterable[int], manager: BackendManager
) -> None:
    """Lets the blocks of these numbers come and go."""
    total, blocks = component.weigh()
    streamed = [blocks[number] for number in moving]
    home = component.params
    if home is component.runtime:
        home = home_of(module, component, manager)
    component.stream(streamed, home)
    if not streamed:
        return
    away = sum(block.nbytes for block in streamed)
    logger.info(
        "%s: %d of %d blocks stay on %s; %d (%s of %s) are brought from %s when they run",
        module,
        len(blocks) - len(streamed),
        len(blocks),
        component.runtime.name,
        len(streamed),
        format_bytes(away),
        format_bytes(total),
        "disk" if home is None else home.name,
    )


def home_of(module: Module, component: Component, manager: BackendManager) -> Backend | None:
    """Where weights live that may not be where they are used: in main memory, or if that is it, on disk."""
    return None if _is_processor(component.runtime) else manager.host(module)


def _budget(backend: Backend, gibibytes: float) -> int:
    """Bytes of a device that may be used."""
    if gibibytes > 0:
        return int(gibibytes * GIBIBYTE)
    free, spared = backend.memory().free, int(-gibibytes * GIBIBYTE)
    if free <= spared:
        logger.warning(
            "--max-vram < 0 requested, but free VRAM is %.2f GiB; reserving %.2f GiB leaves no graph budget; "
            "as little as possible is used of %s",
            free / GIBIBYTE,
            spared / GIBIBYTE,
            backend.name,
        )
    return max(free - spared, 0)


def _keep_within(budget: int, here: Components, manager: BackendManager, activations: Activations) -> None:
    """`here`: the components that run on the device that has this budget."""
    weights = {module: component.weigh()[0] for module, component in here.items()}
    work = {module: int(SPARE * activations(module)) for module in here}
    staying = [module for module, component in here.items() if component.params is component.runtime]
    together = sum(weights[module] for module in staying)
    if len(staying) > 1 and together + max(work.values()) > budget:
        for module in staying:
            here[module].params = home_of(module, here[module], manager)
        logger.info(
            "%s: %s together take %s, more than %s: each is there only while it runs",
            here[staying[0]].runtime.name,
            _listed(staying),
            format_bytes(together),
            format_bytes(budget),
        )
        staying = []
    for module, component in here.items():
        others = sum(weights[other] for other in staying if other is not module)
        if weights[module] + work[module] + others <= budget:
            continue
        if module is Module.VAE:
            continue  # its weights are little beside its activations, and those give way (engine.tiling)
        total, blocks = component.weigh()
        sizes = [block.nbytes for block in blocks]
        room = budget - work[module] - others - (total - sum(sizes))
        moving = blocks_to_stream(sizes, room) if sizes else ()
        needed = total - sum(sizes) + (resident_bytes(sizes, moving) if sizes else 0) + work[module] + others
        if needed > budget:
            logger.warning(
                "%s: needs about %s on %s whatever is done, more than the %s of --max-vram",
                module,
                format_bytes(needed),
                component.runtime.name,
                format_bytes(budget),
            )
        stream_blocks(module, component, moving, manager)


def _is_processor(backend: Backend) -> bool:
    return backend.info.type is DeviceType.CPU


def _listed(modules: Iterable[Module]) -> str:
    return ", ".join(modules)
