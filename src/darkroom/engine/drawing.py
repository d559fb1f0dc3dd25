"""A request on its way through an engine: what is known of it so far, and how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from traceback import clear_frames

from PIL.Image import Image
from torch import Tensor

from darkroom.api.errors import DarkroomError
from darkroom.api.names import Module
from darkroom.api.request import GenerationRequest
from darkroom.api.result import Hooks
from darkroom.engine.pipeline import Start
from darkroom.engine.plan import Plan, Schedule
from darkroom.engine.report import Report
from darkroom.engine.tiling import Tiling
from darkroom.families.base import Conditioning


@dataclass(eq=False)
class Drawing:
    """One request. Stages fill in what they find out.

    latents, images: by the number of the picture in the request, from 0. skipped: pictures nobody wants.
    error: why it ended before it was done.
    """

    request: GenerationRequest
    plan: Plan
    hooks: Hooks
    cond: Conditioning | None = None
    uncond: Conditioning | None = None
    start: Start | None = None
    latents: dict[int, Tensor] = field(default_factory=dict)
    images: dict[int, Image] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)
    error: DarkroomError | None = None

    def __post_init__(self) -> None:
        self.report = Report(self.hooks.on_progress, self.hooks.is_cancelled, len(self.plan.seeds))
        self.tiling = Tiling.of(self.request)

    @property
    def schedule(self) -> Schedule:
        """The noise levels."""
        assert self.plan.schedule is not None, "an engine planned it"
        return self.plan.schedule

    @property
    def undone(self) -> list[int]:
        """The pictures that are still to be drawn."""
        done = self.latents.keys() | self.skipped
        return [image for image in range(len(self.plan.seeds)) if image not in done]

    @property
    def unfinished(self) -> Module:
        """The module whose work comes next."""
        if self.cond is None:
            return Module.TE
        return Module.DIFFUSION if self.start is not None and self.undone else Module.VAE

    def resume(self) -> None:
        """Forgets what ended it: it may go on from where it was."""
        self.error = None


Row = tuple[Drawing, int]
"""A picture to be drawn: which of a drawing's, from 0."""


@contextmanager
def ending(drawings: Iterable[Drawing]) -> Iterator[None]:
    """What goes wrong within the block ends these drawings, unless something ended them before."""
    try:
        yield
    except DarkroomError as error:
        release(error)
        for drawing in drawings:
            drawing.error = drawing.error or error


def going_on(drawings: Iterable[Drawing]) -> list[Drawing]:
    """Those that nothing has ended."""
    return [drawing for drawing in drawings if drawing.error is None]


def release(error: BaseException) -> None:
    """Lets go of what was being worked on when an error came up, so that keeping it keeps no tensor."""
    cause: BaseException | None = error
    while cause is not None:
        clear_frames(cause.__traceback__)
        cause = cause.__cause__ or cause.__context__
