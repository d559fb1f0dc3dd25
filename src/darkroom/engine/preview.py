"""Pictures on their way: what a latent looks like, brought from the device without making it wait."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from darkroom.api.errors import OutOfMemoryError
from darkroom.api.names import Module, PreviewMode
from darkroom.api.result import OnPreview, Preview
from darkroom.core.pixels import tensor_to_bytes
from darkroom.engine.drawing import Drawing
from darkroom.engine.parts import Parts
from darkroom.engine.pipeline import decoded
from darkroom.engine.tiling import Tiling
from darkroom.runtime.backends import Backend

logger = logging.getLogger(__name__)

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
        self._is_over = False

    def is_due(self, step: int) -> bool:
        """Whether the state after `step` is to be shown."""
        return step % self._interval == 0 and not self._is_over

    def take(self, latent: Tensor, step: int, steps: int) -> None:
        """Asks the device for a picture of `latent` (1, c, h, w), and hands on the one asked for before."""
        self.flush()
        try:
            pixels = self._look(latent)
        except OutOfMemoryError:
            logger.warning("--preview: too little memory beside the picture; it is drawn without")
            self._is_over = True
            return
        # Where memory is not shared this is an asynchronous copy to page-locked memory.
        rows = tensor_to_bytes(pixels).to("cpu", non_blocking=True)
        self._shot = _Shot(rows, self._backend.marker(), step, steps)

    def flush(self) -> None:
        """Hands on what is on its way."""
        if self._shot is None:
            return
        shot, self._shot = self._shot, None
        shot.arrived()
        picture = Image.fromarray(shot.rows[0].numpy())
        self._on_preview(Preview(picture, shot.step, shot.steps, self._image, self._images))


class Previewer:
    """Makes the previews that requests ask for."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._looks: dict[PreviewMode, Look] = {}

    def previews(self, drawing: Drawing, image: int) -> Previews | None:
        """Those of one picture, counted from 0; None where nobody wants any."""
        request, on_preview = drawing.request, drawing.hooks.on_preview
        if on_preview is None or request.preview is PreviewMode.NONE:
            return None
        is_mixed = request.preview is PreviewMode.PROJ
        return Previews(
            self._look(request.preview, drawing.tiling),
            self._parts.backend(Module.DIFFUSION if is_mixed else Module.VAE),
            on_preview,
            interval=request.preview_interval,
            image=image + 1,
            images=len(drawing.plan.seeds),
        )

    def _look(self, mode: PreviewMode, tiling: Tiling) -> Look:
        model = self._parts.model
        if mode is PreviewMode.VAE:
            return lambda latent: self._decoded(latent, tiling)
        if mode is PreviewMode.TAE:
            return self._parts.decoded_quickly
        if mode not in self._looks:  # made once: bringing the table there waits for the device
            mix = model.family.latent_rgb(model.architecture)
            self._looks[mode] = mix.on(self._parts.backend(Module.DIFFUSION).take)
        return self._looks[mode]

    def _decoded(self, latent: Tensor, tiling: Tiling) -> Tensor:
        with self._parts.resident(Module.VAE) as vae:
            fitted = self._parts.fitted(vae, tiling, lambda step, of=None: None)
            return decoded(fitted, latent, self._parts.model.family.latent)
