"""Finished pictures as OpenAI's answer: encoded and counted."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from darkroom.api.openai import ImageData, ImagesResponse, Usage
from darkroom.api.openai.responses import Format, Level
from darkroom.api.result import GenerationResult
from darkroom.core.image_files import ImageFormat
from darkroom.core.infotext import read_infotext
from darkroom.server.jobs import Outline
from darkroom.server.pictures import write_picture


@dataclass(frozen=True)
class Wishes:
    """How the pictures of a request are to come back.

    compression: quality of jpeg and webp, percent. partials: previews to stream of each picture.
    text_tokens: of the prompts. with_infotext: whether files hold their `parameters` text.
    """

    format: Format = "png"
    compression: int = 100
    level: Level = "medium"
    who: str | None = None
    text_tokens: int = 0
    partials: int = 0
    with_infotext: bool = True

    def usage(self, outline: Outline, pictures: int, *, with_input: bool = True) -> Usage:
        """What these pictures took; with_input: together with what the request itself holds."""
        return Usage.of(
            text=self.text_tokens if with_input else 0,
            images_in=outline.input_tokens if with_input else 0,
            images_out=outline.tokens * pictures,
        )

    def encode(self, image: Image.Image, infotext: str = "") -> bytes:
        """The picture as a file's bytes; this takes its time."""
        text = infotext if self.with_infotext else ""
        return write_picture(image, ImageFormat(self.format), self.compression, text)


def to_base64(data: bytes) -> str:
    """As JSON carries bytes."""
    return base64.b64encode(data).decode("ascii")


def infotext(result: GenerationResult, index: int) -> str:
    """The `parameters` text of a picture."""
    return result.infotexts[index] if result.infotexts else ""


def images_response(
    result: GenerationResult,
    outline: Outline,
    wishes: Wishes,
    url_of: Callable[[bytes], str] | None,
) -> ImagesResponse:
    """The answer to a request that is not streamed; not for the event loop's thread.

    url_of: keeps a file and tells where it can be had; None puts the files into the answer.
    """
    files = [wishes.encode(image, infotext(result, i)) for i, image in enumerate(result.images)]
    data = [
        ImageData(
            b64_json=to_base64(file) if url_of is None else None,
            url=None if url_of is None else url_of(file),
            seed=result.seeds[i],
            metadata=_metadata(infotext(result, i)),
        )
        for i, file in enumerate(files)
    ]
    return ImagesResponse(
        created=int(time.time()),
        data=data,
        output_format=wishes.format,
        quality=wishes.level,
        safety_identifier=wishes.who,
        size=f"{outline.width}x{outline.height}",
        usage=wishes.usage(outline, len(files)),
    )


def _metadata(text: str) -> dict[str, str] | None:
    return {**read_infotext(text).settings, "parameters": text} if text else None
