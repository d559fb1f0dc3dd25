"""Pictures on their way: what a latent looks like, brought from the device without making it wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from darkroom.api.result import OnPreview, Preview
from darkroom.core.pixels import tensor_to_bytes
from darkroom.runtime.backends import Backend

Look = Callable[[Tensor], Tensor]
"""A latent (b, c, h, w) as the diffusion network sees it  ->  pixels (b, 3, h', w') in [-1, 1]."""


@dataclass(frozen=True)
class _Shot:
    """A preview on its way to main memory; `arrived` waits for it. rows: bytes (1, h, w, 3)."""

    rows: Tensor
    arrived: Callable[[], None]
    step: int
    steps: int


class Previews:
    """The previews of one picture. A preview is handed on when the step after it is there, so nobody waits.

    look: how a latent becomes pixels. backend: where that runs. interval: in steps.
    """

    def __init__(
        self,
        look: Look,
        backend: Backend,
        on_preview: OnPreview,
        *,
        interval: int = 1,
        image: int = 1,
        images: int = 1,
    ) -> None:
        self._look = look
        self._backend = backend
        self._on_preview = on_preview
        self._interval = interval
        self._image = image
        self._images = images
        self._shot: _Shot | None = None

    def is_due(self, step: int) -> bool:
        """Whether the state after `step` is to be shown."""
        return step % self._interval == 0

    def take(self, latent: Tensor, step: int, steps: int) -> None:
        """Asks the device for a picture of `latent` (1, c, h, w), and hands on the one asked for before."""
        self.flush()
        # Where memory is not shared this is an asynchronous copy to page-locked memory.
        rows = tensor_to_bytes(self._look(latent)).to("cpu", non_blocking=True)
        self._shot = _Shot(rows, self._backend.marker(), step, steps)

    def flush(self) -> None:
        """Hands on what is on its way."""
        if self._shot is None:
            return
        shot, self._shot = self._shot, None
        shot.arrived()
        picture = Image.fromarray(shot.rows[0].numpy())
        self._on_preview(Preview(picture, shot.step, shot.steps, self._image, self._images))
