"""From OpenAI's requests to the engine's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from darkroom.api.openai.errors import FieldError
from darkroom.api.openai.parse import field_error
from darkroom.api.openai.requests import (
    DrawRequest,
    ImageEditRequest,
    ImageRequest,
    ImageVariationRequest,
    Quality,
    parse_size,
)
from darkroom.api.request import GenerationRequest

VARIATION_STRENGTH = 0.4
"""How far a variation departs from its picture."""

FAITHFUL_STRENGTH = 0.5
"""Strength of image-to-image with input_fidelity=high; `low` is the usual strength."""

LARGEST_SHARE = 4
"""Times the model's own number of pixels that `auto` goes along with in an edit."""

RANDOM = -1


@dataclass(frozen=True)
class ModelFacts:
    """What of a model a request is measured by.

    width, height: of a picture where nobody says anything. smallest, largest: pixels a side.
    """

    width: int
    height: int
    steps: int
    size_multiple: int
    smallest: int
    largest: int
    takes_references: bool = False

    def check(self, width: int, height: int) -> None:
        """Raises FieldError for a size that the model cannot draw, and says which it can."""
        sides = (width, height)
        if any(side % self.size_multiple or not self.smallest <= side <= self.largest for side in sides):
            near = "x".join(str(self._near(side)) for side in sides)
            raise FieldError(
                "size",
                f"{width}x{height} cannot be drawn by this model; width and height are multiples of "
                f"{self.size_multiple} from {self.smallest} to {self.largest}, for example {near}, or auto",
            )

    def fitting(self, width: int, height: int) -> tuple[int, int]:
        """The size nearest to a picture's that the model draws well, for `auto`."""
        share = LARGEST_SHARE * self.width * self.height / (width * height)
        scale = min(1.0, math.sqrt(share), self.largest / width, self.largest / height)
        return self._near(width * scale), self._near(height * scale)

    def _near(self, side: float) -> int:
        multiple = self.size_multiple
        lowest = -(-self.smallest // multiple) * multiple
        highest = self.largest // multiple * multiple
        return min(max(round(side / multiple) * multiple, lowest), highest)


def to_generation(
    request: ImageRequest,
    facts: ModelFacts,
    defaults: GenerationRequest,
    *,
    first_image: tuple[int, int] | None = None,
) -> GenerationRequest:
    """What the engine is asked for, without pictures.

    defaults: what the server was started with. first_image: size of an edit's or variation's first picture.
    A seed is drawn at random unless the request or the server's own flags name one.
    Raises FieldError.
    """
    changes: dict[str, Any] = {"batch_count": request.count}
    if isinstance(request, DrawRequest):
        changes["prompt"] = request.prompt
        if request.quality not in (None, Quality.AUTO):
            changes["steps"] = request.quality.steps(defaults.steps or facts.steps)
    changes |= _size(request, facts, first_image)
    if "seed" not in defaults.model_fields_set or isinstance(request, ImageVariationRequest):
        changes["seed"] = RANDOM
    if isinstance(request, ImageVariationRequest):
        changes["strength"] = VARIATION_STRENGTH
    elif isinstance(request, ImageEditRequest) and request.input_fidelity == "high":
        changes["strength"] = FAITHFUL_STRENGTH
    changes |= request.settings()
    try:
        return GenerationRequest.model_validate({**_fields(defaults), **changes})
    except ValidationError as error:
        raise field_error(error.errors(include_url=False)[0]) from None


def _fields(request: GenerationRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in request.model_fields_set}


def _size(
    request: ImageRequest, facts: ModelFacts, first_image: tuple[int, int] | None
) -> dict[str, int | None]:
    size = parse_size(request.size)
    if size is not None:
        facts.check(*size)
    elif first_image is not None and facts.takes_references and isinstance(request, ImageEditRequest):
        return {"width": None, "height": None}  # the family looks at the reference itself
    elif first_image is not None:
        size = facts.fitting(*first_image)
    else:
        return {}
    return {"width": size[0], "height": size[1]}
