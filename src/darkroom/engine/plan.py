"""A request with every default filled in and every value checked, before any weight moves."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from PIL.Image import Image
from torch import Tensor

from darkroom.api.errors import RequestError
from darkroom.api.names import SampleMethod, Scheduler
from darkroom.api.request import GenerationRequest
from darkroom.core.images import fit, load_image, load_mask
from darkroom.families.base import SampleDefaults
from darkroom.sampling.extra_args import ExtraArgs, parse_extra_args
from darkroom.sampling.guidance import Guidance
from darkroom.sampling.samplers import NEEDS_UNCOND, default_eta
from darkroom.sampling.schedules import custom_sigmas

logger = logging.getLogger(__name__)

LARGEST_SEED = 2**63 - 1

REF_INDEX_MODES = {"fixed": False, "increase": True}
"""Whether reference images are numbered, by what ref_index_mode says."""

REFERENCE_ARGS = ("pass_to_vlm", "pass_to_dit", "ref_index_mode", "resize_before_vae")
"""What --ref-image-args knows: whether text encoder and network see the images, how the network counts them
(fixed or increase), and whether they are brought to the family's size first."""


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a trajectory (steps + 1,) on the CPU, and the scheduler that stands for them."""

    sigmas: Tensor
    scheduler: Scheduler


@dataclass(frozen=True)
class Plan:
    """What will be drawn.

    seeds: one for each image. scheduler: None leaves the choice to sampler, prediction and `usual_scheduler`.
    sigmas: noise levels given by hand, or None for the schedule's.
    clip_skip: None for models without layers to skip.
    norm_patch: see Guidance. distilled_guidance: what a distilled network is told, or None.
    flow_shift: of the noise levels of flow models, or None for the prediction's own.
    init_image, mask: cut to width x height; the mask is white where the picture is drawn anew.
    references: reference images at their own size. increase_reference_index: see Conditioning.
    schedule: of the whole request; None until a model is at hand.
    """

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    cfg_scale: float
    norm_patch: int
    distilled_guidance: float | None
    flow_shift: float | None
    eta: float
    method: SampleMethod
    scheduler: Scheduler | None
    usual_scheduler: Scheduler
    sigmas: tuple[float, ...] | None
    timestep_shift: int
    extra_sample_args: str
    extra: ExtraArgs
    clip_skip: int | None
    seeds: tuple[int, ...]
    strength: float
    init_image: Image | None
    mask: Image | None
    references: tuple[Image, ...]
    reference_args: ExtraArgs
    increase_reference_index: bool | None
    schedule: Schedule | None = None

    @property
    def shown_references(self) -> tuple[Image, ...]:
        """The reference images for the text encoder's eyes."""
        return self.references if self.reference_args.switch("pass_to_vlm", True) else ()

    @property
    def encoded_references(self) -> tuple[Image, ...]:
        """The reference images that the network sees as latents."""
        return self.references if self.reference_args.switch("pass_to_dit", True) else ()

    @cached_property
    def guidance(self) -> Guidance:
        """How strongly the prompt is followed, and whether the negative prompt is needed at all."""
        needs_uncond = self.method in NEEDS_UNCOND
        return Guidance.parse(
            self.cfg_scale, self.extra, needs_uncond=needs_uncond, norm_patch=self.norm_patch
        )


