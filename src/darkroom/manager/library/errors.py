"""What the library refuses. `code` is the code of OpenAI's error object, `details` goes beside it.

Nothing of this gets better by asking again.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import ClassVar

from darkroom.api.errors import CheckpointError, RequestError


class CatalogueError(RequestError):
    """A catalogue file is not valid."""


class UnknownModel(RequestError):
    """No model of this name is in the library."""

    code: ClassVar[str] = "model_not_found"

    @classmethod
    def named(cls, name: str, known: Iterable[str], place: str) -> UnknownModel:
        """close: names that are nearly the same come first."""
        names = list(known)
        close = (
            difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
            or [other for other in names if name.lower().split(":")[0] in other][:3]
        )
        if close:
            hint = f"did you mean {' or '.join(close)}?"
        elif names:
            hint = f"there are {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
        else:
            hint = "there is none"
        return cls(f"model {name!r} was not found in {place}; {hint}")


class AmbiguousModel(RequestError):
    """A name that means several models of the library."""

    code: ClassVar[str] = "model_not_found"


class BrokenModel(CheckpointError):
    """A model's own file is not what it was: gone, truncated, no model at all."""

    code: ClassVar[str] = "model_file_broken"


class UnsupportedModel(CheckpointError):
    """A file that is no model to draw with, or of a family that is not known."""

    code: ClassVar[str] = "model_not_supported"


class ComponentError(CheckpointError):
    """Companions of a model keep it from loading. details: one dict for each, ready for JSON."""

    code: ClassVar[str]

    def __init__(self, message: str, details: Sequence[dict[str, object]] = ()) -> None:
        super().__init__(message)
        self.details = list(details)


class ComponentsMissing(ComponentError):
    """Companions that the model needs are not there."""

    code: ClassVar[str] = "model_components_missing"


class ComponentMismatch(ComponentError):
    """A companion that the user attached, or that was found, is another model's."""

    code: ClassVar[str] = "model_component_mismatch"
