"""How much memory a picture takes, before any is asked for."""

from __future__ import annotations

from darkroom.api.errors import RequestError

DECODER_WIDTHS = 2.5
"""Copies of the decoder's widest full-size layer that live together: input, normalised, half an output."""

UNET_WIDTHS = 20
"""The same for the UNet's first level: its feed-forward takes 16 widths, skips and residuals the others."""


def estimate_activation_bytes(
    width: int,
    height: int,
    *,
    itemsize: int,
    batch: int = 1,
    decoder_channels: int = 256,
    unet_channels: int = 320,
    downscale: int = 8,
) -> int:
    """Bytes that the largest set of activations takes, weights not counted; rather too few than many.

    width, height: of the picture in pixels. itemsize: bytes of a number of the compute type.
    batch: latents in one call of the UNet, 2 with guidance; the decoder draws one picture at a time.
    decoder_channels: of the KL decoder's widest layer at full size. unet_channels: of the UNet's first level.
    """
    pixels = width * height
    decoder = DECODER_WIDTHS * decoder_channels * pixels
    unet = batch * UNET_WIDTHS * unet_channels * pixels // downscale**2
    return int(max(decoder, unet) * itemsize)


def check_size(width: int, height: int, needed: int, total: int, device: str) -> None:
    """Raises RequestError when `needed` bytes are more than the `total` that `device` has."""
    if total and needed > total:
        raise RequestError(
            f"size: {width}x{height} needs about {format_bytes(needed)} of memory, "
            f"{device} has {format_bytes(total)}; a smaller --width or --height fits"
        )


def format_bytes(count: int) -> str:
    """A number of bytes for people, in powers of ten: 1.7 GB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
