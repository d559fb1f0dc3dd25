"""The server-sent events of a streamed answer."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from darkroom.api.openai.responses import Format, Level, Usage


class ImageEvent(BaseModel):
    """What both kinds of events have in common.

    image_index: which picture of the request, from 0; this field is not OpenAI's.
    """

    type: str
    b64_json: str
    background: Literal["opaque"] = "opaque"
    created_at: int
    output_format: Format
    quality: Level = "medium"
    size: str
    image_index: int = 0

    def body(self) -> dict[str, object]:
        """As JSON, without what is not set."""
        return self.model_dump(mode="json", exclude_none=True)


class PartialImageEvent(ImageEvent):
    """A preview of a picture that is still being drawn; partial_image_index counts from 0 in each picture."""

    type: Literal["image_generation.partial_image", "image_edit.partial_image"]
    partial_image_index: int


class CompletedEvent(ImageEvent):
    """A finished picture, with its share of the usage."""

    type: Literal["image_generation.completed", "image_edit.completed"]
    usage: Usage
    safety_identifier: str | None = None
    seed: int | None = None
