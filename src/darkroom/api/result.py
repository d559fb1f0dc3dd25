"""What comes back from an engine: progress while it works, pictures when it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from PIL.Image import Image


class Phase(StrEnum):
    """The parts of a generation, in the order they run, and what conversion does."""

    LOAD = "load"
    ENCODE_TEXT = "encode text"
    ENCODE_IMAGE = "encode image"
    SAMPLE = "sample"
    DECODE = "decode"
    CONVERT = "convert"


@dataclass(frozen=True)
class Progress:
    """One sign of life.

    step, steps: work done and to do in this phase; bytes for LOAD and CONVERT, denoising steps for SAMPLE.
    seconds: since the phase began.
    image, images: which picture of the request, from 1. together: how many are drawn at once from it on.
    """

    phase: Phase
    step: int
    steps: int
    seconds: float
    image: int = 1
    images: int = 1
    together: int = 1


@dataclass(frozen=True)
class Preview:
    """What a picture looks like so far.

    image: of the picture's shape, usually smaller. step, steps: as in Progress.
    image_number, images: which picture of the request, from 1.
    """

    image: Image
    step: int
    steps: int
    image_number: int = 1
    images: int = 1


OnProgress = Callable[[Progress], None]
OnPreview = Callable[[Preview], None]
IsCancelled = Callable[[], bool]
IsSkipped = Callable[[], bool]


def ignore(sign: Progress | Preview) -> None:
    """Progress or a preview that nobody asked for."""


def never() -> bool:
    """A request that nobody cancels, a picture that nobody skips."""
    return False


@dataclass(frozen=True)
class Hooks:
    """What an engine calls while it draws one request, in its own thread.

    is_cancelled: asked at every step; True ends the request with Cancelled.
    is_skipped: asked once at every denoising step; True leaves out the picture that is being drawn, or those
    of the request that are drawn together, and the request goes on with the next.
    """

    on_progress: OnProgress = ignore
    is_cancelled: IsCancelled = never
    on_preview: OnPreview | None = None
    is_skipped: IsSkipped = never


@dataclass(frozen=True)
class GenerationResult:
    """The finished pictures.

    images: in order of their seeds, without those that were skipped. seeds: one for each image.
    infotexts: their A1111 `parameters` texts. timings: seconds by phase.
    """

    images: tuple[Image, ...]
    seeds: tuple[int, ...]
    infotexts: tuple[str, ...] = ()
    timings: Mapping[Phase, float] = field(default_factory=dict)