def make_plan(
    request: GenerationRequest,
    defaults: SampleDefaults,
    check_size: Callable[[int, int], None] | None = None,
    reference_size: Callable[[int, int], tuple[int, int]] | None = None,
) -> Plan:
    """Fills in the family's defaults and opens the images.

    check_size: raises for a width and height that cannot be, before an image is brought to them.
    reference_size: the size at which the family looks at a reference image; None where it looks at none.

    Raises RequestError for a mask without an image, unreadable images and noise levels that are none.
    """
    if request.mask_image is not None and request.init_image is None:
        raise RequestError("--mask: a mask needs the image it belongs to; add --init-img")
    if request.sigmas is not None:
        custom_sigmas(request.sigmas)
    init_image = None if request.init_image is None else load_image(request.init_image, "--init-img")
    mask = None if request.mask_image is None else load_mask(request.mask_image, "--mask")
    args = parse_extra_args(request.ref_image_args, "--ref-image-args", REFERENCE_ARGS)
    references = _references(request, is_looked_at=reference_size is not None)
    fallback = (defaults.width, defaults.height)
    if init_image is not None:
        fallback = init_image.size
    elif references and reference_size is not None:
        fallback = reference_size(*references[0].size)
    width, height = _size(request, defaults, fallback)
    if check_size is not None:
        check_size(width, height)
    method = request.sampling_method or defaults.method
    return Plan(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=width,
        height=height,
        steps=len(request.sigmas) - 1 if request.sigmas else request.steps or defaults.steps,
        cfg_scale=defaults.cfg_scale if request.cfg_scale is None else request.cfg_scale,
        norm_patch=defaults.norm_patch,
        distilled_guidance=_distilled_guidance(request, defaults),
        flow_shift=defaults.flow_shift if request.flow_shift is None else request.flow_shift,
        eta=default_eta(method) if request.eta is None else request.eta,
        method=method,
        scheduler=request.scheduler,
        usual_scheduler=_usual_scheduler(request, defaults),
        sigmas=request.sigmas,
        timestep_shift=request.timestep_shift,
        extra_sample_args=request.extra_sample_args,
        extra=parse_extra_args(request.extra_sample_args),
        clip_skip=_clip_skip(request, defaults),
        seeds=_seeds(request),
        strength=request.strength,
        init_image=None if init_image is None else fit(init_image, width, height),
        mask=None if mask is None else fit(mask, width, height),
        references=references,
        reference_args=args,
        increase_reference_index=args.choice("ref_index_mode", REF_INDEX_MODES),
    )


def _references(request: GenerationRequest, *, is_looked_at: bool) -> tuple[Image, ...]:
    references = tuple(load_image(image, "--ref-image") for image in request.ref_images)
    if references and not is_looked_at:
        logger.warning("--ref-image: this model looks at no reference images; they are ignored")
        return ()
    return references


def _seeds(request: GenerationRequest) -> tuple[int, ...]:
    """One for each image; a negative seed is drawn anew."""
    first = secrets.randbits(31) if request.seed < 0 else request.seed
    if first + request.batch_count > LARGEST_SEED + 1:
        raise RequestError(
            f"--seed: {request.batch_count} images from {first} on pass the largest seed, {LARGEST_SEED}"
        )
    return tuple(first + i for i in range(request.batch_count))


def _distilled_guidance(request: GenerationRequest, defaults: SampleDefaults) -> float | None:
    if defaults.guidance is None and request.guidance is not None:
        logger.warning("--guidance: this model was not distilled with guidance; --cfg-scale guides it")
        return None
    return defaults.guidance if request.guidance is None else request.guidance


def _clip_skip(request: GenerationRequest, defaults: SampleDefaults) -> int | None:
    if request.clip_skip is None or request.clip_skip < 1:
        return defaults.clip_skip
    if defaults.clip_skip is None:
        logger.warning("--clip-skip: this model takes no hidden states of a CLIP; it changes nothing")
        return None
    return request.clip_skip


def _usual_scheduler(request: GenerationRequest, defaults: SampleDefaults) -> Scheduler:
    """The family's, but `discrete` for who asks for a shift: `flux` has its own, of the picture's size."""
    if request.flow_shift is None or defaults.scheduler is not Scheduler.FLUX:
        return defaults.scheduler
    if request.scheduler is Scheduler.FLUX:
        logger.warning("--flow-shift: the flux schedule follows the picture's size; discrete obeys a shift")
    return Scheduler.DISCRETE


def _size(request: GenerationRequest, defaults: SampleDefaults, fallback: tuple[int, int]) -> tuple[int, int]:
    """The request's size, else `fallback`, rounded up to the family's multiple."""
    asked = (request.width or fallback[0], request.height or fallback[1])
    multiple = defaults.size_multiple
    width, height = (-(-side // multiple) * multiple for side in asked)
    if (width, height) != asked:
        logger.warning("size: %dx%d becomes %dx%d, multiples of %d", *asked, width, height, multiple)
    if defaults.longest_side is not None and max(width, height) > defaults.longest_side:
        raise RequestError(
            f"size: {width}x{height} is more than this model can place; "
            f"up to {defaults.longest_side} pixels a side work"
        )
    return width, height
