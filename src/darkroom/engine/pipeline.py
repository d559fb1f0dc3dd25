"""The stages between a plan and its pictures. Each takes a network that is where it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from PIL.Image import Image
from torch import Tensor, nn

from darkroom.api.errors import DarkroomError
from darkroom.api.names import RngType, Scheduler
from darkroom.core.pixels import image_to_tensor, mask_to_latent, mask_to_tensor, tensor_to_images
from darkroom.core.rng import Rng, make_rng
from darkroom.engine.plan import Plan
from darkroom.families.base import Conditioning, LatentFormat
from darkroom.sampling.guidance import PredictBatch, keep_unmasked, make_denoiser
from darkroom.sampling.noise import NoiseSource
from darkroom.sampling.prediction import Prediction, ShiftedTimesteps
from darkroom.sampling.samplers import SAMPLERS, SampleOptions, Step
from darkroom.sampling.schedules import custom_sigmas, default_scheduler, get_sigmas, slice_for_strength


@dataclass(frozen=True)
class Start:
    """Where sampling begins.

    latent: (1, c, h, w), zeros for text-to-image. mask: (1, 1, h, w), 1 where it is drawn anew, or None.
    concat: extra channels (1, c, h, w) for inpainting networks, or None.
    """

    latent: Tensor
    mask: Tensor | None = None
    concat: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Start:
        """The same with every tensor changed, for example moved."""
        mask, concat = (None if t is None else change(t) for t in (self.mask, self.concat))
        return Start(change(self.latent), mask, concat)


def empty_start(plan: Plan, latent: LatentFormat, inpaints: bool) -> Start:
    """Text-to-image: nothing to start from; an inpainting network is told that all is to be drawn."""
    height, width = plan.height // latent.downscale, plan.width // latent.downscale
    zeros = torch.zeros(1, latent.channels, height, width)
    concat = torch.cat((torch.ones(1, 1, height, width), zeros), dim=1) if inpaints else None
    return Start(zeros, concat=concat)


def encode_start(vae: nn.Module, plan: Plan, latent: LatentFormat, rng: RngType, inpaints: bool) -> Start:
    """Image-to-image and inpainting: the image as a latent, the mask in latent pixels.

    Draws are stable-diffusion.cpp's: from a generator with the first seed, one for each encoded image.
    """
    assert plan.init_image is not None, "the caller has an image to start from"
    draws = make_rng(rng, plan.seeds[0])
    pixels = image_to_tensor(plan.init_image)
    encoded = _encode(vae, pixels, latent, draws)
    mask = torch.ones(1, 1, plan.height, plan.width) if plan.mask is None else mask_to_tensor(plan.mask)
    latent_mask = mask_to_latent(mask, latent.downscale)
    concat = None
    if inpaints:
        hidden = _encode(vae, pixels * (1 - mask), latent, draws)
        concat = torch.cat((latent_mask.to(hidden.device), hidden), dim=1)
    if plan.mask is None:
        return Start(encoded, concat=concat)
    return Start(encoded, mask_to_latent(mask, latent.downscale, grow=inpaints).to(encoded.device), concat)


def _encode(vae: nn.Module, pixels: Tensor, latent: LatentFormat, draws: Rng) -> Tensor:
    """Pixels (1, 3, H, W) in [-1, 1] as a sampled latent (1, c, h, w), float32."""
    weight = next(vae.parameters())
    mean, logvar = vae.encode(pixels.to(weight.device, weight.dtype))  # type: ignore[operator]
    mean, deviation = mean.float(), (0.5 * logvar.float()).exp()
    sampled: Tensor = mean + deviation * draws.randn(tuple(mean.shape)).to(mean.device)
    return latent.from_vae(sampled)


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a trajectory (steps + 1,) on the CPU, and the scheduler that stands for them."""

    sigmas: Tensor
    scheduler: Scheduler


def make_schedule(
    plan: Plan, prediction: Prediction, default: Scheduler, variant: str, tokens: int
) -> Schedule:
    """The schedule of the whole request; image-to-image runs only the end of it.

    default: the family's scheduler. variant: the family, for schedules made for one. tokens: latent pixels.
    """
    scheduler = plan.scheduler or default_scheduler(plan.method, prediction, default)
    if plan.sigmas is not None:
        sigmas = custom_sigmas(plan.sigmas)
    else:
        sigmas = get_sigmas(
            scheduler, plan.steps, prediction, tokens=tokens, variant=variant, extra=plan.extra
        )
    if plan.init_image is not None:
        sigmas = slice_for_strength(sigmas, plan.strength, prediction, plan.extra)
    return Schedule(sigmas, scheduler)


def sample(
    predict: PredictBatch[Conditioning],
    plan: Plan,
    prediction: Prediction,
    sigmas: Tensor,
    start: Start,
    cond: Conditioning,
    uncond: Conditioning | None,
    noise: NoiseSource,
) -> Iterator[Step]:
    """The steps of one picture; the last one's x is its latent (1, c, h, w).

    Raises DarkroomError when the network's output is no longer a number.
    """
    if plan.timestep_shift:
        prediction = ShiftedTimesteps(prediction, plan.timestep_shift)
    denoise = make_denoiser(predict, prediction, cond, uncond, plan.guidance, sigmas)
    if start.mask is not None:
        denoise = keep_unmasked(denoise, start.mask, start.latent)
    levels = sigmas.tolist()
    first = noise.initial(tuple(start.latent.shape[1:])).to(start.latent.device)
    x = prediction.add_noise(start.latent, first, levels[0])
    options = SampleOptions(eta=plan.eta, is_flow=prediction.is_flow, extra=plan.extra)
    for step in SAMPLERS[plan.method](denoise, x, sigmas, noise, options):
        if step.index < step.steps:
            yield step
            continue
        x = prediction.finish(step.x, levels[-1])
        if not torch.isfinite(x).all():
            raise DarkroomError(
                "diffusion: the latent holds values that are no numbers; the weights may be damaged, "
                "or --compute-type f32 would be exact enough"
            )
        yield replace(step, x=x)


def decode(vae: nn.Module, latent: Tensor, form: LatentFormat) -> Image:
    """The picture of a latent (1, c, h, w).

    Raises DarkroomError when the network's output is no number, which would be a black picture.
    """
    weight = next(vae.parameters())
    z = form.to_vae(latent.to(weight.device))
    pixels = vae.decode(z.to(weight.dtype))  # type: ignore[operator]
    if not torch.isfinite(pixels).all():
        raise DarkroomError(
            "vae: the picture holds values that are no numbers; the weights may be damaged, "
            "or --compute-type f32 would be exact enough"
        )
    return tensor_to_images(pixels)[0]
