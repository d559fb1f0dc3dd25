"""Before and after denoising: where sampling begins, its noise levels, and the picture of a latent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL.Image import Image, Resampling
from torch import Tensor, nn

from darkroom.api.errors import DarkroomError, RequestError
from darkroom.api.names import RngType
from darkroom.core.images import fit
from darkroom.core.pixels import image_to_tensor, mask_to_latent, mask_to_tensor, tensor_to_images
from darkroom.core.rng import Rng, make_rng
from darkroom.engine.plan import Plan, Schedule
from darkroom.families.base import Family, Frame, SampleDefaults
from darkroom.families.latents import LatentFormat
from darkroom.sampling.prediction import Prediction
from darkroom.sampling.schedules import custom_sigmas, default_scheduler, get_sigmas, slice_for_strength


@dataclass(frozen=True)
class Start:
    """Where sampling begins.

    latent: (1, c, h, w), zeros for text-to-image. mask: (1, 1, h, w), 1 where it is drawn anew, or None.
    concat: extra channels (1, c, h, w) for inpainting networks, or None. references: of reference images.
    """

    latent: Tensor
    mask: Tensor | None = None
    concat: Tensor | None = None
    references: tuple[Tensor, ...] = ()

    def map(self, change: Callable[[Tensor], Tensor]) -> Start:
        """The same with every tensor changed, for example moved."""
        mask, concat = (None if t is None else change(t) for t in (self.mask, self.concat))
        return Start(change(self.latent), mask, concat, tuple(change(t) for t in self.references))


def empty_start(plan: Plan, family: Family[Any], inpaints: bool) -> Start:
    """Text-to-image: nothing to start from; an inpainting network is told that all is to be drawn."""
    side = family.latent.downscale
    zeros = torch.zeros(1, family.latent.channels, plan.height // side, plan.width // side)
    everything = torch.ones(1, 1, plan.height, plan.width)
    return Start(zeros, concat=family.inpainting_channels(everything, zeros) if inpaints else None)


def encode_start(vae: nn.Module, plan: Plan, family: Family[Any], rng: RngType, inpaints: bool) -> Start:
    """Image-to-image, inpainting and editing: the images as latents, the mask in latent pixels.

    Draws are stable-diffusion.cpp's: from a generator with the first seed, one for each encoded image.
    """
    latent, draws = family.latent, make_rng(rng, plan.seeds[0])
    start = empty_start(plan, family, inpaints)
    if plan.init_image is not None:
        pixels = image_to_tensor(plan.init_image)
        encoded = _encode(vae, pixels, latent, draws)
        start = Start(encoded)
        mask = torch.ones(1, 1, plan.height, plan.width) if plan.mask is None else mask_to_tensor(plan.mask)
        if inpaints:
            hidden = _encode(vae, pixels * (1 - mask), latent, draws)
            start = replace(start, concat=family.inpainting_channels(mask, hidden))
        if plan.mask is not None:
            kept = mask_to_latent(mask, latent.downscale, grow=inpaints).to(encoded.device)
            start = replace(start, mask=kept)
    sized = (_reference(image, plan, family) for image in plan.encoded_references)
    references = (_encode(vae, image_to_tensor(image), latent, draws) for image in sized)
    return replace(start, references=tuple(references))


TOKEN = 16
"""Pixels on a side that a token of the largest kind covers, for reference images that keep their size."""


def _reference(image: Image, plan: Plan, family: Family[Any]) -> Image:
    """A reference image at the family's size, or with resize_before_vae=off its own, cut to whole tokens."""
    if not plan.reference_args.switch("resize_before_vae", True):
        width, height = (max(1, side // TOKEN) * TOKEN for side in image.size)
        return fit(image, width, height)
    wanted = family.reference_size(*image.size, Frame(plan.width, plan.height))
    return image if wanted == image.size else image.resize(wanted, Resampling.LANCZOS)


def _encode(vae: nn.Module, pixels: Tensor, latent: LatentFormat, draws: Rng) -> Tensor:
    """Pixels (1, 3, H, W) in [-1, 1] as a latent (1, c, h, w), float32."""
    weight = next(vae.parameters())
    mean, logvar = vae.encode(pixels.to(weight.device, weight.dtype))  # type: ignore[operator]
    require_numbers("vae: the encoded picture", mean)
    z = mean.float()
    if latent.sampled:
        z = z + (0.5 * logvar.float()).exp() * draws.randn(tuple(z.shape)).to(z.device)
    return latent.from_vae(z)


def make_schedule(
    plan: Plan, prediction: Prediction, family: Family[Any], defaults: SampleDefaults
) -> Schedule:
    """The schedule of the whole request; image-to-image runs only the end of it.

    Raises RequestError as `get_sigmas` and `custom_sigmas` do, and for levels past pure noise.
    """
    scheduler = plan.scheduler or default_scheduler(plan.method, prediction, plan.usual_scheduler)
    token = family.latent.downscale * defaults.patch  # pixels on a side
    if plan.sigmas is not None:
        sigmas = custom_sigmas(plan.sigmas)
    else:
        sigmas = get_sigmas(
            scheduler,
            plan.steps,
            prediction,
            tokens=(plan.height // token) * (plan.width // token),
            variant=family.name,
            extra=plan.extra,
            shift=defaults.resolution_shift,
        )
    if prediction.is_flow and (highest := sigmas.max().item()) > 1:
        subject, asked = ("--scheduler", scheduler) if plan.sigmas is None else ("--sigmas", "the list")
        raise RequestError(
            f"{subject}: {asked} begins with level {highest:g}, and 1 is pure noise to this model; "
            "levels from 1 to 0 are needed"
        )
    if plan.init_image is not None:
        sigmas = slice_for_strength(sigmas, plan.strength, prediction, plan.extra)
    return Schedule(sigmas, scheduler)


def decode(vae: nn.Module, latent: Tensor, form: LatentFormat) -> Image:
    """The picture of a latent (1, c, h, w).

    Raises DarkroomError when the network's output is no number, which would be a black picture.
    """
    pixels = decoded(vae, latent, form)
    require_numbers("vae: the picture", pixels)
    return tensor_to_images(pixels)[0]


def decoded(vae: nn.Module, latent: Tensor, form: LatentFormat) -> Tensor:
    """The pixels (b, 3, H, W) of latents (b, c, h, w), about in [-1, 1]."""
    weight = next(vae.parameters())
    z = form.to_vae(latent.to(weight.device))
    pixels: Tensor = vae.decode(z.to(weight.dtype))  # type: ignore[operator]
    return pixels


def require_numbers(subject: str, *results: Tensor | None) -> None:
    """Raises DarkroomError when a network gave infinities or what is no number.

    subject: the network and what it gave.
    """
    if not all(torch.isfinite(result).all() for result in results if result is not None):
        raise DarkroomError(
            f"{subject} holds values that are no numbers; the weights may be damaged, "
            "or --compute-type f32 would be exact enough"
        )
