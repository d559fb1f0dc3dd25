"""OpenAI's answers: pictures, usage and models. Fields beyond its schema are `seed` and `metadata`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field

Format = Literal["png", "jpeg", "webp"]
"""What a picture is written as."""

Level = Literal["low", "medium", "high", "xhigh", "max"]
"""How much work went into a picture."""


class InputTokens(BaseModel):
    """What the request's tokens were."""

    image_tokens: int = 0
    text_tokens: int = 0


class OutputTokens(BaseModel):
    """What the answer's tokens are."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """Counted work: text tokens of the model's tokenizer, image tokens of the diffusion network."""

    input_tokens: int
    input_tokens_details: InputTokens
    output_tokens: int
    output_tokens_details: OutputTokens
    total_tokens: int

    @classmethod
    def of(cls, *, text: int, images_in: int, images_out: int) -> Usage:
        """The usage of these counts of tokens."""
        return cls(
            input_tokens=text + images_in,
            input_tokens_details=InputTokens(image_tokens=images_in, text_tokens=text),
            output_tokens=images_out,
            output_tokens_details=OutputTokens(image_tokens=images_out),
            total_tokens=text + images_in + images_out,
        )


class ImageData(BaseModel):
    """One picture: its bytes in base64 or where they can be had, its seed and how it was made.

    metadata: the settings as the picture's own `parameters` text names them, and that text.
    """

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None
    seed: int | None = None
    metadata: Mapping[str, str] | None = None


class ImagesResponse(BaseModel):
    """The answer to a request that is not streamed."""

    created: int
    background: Literal["opaque"] = "opaque"
    data: list[ImageData]
    output_format: Format
    quality: Level = "medium"
    safety_identifier: str | None = None
    size: str
    usage: Usage

    def body(self) -> dict[str, object]:
        """As JSON, without what is not set."""
        return self.model_dump(mode="json", exclude_none=True)


class ModelObject(BaseModel):
    """One model of GET /v1/models."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "local"


class ModelList(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelObject] = Field(default_factory=list)
