"""OpenAI's requests in the words of sd-server's native API, which every engine understands."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from darkroom.api.openai import ErrorCode, FieldError, ImageEditRequest, ImageRequest, ImageVariationRequest
from darkroom.api.openai.requests import DrawRequest, Quality, parse_size
from darkroom.api.openai.translate import FAITHFUL_STRENGTH, VARIATION_STRENGTH

_SAMPLE = {
    "steps": "sample_steps",
    "eta": "eta",
    "sampling_method": "sample_method",
    "scheduler": "scheduler",
    "sigmas": "custom_sigmas",
    "flow_shift": "flow_shift",
    "timestep_shift": "shifted_timestep",
    "extra_sample_args": "extra_sample_args",
}
_GUIDANCE = {"cfg_scale": "txt_cfg", "guidance": "distilled_guidance"}
_TOP = ("seed", "negative_prompt", "strength", "clip_skip")


@dataclass(frozen=True)
class Pictures:
    """A request's pictures as files' bytes."""

    images: tuple[bytes, ...] = ()
    mask: bytes | None = None
    markup: bytes | None = None


def to_native(
    request: ImageRequest,
    pictures: Pictures,
    *,
    default_steps: int | None,
    takes_references: bool,
) -> dict[str, Any]:
    """The body for `POST /sdcpp/v1/img_gen`.

    default_steps: what the model takes when nothing is said; None where it is not known.
    takes_references: the model edits by looking at pictures; others draw over the first one.
    Errors: FieldError.
    """
    body: dict[str, Any] = {"prompt": "", "batch_count": request.n or 1, "seed": -1}
    sample: dict[str, Any] = {}
    if isinstance(request, DrawRequest):
        body["prompt"] = request.prompt
        body["output_format"] = request.written
        body["output_compression"] = 100 if request.output_compression is None else request.output_compression
        if request.quality and request.quality.level != Quality.MEDIUM.value:
            sample["sample_steps"] = request.quality.steps(_known_steps(default_steps))
    _add_settings(body, sample, request.settings())
    if sample:
        body["sample_params"] = sample
    _add_pictures(body, request, pictures, takes_references)
    if size := parse_size(request.size):
        body["width"], body["height"] = size
    return body


def _known_steps(steps: int | None) -> int:
    if steps is None:
        raise FieldError("quality", "this engine does not tell its number of steps; give steps instead")
    return steps


def _add_settings(body: dict[str, Any], sample: dict[str, Any], settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if name in _SAMPLE:
            sample[_SAMPLE[name]] = list(value) if isinstance(value, tuple) else value
        elif name in _GUIDANCE:
            sample.setdefault("guidance", {})[_GUIDANCE[name]] = value
        elif name in _TOP:
            body[name] = value
        elif name == "vae_tiling":
            body["vae_tiling_params"] = {"enabled": value}
        else:
            raise FieldError(name, "cannot be given here", ErrorCode.UNSUPPORTED_PARAMETER)


def _add_pictures(
    body: dict[str, Any], request: ImageRequest, pictures: Pictures, takes_references: bool
) -> None:
    if not isinstance(request, ImageEditRequest | ImageVariationRequest):
        return
    if not pictures.images:
        raise FieldError("image", "is needed and missing", ErrorCode.MISSING_PARAMETER)
    if pictures.mask and pictures.markup:
        raise FieldError("markup", "cannot go together with a mask")
    first = open_picture(pictures.images[0], "image")
    if pictures.markup:
        drawn = open_picture(pictures.markup, "markup").convert("RGBA")
        _require_size("markup", drawn, first)
        first = Image.alpha_composite(first.convert("RGBA"), drawn)
    encoded = [_png(first), *(base64.b64encode(data).decode() for data in pictures.images[1:])]
    body["width"], body["height"] = first.size
    if isinstance(request, ImageEditRequest) and takes_references and not pictures.mask:
        body["ref_images"] = encoded
        return
    body["init_image"] = encoded[0]
    if len(encoded) > 1:
        body["ref_images"] = encoded[1:]
    if pictures.mask:
        mask = _mask(open_picture(pictures.mask, "mask"))
        _require_size("mask", mask, first)
        body["mask_image"] = _png(mask)
    if isinstance(request, ImageVariationRequest):
        body.setdefault("strength", VARIATION_STRENGTH)
    elif isinstance(request, ImageEditRequest) and request.input_fidelity == "high":
        body.setdefault("strength", FAITHFUL_STRENGTH)


def open_picture(data: bytes, subject: str) -> Image.Image:
    """The picture, decoded and upright. Errors: FieldError."""
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
        return ImageOps.exif_transpose(picture)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise FieldError(
            subject, "not a whole PNG, JPEG or WebP picture; send one", ErrorCode.INVALID_IMAGE
        ) from None


def _mask(picture: Image.Image) -> Image.Image:
    """White where the picture is drawn anew: where OpenAI's mask is transparent."""
    if not picture.has_transparency_data:
        return picture.convert("L")
    return ImageOps.invert(picture.convert("RGBA").getchannel("A"))


def _require_size(name: str, picture: Image.Image, first: Image.Image) -> None:
    if picture.size != first.size:
        raise FieldError(
            name,
            f"{picture.width}x{picture.height}; expected the image's size, {first.width}x{first.height}",
            ErrorCode.INVALID_MASK,
        )


def _png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
