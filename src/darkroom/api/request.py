"""What one picture is asked with. `None` means the family's default, which `Engine.plan` fills in."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from PIL.Image import Image
from pydantic import BaseModel, ConfigDict

from darkroom.api.names import PreviewMode, SampleMethod, Scheduler
from darkroom.api.options import opt

ImageSource = Path | bytes | Image
"""A picture on its way in: a file, the bytes of one, or an already decoded image."""

LARGEST_SCALE = 1_000_000
"""Of guidance, noise and shift: far above what makes a picture, far below where float32 ends."""


class TileSize(NamedTuple):
    """Width and height of a tile in latent pixels; below 4 they are 32."""

    x: int = 32
    y: int = 32


class RelativeTileSize(NamedTuple):
    """Width and height of a tile as a share of the picture, above 1 the number of tiles; 0 says nothing."""

    x: float = 0.0
    y: float = 0.0


class GenerationRequest(BaseModel):
    """One request for `batch_count` pictures, stable-diffusion.cpp's "Generation Options"."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    prompt: str = opt(
        "", "the prompt to render", "-p", "--prompt", metavar="TEXT", file_names=("--prompt-file",)
    )
    negative_prompt: str = opt(
        "",
        "the negative prompt",
        "-n",
        "--negative-prompt",
        metavar="TEXT",
        file_names=("--negative-prompt-file",),
    )
    init_image: ImageSource | None = opt(
        None, "image to start from (image-to-image)", "-i", "--init-img", metavar="PATH"
    )
    mask_image: ImageSource | None = opt(
        None, "inpainting mask: white is drawn anew", "--mask", metavar="PATH"
    )
    ref_images: tuple[ImageSource, ...] = opt(
        (),
        "reference image of an edit model; give it once for each image",
        "-r",
        "--ref-image",
        metavar="PATH",
        append=True,
    )
    ref_image_args: str = opt(
        "",
        "more options of reference images, key=value, comma-separated",
        "--ref-image-args",
        metavar="LIST",
        concat=True,
    )
    width: int | None = opt(
        None, "image width (default: the init image's, else the model's)", "-W", "--width", metavar="PX", gt=0
    )
    height: int | None = opt(
        None,
        "image height (default: the init image's, else the model's)",
        "-H",
        "--height",
        metavar="PX",
        gt=0,
    )
    steps: int | None = opt(
        None,
        "number of sampling steps (default: the model's, usually 20)",
        "--steps",
        metavar="N",
        gt=0,
        le=10_000,
    )
    cfg_scale: float | None = opt(
        None,
        "classifier-free guidance scale (default: the model's, usually 7)",
        "--cfg-scale",
        metavar="SCALE",
        ge=0,
        le=LARGEST_SCALE,
        allow_inf_nan=False,
    )
    guidance: float | None = opt(
        None,
        "guidance that a distilled network is told, such as Flux dev's 3.5 (default: the model's)",
        "--guidance",
        metavar="SCALE",
        ge=0,
        le=LARGEST_SCALE,
        allow_inf_nan=False,
    )
    eta: float | None = opt(
        None,
        "noise multiplier of ancestral samplers (default: the sampler's)",
        "--eta",
        metavar="ETA",
        ge=0,
        le=LARGEST_SCALE,
        allow_inf_nan=False,
    )
    sampling_method: SampleMethod | None = opt(
        None,
        "sampling method (default: the model's)",
        "--sampling-method",
        metavar="METHOD",
        label="sample method",
    )
    scheduler: Scheduler | None = opt(
        None,
        "schedule of noise levels (default: the model's)",
        "--scheduler",
        metavar="SCHEDULER",
        label="scheduler",
    )
    sigmas: tuple[float, ...] | None = opt(
        None,
        "the noise levels themselves, comma-separated, instead of a schedule",
        "--sigmas",
        metavar="LIST",
        min_length=2,
    )
    flow_shift: float | None = opt(
        None,
        "shift of the noise levels of flow models (default: the model's)",
        "--flow-shift",
        metavar="SHIFT",
        ge=0,
        le=LARGEST_SCALE,
        allow_inf_nan=False,
    )
    timestep_shift: int = opt(
        0,
        "shift of the timestep for NitroFusion models (0 to 1000)",
        "--timestep-shift",
        metavar="N",
        ge=0,
        le=1000,
    )
    extra_sample_args: str = opt(
        "",
        "more sampler options, key=value, comma-separated",
        "--extra-sample-args",
        metavar="LIST",
        concat=True,
    )
    strength: float = opt(
        0.75, "how far image-to-image departs from the init image", "--strength", metavar="S", ge=0, le=1
    )
    clip_skip: int | None = opt(
        None,
        "ignore the last layers of CLIP; 1 ignores none (default: the model's)",
        "--clip-skip",
        metavar="N",
    )
    seed: int = opt(
        42,
        "seed of the first image; a negative one is drawn at random",
        "-s",
        "--seed",
        metavar="SEED",
        ge=-(2**63),
        lt=2**63,
    )
    batch_count: int = opt(1, "number of images", "-b", "--batch-count", metavar="N", gt=0, le=10_000)
    preview: PreviewMode = opt(
        PreviewMode.NONE,
        "how the picture is shown while it is drawn: none, proj (small), tae (with --taesd) or vae (slow)",
        "--preview",
        metavar="MODE",
        label="preview method",
    )
    preview_interval: int = opt(
        1, "steps from one preview to the next", "--preview-interval", metavar="N", gt=0, le=10_000
    )
    preview_noisy: bool = opt(
        False,
        "previews show the picture with its noise instead of what the model takes it for",
        "--preview-noisy",
    )
    vae_tiling: bool = opt(
        False,
        "run the VAE tile by tile, which takes less memory and more time for the same picture "
        "(default: where memory is short)",
        "--vae-tiling",
    )
    vae_tile_size: TileSize = opt(
        TileSize(),
        "size of a tile in latent pixels, XxY or one number (default: 32x32)",
        "--vae-tile-size",
        metavar="XxY",
    )
    vae_relative_tile_size: RelativeTileSize = opt(
        RelativeTileSize(),
        "the same as a share of the picture, or above 1 as the number of tiles, X or XxY "
        "(default: --vae-tile-size counts)",
        "--vae-relative-tile-size",
        metavar="XxY",
    )
    vae_tile_overlap: float = opt(
        0.5,
        "accepted; tiles fit without overlap",
        "--vae-tile-overlap",
        metavar="SHARE",
        allow_inf_nan=False,
    )
