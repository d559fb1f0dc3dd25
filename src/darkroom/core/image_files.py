"""Finished pictures as the bytes of a file, with the `parameters` text inside."""

from __future__ import annotations

import io
import logging
from enum import StrEnum
from pathlib import Path

from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngInfo

logger = logging.getLogger(__name__)

QUALITY = 90
"""Of JPEG and WebP, as in stable-diffusion.cpp."""

UNICODE_COMMENT = b"UNICODE\0"
"""How an EXIF UserComment in UTF-16 begins."""


class ImageFormat(StrEnum):
    """What a picture can be written as."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @classmethod
    def of(cls, path: Path | str) -> ImageFormat | None:
        """The format that the ending of a name stands for."""
        return _ENDINGS.get(Path(path).suffix.lower())


_ENDINGS = {
    ".png": ImageFormat.PNG,
    ".jpg": ImageFormat.JPEG,
    ".jpeg": ImageFormat.JPEG,
    ".jpe": ImageFormat.JPEG,
    ".webp": ImageFormat.WEBP,
}


def encode_image(
    image: Image.Image, format: ImageFormat, infotext: str = "", *, quality: int = QUALITY
) -> bytes:
    """The picture as a file's bytes; an empty infotext leaves no metadata.

    quality: of JPEG and WebP, from 0 to 100.

    The text goes where A1111 writes and reads it: PNG text chunk `parameters` (iTXt where ASCII does not
    suffice), EXIF UserComment in UTF-16 for JPEG and WebP.
    """
    buffer = io.BytesIO()
    if format is ImageFormat.PNG:
        chunks = PngInfo()
        if infotext and infotext.isascii():
            chunks.add_text("parameters", infotext)
        elif infotext:  # readers disagree on whether a text chunk is Latin-1 or UTF-8
            chunks.add_itxt("parameters", infotext)
        image.save(buffer, "PNG", pnginfo=chunks)
        return buffer.getvalue()
    exif = _exif(infotext)
    if format is ImageFormat.JPEG and len(exif) > 0xFFFF - 2:
        logger.warning("metadata: the parameters text is too long for a JPEG and is left out; use PNG")
        exif = b""
    image.save(buffer, format.upper(), quality=quality, exif=exif)
    return buffer.getvalue()


def _exif(infotext: str) -> bytes:
    if not infotext:
        return b""
    exif = Image.Exif()
    exif.endian = ">"
    comment = UNICODE_COMMENT + infotext.encode("utf-16-be", "replace")
    exif.get_ifd(IFD.Exif)[Base.UserComment] = comment
    return exif.tobytes()
