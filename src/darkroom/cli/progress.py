"""Progress for people: a bar on a terminal, now and then a line in a pipe."""

from __future__ import annotations

import time

from darkroom.api.result import OnProgress, Phase, Progress
from darkroom.cli.console import Console

_BAR_WIDTH = 24
_REDRAW_SECONDS = 0.05


def progress_for(console: Console, *, phases_are_logged: bool = False) -> OnProgress:
    """What suits the stream. phases_are_logged: a pipe then gets lines for sampling only."""
    if console.is_terminal:
        return ProgressBar(console)
    return PlainProgress(console, only_sampling=phases_are_logged)


class ProgressBar:
    """One line that is redrawn: phase, bar, step, seconds a step, time left. A finished phase stays."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._full, self._empty = "█░" if console.can_show("█░") else "#-"
        self._drawn: tuple[Phase, int] | None = None
        self._drawn_at = 0.0

    def __call__(self, progress: Progress) -> None:
        """Redraws, but not more often than an eye follows."""
        phase = (progress.phase, progress.image)
        finished = progress.step >= progress.steps
        now = time.monotonic()
        if phase == self._drawn and not finished and now - self._drawn_at < _REDRAW_SECONDS:
            return
        if phase != self._drawn:
            self._console.settle()
        self._drawn, self._drawn_at = phase, now
        done = min(1.0, progress.step / max(1, progress.steps))
        full = round(done * _BAR_WIDTH)
        bar = self._full * full + self._empty * (_BAR_WIDTH - full)
        self._console.live(f"{_title(progress):<13} |{bar}| {_numbers(progress)}")
        if finished:
            self._console.settle()


class PlainProgress:
    """A line for each phase, and in those that can take long one about every tenth of the way."""

    def __init__(self, console: Console, *, only_sampling: bool = False) -> None:
        self._console = console
        self._only_sampling = only_sampling
        self._part: tuple[Phase, int] | None = None
        self._tenths = 0
        self._unsaid: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """Prints a line when there is something to say."""
        part = (progress.phase, progress.image)
        if part != self._part:
            if self._unsaid is not None:
                self._say(self._unsaid)
            self._part, self._tenths = part, 0
        tenths = 10 * progress.step // max(1, progress.steps)
        if progress.phase not in (Phase.SAMPLE, Phase.CONVERT):
            tenths //= 10
        if tenths > self._tenths:
            self._say(progress)
        elif progress.step > 0:
            self._unsaid = progress
        self._tenths = tenths

    def _say(self, progress: Progress) -> None:
        if progress.phase is Phase.SAMPLE or not self._only_sampling:
            self._console.line(f"{_title(progress)}: {_numbers(progress)}")
        self._unsaid = None


def _title(progress: Progress) -> str:
    if progress.images > 1 and progress.phase in (Phase.SAMPLE, Phase.DECODE):
        last = progress.image + progress.together - 1
        which = str(last) if progress.together == 1 else f"{progress.image}-{last}"
        return f"{progress.phase} {which}/{progress.images}"
    return str(progress.phase)


def _numbers(progress: Progress) -> str:
    """`5/20, 1.23 s/it, ETA 0:18` for sampling; bytes for loading; seconds for the rest."""
    step, steps, seconds = progress.step, progress.steps, progress.seconds
    if progress.phase in (Phase.LOAD, Phase.CONVERT):
        size = _megabytes(steps) if step >= steps else f"{_megabytes(step)} of {_megabytes(steps)}"
        return f"{size}, {seconds:.1f} s"
    if progress.phase is not Phase.SAMPLE:
        return f"{seconds:.1f} s"
    if step == 0:
        return f"0/{steps}"
    each = seconds / step
    left = round(each * (steps - step))
    clock = (
        f"{left // 3600}:{left % 3600 // 60:02}:{left % 60:02}"
        if left >= 3600
        else f"{left // 60}:{left % 60:02}"
    )
    return f"{step}/{steps}, {each:.2f} s/it, ETA {clock}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
