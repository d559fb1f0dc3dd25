"""A request in a batch: its pictures, what is told of them, and when they leave."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from darkroom.api.result import Phase
from darkroom.engine.drawing import Drawing, Row, ending
from darkroom.engine.pipeline import require_numbers
from darkroom.engine.preview import Previewer, Previews
from darkroom.engine.report import Advance
from darkroom.engine.trajectory import Trajectory
from darkroom.sampling.samplers import Step


class Member:
    """The pictures of one drawing among those that are drawn together.

    rows: where the pictures that are still being drawn are in the batch, by their number in the request.
    """

    def __init__(
        self, drawing: Drawing, batch: Sequence[Row], previewer: Previewer, stack: ExitStack
    ) -> None:
        self.rows = {image: row for row, (owner, image) in enumerate(batch) if owner is drawing}
        self._drawing = drawing
        self._leaving: list[int] = []
        self._advance: Advance | None = None
        self._previews: dict[int, Previews] = {}
        steps = len(drawing.schedule.sigmas) - 1
        with ending([drawing]):
            phase = drawing.report.phase(Phase.SAMPLE, steps, min(self.rows) + 1, len(self.rows))
            self._advance = stack.enter_context(phase)
            made = {image: previewer.previews(drawing, image) for image in self.rows}
            self._previews = {image: previews for image, previews in made.items() if previews is not None}
        self._leave_if(False)

    def leaving(self) -> list[int]:
        """The rows that are drawn for nobody any more, each told once."""
        leaving, self._leaving = self._leaving, []
        return leaving

    def show(self, step: Step, trajectory: Trajectory) -> None:
        """Has the previews made that are due after a step."""
        due = {
            row: self._previews[image]
            for image, row in self.rows.items()
            if image in self._previews and self._previews[image].is_due(step.index)
        }
        if due:
            latents = trajectory.noisy(step) if self._drawing.request.preview_noisy else step.x0
            with ending([self._drawing]):
                for row, previews in due.items():
                    previews.take(latents[row : row + 1], step.index, step.steps)

    def advance(self, step: Step) -> None:
        """Tells of a step, and takes the latents after the last one."""
        if not self.rows:
            return
        with ending([self._drawing]):
            assert self._advance is not None, "its pictures would have left"
            self._advance(step.index)
        if step.index < step.steps or self._drawing.error:
            self._leave_if(self._drawing.error is None and self._drawing.hooks.is_skipped())
            return
        with ending([self._drawing]):
            for image, row in self.rows.items():
                if image in self._previews:
                    self._previews[image].flush()
                latent = step.x[row : row + 1].clone()
                require_numbers("diffusion: the latent", latent)
                self._drawing.latents[image] = latent

    def _leave_if(self, is_skipped: bool) -> None:
        if is_skipped or self._drawing.error:
            self._leaving += self.rows.values()
            self._drawing.skipped.update(self.rows if is_skipped else ())
            self.rows = {}
