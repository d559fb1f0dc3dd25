"""What can be said of a loaded model without drawing."""

from __future__ import annotations

from dataclasses import dataclass

from darkroom.engine.model import Model
from darkroom.engine.parts import Parts
from darkroom.families.base import SampleDefaults

SMALLEST_SIDE = 64
LARGEST_SIDE = 16_384


@dataclass(frozen=True)
class Description:
    """A model in words and numbers.

    name, title: of its family, for programs and for people. architecture: all that was read from the file's
    shapes, in one line. defaults: what a request gets where it says nothing.
    size_multiple, smallest_side, largest_side: in pixels; the devices' memory may end before largest_side.
    patch: pixels on a side of what the diffusion network sees as one token.
    """

    name: str
    title: str
    architecture: str
    defaults: SampleDefaults
    size_multiple: int
    smallest_side: int
    largest_side: int
    takes_references: bool
    inpaints: bool
    patch: int

    def patches(self, width: int, height: int) -> int:
        """The tokens of a picture of this size, rounded up to whole ones."""
        return -(-width // self.patch) * -(-height // self.patch)


def describe(parts: Parts) -> Description:
    """The description of the model that the parts belong to."""
    model: Model = parts.model
    family, defaults = model.family, parts.defaults
    multiple = defaults.size_multiple
    return Description(
        name=family.name,
        title=family.title,
        architecture=str(model.architecture),
        defaults=defaults,
        size_multiple=multiple,
        smallest_side=-(-SMALLEST_SIDE // multiple) * multiple,
        largest_side=(defaults.longest_side or LARGEST_SIDE) // multiple * multiple,
        takes_references=family.takes_references,
        inpaints=family.inpaints(model.architecture),
        patch=family.latent.downscale * defaults.patch,
    )
