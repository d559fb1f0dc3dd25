"""Which pictures may be drawn together, and how many."""

from __future__ import annotations

from darkroom.api.names import Module
from darkroom.engine.drawing import Drawing
from darkroom.engine.parts import Parts
from darkroom.engine.plan import Plan
from darkroom.families.base import Conditioning
from darkroom.runtime.devices import DeviceType
from darkroom.runtime.residency import SPARE
from darkroom.sampling.conditions import alike

FULL_CARD = {1: 65_536, 2: 8_192}
"""Tokens in one call, by the latent pixels that a token has on a side, with which a card has enough to do.

A UNet's (1) first levels are narrow, so that a 1024x1024 picture with guidance, 32768 of them, leaves room; a
transformer (2) is wide, and two pictures of 1024x1024 are this many. Estimated from widths, not measured.
"""

FULL_PROCESSOR = 4_096
"""The same for a processor: two pictures of 256x256 with guidance (docs/adr/0017)."""

MOST = 16
"""Pictures at once, however small they are: nobody waits for more to be done."""


def can_share(first: Plan, second: Plan) -> bool:
    """Whether two requests may be drawn as one batch: one size, one schedule, one sampler, one guidance.

    Prompts and seeds may differ. Their conditionings must also agree in shape (`fit`), which is known when
    they are there.
    """
    return (
        _form(first) == _form(second)
        and first.schedule is not None
        and second.schedule is not None
        and first.schedule.sigmas.equal(second.schedule.sigmas)
    )


def _form(plan: Plan) -> tuple[object, ...]:
    return (
        plan.width,
        plan.height,
        plan.method,
        plan.eta,
        plan.extra_sample_args,
        plan.guidance,
        plan.flow_shift,
        plan.timestep_shift,
        plan.init_image is None,
        plan.mask is None,
    )


def fit(first: Drawing, second: Drawing) -> bool:
    """Whether two drawings whose plans may share agree in the shapes of all that the network sees."""
    return _alike(first.cond, second.cond) and _alike(first.uncond, second.uncond)


def _alike(first: Conditioning | None, second: Conditioning | None) -> bool:
    if first is None or second is None:
        return first is second
    return alike(first, second)


def groups_of(drawings: list[Drawing]) -> list[list[Drawing]]:
    """The drawings in groups that may be one batch, each group where its first drawing was."""
    groups: list[list[Drawing]] = []
    for drawing in drawings:
        for group in groups:
            if can_share(group[0].plan, drawing.plan) and fit(group[0], drawing):
                group.append(drawing)
                break
        else:
            groups.append([drawing])
    return groups


def most_together(parts: Parts, plan: Plan) -> int:
    """How many pictures like this one are drawn at once: as many as leave the device under-filled before the
    last of them joins, and as its memory has room for. 1 where a batch does not pay.
    """
    asked = parts.config.max_batch or min(_until_full(parts, plan), MOST)
    if asked == 1:
        return 1
    each = _calls(plan)
    room = parts.room(Module.DIFFUSION) / SPARE
    while asked > 1 and parts.diffusion_bytes(plan.width, plan.height, asked * each) > room:
        asked -= 1
    return asked


def _until_full(parts: Parts, plan: Plan) -> int:
    patch = parts.defaults.patch
    side = parts.model.family.latent.downscale * patch
    tokens = (plan.width // side) * (plan.height // side) * _calls(plan)
    is_card = parts.backend(Module.DIFFUSION).info.type is not DeviceType.CPU
    return max(1, (FULL_CARD[min(patch, 2)] if is_card else FULL_PROCESSOR) // tokens)


def _calls(plan: Plan) -> int:
    """Latents of one picture in one call of the network."""
    return 2 if plan.guidance.wants_uncond else 1


def evenly(count: int, most: int) -> list[int]:
    """The sizes of as few batches as take `count` pictures, none above `most`, as equal as can be."""
    batches = -(-count // most)
    return [count // batches + (i < count % batches) for i in range(batches)]
