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
    image, images: which picture of the batch, from 1.
    """

    phase: Phase
    step: int
    steps: int
    seconds: float
    image: int = 1
    images: int = 1


OnProgress = Callable[[Progress], None]
IsCancelled = Callable[[], bool]


@dataclass(frozen=True)
class GenerationResult:
    """The finished pictures.

    images: in order of their seeds. seeds: one for each image. infotexts: their A1111 `parameters` texts.
    timings: seconds by phase.
    """

    images: tuple[Image, ...]
    seeds: tuple[int, ...]
    infotexts: tuple[str, ...] = ()
    timings: Mapping[Phase, float] = field(default_factory=dict)
