"""OpenAI's image requests, as openai-python 3.54's parameter types name their fields."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from darkroom.api.openai.extensions import Extensions
from darkroom.api.openai.responses import Format, Level

MOST_IMAGES = 10
MOST_INPUTS = 16
MOST_PARTIALS = 3
LONGEST_PROMPT = 32_000

_SIZE = re.compile(r"(\d{1,5})[xX×](\d{1,5})")


class Quality(StrEnum):
    """How much work goes into a picture; `standard` and `hd` are DALL-E's words."""

    AUTO = "auto"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"
    MAX = "max"
    STANDARD = "standard"
    HD = "hd"

    @property
    def level(self) -> Level:
        """One of low to max, which is what answers may say."""
        return _LEVELS[self]

    def steps(self, usual: int) -> int:
        """Denoising steps where the model's own number is `usual`."""
        return max(1, round(usual * SHARE_OF_STEPS[self.level]))


_LEVELS: dict[Quality, Level] = {
    Quality.AUTO: "medium",
    Quality.LOW: "low",
    Quality.MEDIUM: "medium",
    Quality.HIGH: "high",
    Quality.XHIGH: "xhigh",
    Quality.MAX: "max",
    Quality.STANDARD: "medium",
    Quality.HD: "high",
}

SHARE_OF_STEPS: dict[Level, float] = {"low": 0.5, "medium": 1.0, "high": 1.5, "xhigh": 2.0, "max": 3.0}
"""Of the model's usual number of steps."""


class OutputFormat(StrEnum):
    """What OpenAI can answer with; `gif` and `svg` are refused here."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    GIF = "gif"
    SVG = "svg"


def _format(value: Any) -> Any:  # noqa: ANN401
    return "jpeg" if value == "jpg" else value


class ImageReference(BaseModel):
    """One picture of a JSON edit: its data URL, or where it is."""

    image_url: str | None = None
    file_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain_or_nested(cls, value: Any) -> Any:  # noqa: ANN401
        """A bare string is its image_url, and so is chat's `{"image_url": {"url": ...}}`."""
        if isinstance(value, str):
            return {"image_url": value}
        if isinstance(value, dict) and isinstance(value.get("image_url"), dict):
            return {**value, "image_url": value["image_url"].get("url")}
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> ImageReference:
        if bool(self.image_url) == bool(self.file_id):
            raise ValueError("exactly one of image_url and file_id is needed")
        return self


class ImageRequest(Extensions):
    """What all image requests have in common. `None` and an empty string are unset."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    model: str | None = Field(None, description="the model's name")
    n: Annotated[int | None, Field(ge=1, le=MOST_IMAGES)] = Field(None, description="number of images")
    size: str | None = Field(None, description="`auto`, or width and height such as `1024x768`")
    response_format: Literal["url", "b64_json"] | None = Field(
        None, description="how pictures come back; b64_json by default"
    )
    user: str | None = Field(None, description="who asks; deprecated for safety_identifier")
    safety_identifier: str | None = Field(None, description="who asks")
    strict: bool | None = Field(None, description="refuse fields that this server does not know")
    lora: Any = Field(None, description="refused: this engine has no LoRA yet")

    @property
    def count(self) -> int:
        """How many pictures are to be drawn."""
        return self.n or 1

    @property
    def who(self) -> str | None:
        """The effective safety identifier."""
        return self.safety_identifier or self.user


class DrawRequest(ImageRequest):
    """What generations and edits have in common."""

    prompt: str = Field(min_length=1, max_length=LONGEST_PROMPT, description="what the picture shows")
    quality: Quality | None = Field(None, description="share of the model's usual number of steps")
    background: Literal["transparent", "opaque", "auto"] | None = Field(
        None, description="`transparent` is refused: the models draw opaque pictures"
    )
    output_format: Annotated[OutputFormat, BeforeValidator(_format)] | None = Field(
        None, description="file format, png by default; gif and svg are refused"
    )
    output_compression: int | None = Field(
        None, ge=0, le=100, description="quality of jpeg and webp, percent"
    )
    stream: bool | None = Field(None, description="answer with server-sent events")
    partial_images: int | None = Field(
        None, ge=0, le=MOST_PARTIALS, description="previews to send of each picture of a stream"
    )
    moderation: Literal["low", "auto"] | None = Field(None, description="accepted; nothing is moderated")
    complexity: Literal["low", "medium", "high"] | None = Field(
        None, description="accepted; these models do not plan"
    )
    frame_count: int | None = Field(None, description="refused: for gif only")
    frame_duration_ms: int | None = Field(None, description="refused: for gif only")
    svg: Any = Field(None, description="refused: for svg only")

    @property
    def written(self) -> Format:
        """The format that pictures are written in. `parse` has refused all others."""
        match self.output_format:
            case OutputFormat.JPEG:
                return "jpeg"
            case OutputFormat.WEBP:
                return "webp"
            case _:
                return "png"


class ImageGenerateRequest(DrawRequest):
    """POST /v1/images/generations."""

    style: Literal["vivid", "natural"] | None = Field(None, description="accepted; say it in the prompt")


class ImageEditRequest(DrawRequest):
    """POST /v1/images/edits. A multipart body carries its pictures as files instead of as references."""

    input_images: tuple[ImageReference, ...] = Field(
        (), max_length=MOST_INPUTS, validation_alias=AliasChoices("images", "image")
    )
    mask: ImageReference | None = None
    markup: ImageReference | None = None
    input_fidelity: Literal["high", "low"] | None = Field(
        None, description="how near image-to-image stays to the first picture"
    )

    @model_validator(mode="before")
    @classmethod
    def _single_image(cls, values: Any) -> Any:  # noqa: ANN401
        """One picture need not be a list."""
        if isinstance(values, dict) and isinstance(values.get("image"), str | dict):
            return {**values, "image": [values["image"]]}
        return values


class ImageVariationRequest(ImageRequest):
    """POST /v1/images/variations, which OpenAI has retired."""


def parse_size(size: str | None) -> tuple[int, int] | None:
    """Width and height of a request's `size`; None for `auto`. Raises ValueError."""
    if size is None or size.lower() == "auto":
        return None
    found = _SIZE.fullmatch(size.strip())
    if found is None:
        raise ValueError(size)
    return int(found[1]), int(found[2])
