"""OpenAI's Images API as data: what sd-server and the manager's gateway share. Knows no HTTP and no torch."""

from darkroom.api.openai.errors import ErrorCode, ErrorObject, ErrorType, FieldError
from darkroom.api.openai.events import CompletedEvent, PartialImageEvent
from darkroom.api.openai.parse import Parsed, parse
from darkroom.api.openai.requests import (
    ImageEditRequest,
    ImageGenerateRequest,
    ImageReference,
    ImageRequest,
    ImageVariationRequest,
    OutputFormat,
    Quality,
    parse_size,
)
from darkroom.api.openai.responses import ImageData, ImagesResponse, ModelList, ModelObject, Usage
from darkroom.api.openai.translate import ModelFacts, to_generation

__all__ = [
    "CompletedEvent",
    "ErrorCode",
    "ErrorObject",
    "ErrorType",
    "FieldError",
    "ImageData",
    "ImageEditRequest",
    "ImageGenerateRequest",
    "ImageReference",
    "ImageRequest",
    "ImageVariationRequest",
    "ImagesResponse",
    "ModelFacts",
    "ModelList",
    "ModelObject",
    "OutputFormat",
    "Parsed",
    "PartialImageEvent",
    "Quality",
    "Usage",
    "parse",
    "parse_size",
    "to_generation",
]
