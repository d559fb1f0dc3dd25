"""Pictures in requests and answers: base64 or bytes in, a file's bytes out."""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings

from PIL import Image, UnidentifiedImageError

from darkroom.api.errors import RequestError
from darkroom.core.image_files import ImageFormat, encode_image
from darkroom.core.images import describe, load_image, load_mask, open_image

MAX_MEGAPIXELS = 64
"""Of a picture on its way in, read from its header before any pixel is."""

_LIMIT = f"{MAX_MEGAPIXELS} megapixels are read"

_MAGIC = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
}
_LINK = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_DATA_URL = re.compile(r"\s*data:([^,]*),", re.IGNORECASE)


def read_picture(data: bytes | str, subject: str, *, mask: bool = False) -> Image.Image:
    """A picture in RGB, upright, transparent parts white; a mask in greys ("L"), transparent parts black.

    data: the file's bytes, or base64 of them with or without `data:...;base64,` before it.
    subject: what messages begin with, such as `init_images[0]`.
    Of an animation the first frame counts; 16 bits a channel become 8.
    Raises RequestError for what is no complete PNG, JPEG or WebP, and above 64 megapixels.
    """
    checked = checked_bytes(data, subject)
    return load_mask(checked, subject) if mask else load_image(checked, subject)


def open_picture(data: bytes | str, subject: str) -> Image.Image:
    """As `read_picture`, but in the file's own mode: for who needs the alpha channel or the metadata."""
    return open_image(checked_bytes(data, subject), subject)


def write_picture(
    image: Image.Image, format: ImageFormat, compression: int = 100, infotext: str = ""
) -> bytes:
    """A finished picture as a file's bytes, with its `parameters` text inside.

    compression: quality of JPEG and WebP from 0 (smallest) to 100; PNG is without loss and ignores it.
    """
    return encode_image(image, format, infotext, quality=compression)


def checked_bytes(data: bytes | str, subject: str) -> bytes:
    """The bytes of a PNG, JPEG or WebP file of at most 64 megapixels; pixels are not decoded yet."""
    content = _decode_base64(data, subject) if isinstance(data, str) else data
    if not any(magic.match(content) for magic in _MAGIC.values()):
        raise RequestError(f"{subject}: the picture is {describe(content)}; expected PNG, JPEG or WebP")
    width, height = _size(content, subject)
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise RequestError(f"{subject}: the picture is {width}x{height}; at most {_LIMIT}")
    return content


def _size(content: bytes, subject: str) -> tuple[int, int]:
    """What the header says."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(content), formats=tuple(_MAGIC)).size
    except Image.DecompressionBombError:
        raise RequestError(f"{subject}: the picture is too large; at most {_LIMIT}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError):
        raise RequestError(
            f"{subject}: the picture is damaged or cut off; expected a complete picture"
        ) from None


def _decode_base64(text: str, subject: str) -> bytes:
    if not text.strip():
        raise RequestError(f"{subject}: empty; expected a picture in base64")
    if _LINK.match(text):
        raise RequestError(f"{subject}: a link is not followed; send the picture itself in base64")
    if url := _DATA_URL.match(text):
        if not url[1].strip().lower().endswith(";base64"):
            raise RequestError(f"{subject}: a data URL without ';base64'; expected data:image/png;base64,...")
        text = text[url.end() :]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{subject}: no base64 ({error}); expected a picture in base64") from None
