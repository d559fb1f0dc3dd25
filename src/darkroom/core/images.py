"""Pictures on their way in: opened, refused by name, cut to the size that is asked for. No torch."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from darkroom.api.errors import RequestError
from darkroom.api.request import ImageSource

READABLE = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "TGA", "PPM")
"""Formats that are opened. Others of Pillow's are left out: some start programs, few are pictures."""

_NOT_IMAGES = (
    (b"<!doctype html", "an HTML page, perhaps from a failed download"),
    (b"<html", "an HTML page, perhaps from a failed download"),
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
    (b"%pdf", "a PDF document"),
    (b"pk\x03\x04", "a zip archive"),
    (b"gguf", "a GGUF model"),
    (b"{", "a JSON text"),
)


def load_image(source: ImageSource, subject: str) -> Image.Image:
    """The picture, upright, in RGB; transparent parts become white.

    subject: what messages begin with, such as `--init-img`.
    Raises RequestError that says what the file is when it is not a readable picture.
    """
    image = open_image(source, subject)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert("RGB")


def load_mask(source: ImageSource, subject: str) -> Image.Image:
    """The mask in greys ("L"), white where the picture is drawn anew; transparent parts become black."""
    image = open_image(source, subject)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba)
    return image.convert("L")


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture ("RGB" or "L") at width x height: cut from the middle to the aspect, resized by area."""
    if image.size == (width, height):
        return image
    # numpy waits until it is needed: a file that is no picture is named at once
    import numpy as np

    from darkroom.core.resize import resize_by_area

    left, top, right, bottom = _middle(image.size, width, height)
    cut = np.asarray(image)[top:bottom, left:right]
    return Image.fromarray(resize_by_area(cut, width, height), image.mode)


def _middle(size: tuple[int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """The largest centred box with the aspect of width x height: left, top, right, bottom."""
    w, h = size
    if w * height > h * width:
        cut = max(1, h * width // height)
        return (w - cut) // 2, 0, (w - cut) // 2 + cut, h
    cut = max(1, w * height // width)
    return 0, (h - cut) // 2, w, (h - cut) // 2 + cut


def open_image(source: ImageSource, subject: str) -> Image.Image:
    """The picture, decoded and upright, in the file's own mode; 16 bits a channel become 8.

    Raises RequestError that says what the file is when it is not a readable picture.
    """
    if isinstance(source, Image.Image):
        if 0 in source.size:
            raise RequestError(f"{subject}: the picture is {source.width}x{source.height}; it has no pixels")
        return source
    name, data = _read(source, subject)
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=READABLE)
        image.load()
    except UnidentifiedImageError:
        raise RequestError(
            f"{subject}: {name} is {describe(data)}; expected a PNG, JPEG or WebP picture"
        ) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise RequestError(f"{subject}: {name} is too large; at most {limit} megapixels are read") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise RequestError(
            f"{subject}: {name} is damaged or cut off ({error}); expected a complete picture"
        ) from None
    if image.mode.startswith("I;16"):  # Pillow's own conversion to 8 bits would clip instead of scale
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, TypeError, ValueError, KeyError, struct.error):  # a broken note on a sound picture
        return image


def _read(source: Path | bytes, subject: str) -> tuple[str, bytes]:
    """What to call the picture in messages, and its bytes."""
    if isinstance(source, bytes):
        return "the picture", source
    name = f"'{source}'"
    try:
        if source.is_char_device():  # /dev/zero never ends
            raise RequestError(f"{subject}: {name} is a device; expected the path of a picture")
        return name, source.read_bytes()
    except FileNotFoundError:
        raise RequestError(f"{subject}: {name} does not exist; expected the path of a picture") from None
    except IsADirectoryError:
        raise RequestError(f"{subject}: {name} is a folder; expected the path of a picture") from None
    except OSError as error:
        raise RequestError(f"{subject}: {name} cannot be read ({error.strerror})") from None
    except ValueError as error:  # a path with a null character
        raise RequestError(f"{subject}: {name!r} is no path ({error})") from None


def describe(data: bytes) -> str:
    """What bytes are that are no picture."""
    if not data:
        return "empty (0 bytes)"
    head = data[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, what in _NOT_IMAGES:
        if head.startswith(start):
            return what
    return f"no picture that can be read (it begins with {data[:8].hex(' ')})"
