"""The stages with the autoencoder: pictures that a drawing starts from, and the pictures that it becomes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from darkroom.api.names import Module
from darkroom.api.result import Phase
from darkroom.core.pixels import tensor_to_images
from darkroom.engine.drawing import Drawing, ending, going_on
from darkroom.engine.parts import Parts
from darkroom.engine.pipeline import Start, decode, empty_start, encode_start, require_numbers
from darkroom.engine.report import loading_for
from darkroom.families.base import Conditioning, Frame

logger = logging.getLogger(__name__)


def make_starts(parts: Parts, drawings: Sequence[Drawing]) -> None:
    """Fills in where each drawing starts, and adds to its conditioning what that and its size have to say."""
    family, take = parts.model.family, parts.backend(Module.DIFFUSION).take
    inpaints = family.inpaints(parts.model.architecture)
    for drawing in drawings:
        plan = drawing.plan
        with ending([drawing]):
            if plan.init_image is None and not plan.encoded_references:
                start = empty_start(plan, family, inpaints).map(take)
            else:
                start = _encoded(parts, drawing, inpaints).map(take)
            assert drawing.cond is not None, "prompts come first"
            cond = _framed(parts, drawing, drawing.cond, start)
            uncond = drawing.uncond and _framed(parts, drawing, drawing.uncond, start)
            drawing.cond, drawing.uncond, drawing.start = cond, uncond, start  # all or, if one fails, nothing


def _encoded(parts: Parts, drawing: Drawing, inpaints: bool) -> Start:
    if inpaints and drawing.plan.mask is None:
        logger.warning("inpainting model: without --mask the whole picture is drawn anew")
    component, report = parts.components[Module.VAE], drawing.report
    with (
        component.resident(report.loading(component.file_bytes)) as vae,
        report.phase(Phase.ENCODE_IMAGE, 1) as advance,
    ):
        fitted = parts.fitted(vae, drawing.tiling, advance)
        start = encode_start(fitted, drawing.plan, parts.model.family, parts.config.rng, inpaints)
        advance(1)
    return start


def _framed(parts: Parts, drawing: Drawing, cond: Conditioning, start: Start) -> Conditioning:
    """A prompt's conditioning with what its request adds: size, guidance, mask and reference images."""
    plan, kind = drawing.plan, parts.components[Module.DIFFUSION].dtype
    cond = replace(
        cond,
        concat=None if start.concat is None else start.concat.to(kind),
        references=tuple(reference.to(kind) for reference in start.references),
        increase_reference_index=plan.increase_reference_index,
    )
    frame = Frame(plan.width, plan.height, plan.distilled_guidance)
    return parts.model.family.frame(cond, frame, parts.model.architecture)


def decode_latents(parts: Parts, drawings: Sequence[Drawing]) -> None:
    """Fills in the pictures of all latents, with the tiny autoencoder where it is to decode."""
    drawings = [drawing for drawing in going_on(drawings) if drawing.latents.keys() - drawing.images]
    if not drawings:
        return
    component = parts.decoder
    on_bytes = loading_for([drawing.report for drawing in drawings], component.file_bytes)
    with ending(drawings), component.resident(on_bytes) as vae:
        for drawing in drawings:
            with ending([drawing]):
                for image in sorted(drawing.latents.keys() - drawing.images):
                    latent = drawing.latents[image]
                    with drawing.report.phase(Phase.DECODE, 1, image + 1) as advance:
                        if component is parts.tae:
                            pixels = parts.decoded_quickly(latent)
                            require_numbers("taesd: the picture", pixels)
                            drawing.images[image] = tensor_to_images(pixels)[0]
                        else:
                            fitted = parts.fitted(vae, drawing.tiling, advance)
                            form = parts.model.family.latent
                            drawing.images[image] = decode(fitted, latent, form)
                        advance(1)
