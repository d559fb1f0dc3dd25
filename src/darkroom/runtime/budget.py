"""How much memory a picture takes, before any is asked for, and which weights a device can hold besides."""

from __future__ import annotations

from collections.abc import Sequence

from darkroom.api.errors import RequestError

DECODER_WIDTHS = 2.5
"""Copies of the decoder's widest full-size layer that live together: input, normalised, half an output."""

UNET_WIDTHS = 20
"""The same for the UNet's first level: its feed-forward takes 16 widths, skips and residuals the others."""

TRANSFORMER_CHANNELS = 800
"""Of a UNet that holds as much as the diffusion transformers do: Flux 0.57 GB at 1024x1024 in bf16, Z-Image
0.52, with guidance Qwen-Image 0.81 and SD3.5 0.84, in tensors counted on the meta device.
"""

ENCODER_BYTES = 2**27
"""Activations of a text encoder: those of T5-XXL and Qwen2.5-VL for 512 tokens are about half of it."""

BUFFERS = 2
"""Blocks that come and go have room for so many at a time: one that runs, one that is being brought."""

STEPS = 512
"""Rates that are tried between nothing and the largest block with each call."""


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


def blocks_to_stream(sizes: Sequence[int], room: int) -> tuple[int, ...]:
    """Numbers of the blocks to bring one by one, so that the others fit into `room` bytes with two buffers.

    As few bytes as possible, and in step with the network: blocks of any size take about as long to run, so
    the bytes are spread evenly over the calls, and a block is brought while those before it run. All of them
    where not even that fits.

    sizes: bytes of each block in the order of their calls.
    """
    if sum(sizes) <= room:
        return ()
    largest = max(sizes)
    for share in range(1, STEPS):
        streamed = _spread(sizes, largest * share / STEPS)
        if streamed and resident_bytes(sizes, streamed) <= room:
            return streamed
    return tuple(range(len(sizes)))


def evenly(count: int, staying: int) -> tuple[int, ...]:
    """Numbers of the blocks to bring one by one so that `staying` of `count` stay, the others spread evenly.

    None if no more are left than have room in the buffers.
    """
    moving = count - staying if count - staying > BUFFERS else 0
    return tuple(i for i in range(count) if (i + 1) * moving // count > i * moving // count)


def resident_bytes(sizes: Sequence[int], streamed: Sequence[int]) -> int:
    """Bytes on the device while those numbered in `streamed` come and go: the others, and the buffers."""
    buffers = BUFFERS * max((sizes[i] for i in streamed), default=0)
    return sum(sizes) - sum(sizes[i] for i in streamed) + buffers


def _spread(sizes: Sequence[int], rate: float) -> tuple[int, ...]:
    """The blocks that are due when `rate` bytes can be brought while one block runs."""
    streamed, brought = [], 0.0
    for number, size in enumerate(sizes):
        brought += rate
        if brought >= size:
            streamed.append(number)
            brought -= size
    return tuple(streamed)


def format_bytes(count: int) -> str:
    """A number of bytes for people, in powers of ten: 1.7 GB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
