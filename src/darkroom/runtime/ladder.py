"""What is done when a device has run out of memory: less of the model stays on it, one rung at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from darkroom.api.names import Module
from darkroom.runtime.backends import BackendManager
from darkroom.runtime.budget import blocks_to_stream, evenly
from darkroom.runtime.component import Component
from darkroom.runtime.residency import Components, home_of, room_for_work, stream_blocks

logger = logging.getLogger(__name__)


def step_down(
    failed: Module, device: str, components: Components, manager: BackendManager, work: int
) -> bool:
    """Lets less of the model stay on the device where `failed` ran out of memory, and says so.

    The rungs: the other modules are there only while they run; its quantized weights stay packed; some of
    its blocks, then all of them, come one by one. What leaves is read again when it is next needed. Where
    weights only wait on the device, they wait in their file instead.

    device: the one that ran out. work: bytes that `failed` takes besides its weights.
    ->  False if nothing is left to do
    """
    component = components[failed]
    done = _waits_in_file(component, device) or _others_wait_in_files(components, device)
    done = done or _others_leave(component, components, manager) or _stays_packed(component)
    if not done and failed is not Module.VAE:  # of which the weights are little beside the activations
        done = _some_blocks_leave(failed, component, manager, work) or _all_blocks_leave(
            failed, component, manager
        )
    if done:
        logger.warning("%s: out of memory on %s; once more, %s", failed, device, done)
    return bool(done)


def _waits_in_file(component: Component, device: str) -> str:
    if not _waits_on(component, device):
        return ""
    component.wait_in_file()
    return "its weights read from their file for each use"


def _others_wait_in_files(components: Components, device: str) -> str:
    waiting = [module for module, other in components.items() if _waits_on(other, device)]
    for module in waiting:
        components[module].wait_in_file()
    return f"with {' and '.join(waiting)} read from the file for each use" if waiting else ""


def _waits_on(component: Component, device: str) -> bool:
    home = component.home
    return home is not None and home is not component.runtime and home.name == device


def _others_leave(component: Component, components: Components, manager: BackendManager) -> str:
    left = []
    for module, other in components.items():
        is_beside = other is not component and not set(other.backends).isdisjoint(component.backends)
        if is_beside and other.params is other.runtime:
            other.forget()
            other.params = home_of(module, other, manager)
            left.append(module)
    return f"with {' and '.join(left)} there only while needed" if left else ""


def _stays_packed(component: Component) -> str:
    if not component.is_quantized or component.keep_packed:
        return ""
    component.forget()
    component.keep_packed = True
    return "its quantized weights left packed"


def _some_blocks_leave(failed: Module, component: Component, manager: BackendManager, work: int) -> str:
    if component.is_split or component.is_streamed:
        return ""
    component.forget()
    component.runtime.empty_cache()
    total, blocks = component.weigh()
    sizes = [block.nbytes for block in blocks]
    room = room_for_work(component.runtime, manager, 0) - work - (total - sum(sizes))
    moving = blocks_to_stream(sizes, room) or evenly(len(sizes), len(sizes) // 2) if sizes else ()
    return _blocks_leave(failed, component, manager, moving)


def _all_blocks_leave(failed: Module, component: Component, manager: BackendManager) -> str:
    every = evenly(len(component.weigh()[1]), 0)
    if component.is_split or component.streamed_blocks >= len(every):
        return ""
    component.forget()
    return _blocks_leave(failed, component, manager, every)


def _blocks_leave(
    failed: Module, component: Component, manager: BackendManager, moving: Sequence[int]
) -> str:
    if not moving:
        return ""
    stream_blocks(failed, component, moving, manager)
    return f"{len(moving)} of its {len(component.weigh()[1])} blocks brought one by one"
