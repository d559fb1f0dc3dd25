"""One job: what is asked, how far it is, what came of it. All of it lives in the event loop's thread."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from darkroom.api.errors import Cancelled
from darkroom.api.jobs import JobEvent, JobFault, JobPreview, JobResult, JobState, JobStatus
from darkroom.api.request import GenerationRequest
from darkroom.api.result import GenerationResult, Phase, Preview, Progress
from darkroom.server.errors import code_of

if TYPE_CHECKING:  # torch
    from darkroom.engine.plan import Plan

EVENTS_KEPT = 2000
"""Events of one job that a client which comes late can still read; the oldest steps leave first."""

PREVIEWS_KEPT = 8


@dataclass(frozen=True)
class Outline:
    """What is known of a picture before it is drawn. steps: denoising steps of each picture.

    tokens: what the network takes a picture for. input_tokens: the same of the pictures it starts from.
    """

    width: int
    height: int
    steps: int
    seeds: tuple[int, ...]
    tokens: int = 0
    input_tokens: int = 0


class Job:
    """A request on its way. api: which of the HTTP APIs it came through: openai, a1111 or sdcpp.

    plan: the engine's, until the job is over; the request has its pictures as long.
    Made and changed in the event loop's thread only; the worker asks `is_cancelled` and `take_skip`.
    """

    def __init__(
        self,
        id: str,
        request: GenerationRequest,
        outline: Outline,
        plan: Plan,
        *,
        api: str,
        previews: bool = False,
        request_id: str | None = None,
    ) -> None:
        self.id = id
        self.request_id = request_id
        self.request = request
        self.outline = outline
        self.starts_from_picture = request.init_image is not None
        self.plan: Plan | None = plan
        self.api = api
        self.previews = previews
        self.status = JobStatus.QUEUED
        self.created = time.time()
        self.started: float | None = None
        self.completed: float | None = None
        self.position = 0
        self.phase: str | None = None
        self.step = 0
        self.image = 0
        self.together = 1
        self.eta: float | None = None
        self.preview: JobPreview | None = None
        self.result: GenerationResult | None = None
        self.encoded: JobResult | None = None
        self.error: Exception | None = None
        self.cancelled_by: str | None = None
        self._cancel = threading.Event()
        self._skip = threading.Event()
        self._interrupt = threading.Event()
        self._events: list[JobEvent] = []
        self._last_id = 0
        self._changed = asyncio.Event()
        self._publish("queued")

    @property
    def is_cancelled(self) -> bool:
        """Whether somebody wants no more of it."""
        return self._cancel.is_set()

    @property
    def seconds(self) -> float | None:
        """How long it has been drawn, or took."""
        if self.started is None:
            return None
        return (self.completed or time.time()) - self.started

    @property
    def picture_bytes(self) -> int:
        """Memory that its pictures take."""
        drawn = sum(3 * image.width * image.height for image in self.result.images) if self.result else 0
        return drawn + (sum(len(image.b64_json) for image in self.encoded.images) if self.encoded else 0)

    def state(self, *, pictures: bool = True) -> JobState:
        """The job as its API shows it. pictures: with the preview and the result."""
        return JobState(
            id=self.id,
            request_id=self.request_id,
            status=self.status,
            created=int(self.created),
            started=None if self.started is None else int(self.started),
            completed=None if self.completed is None else int(self.completed),
            queue_position=self.position,
            phase=self.phase,
            step=self.step,
            steps=self.outline.steps,
            image=self.image,
            images=len(self.outline.seeds),
            seeds=list(self.outline.seeds),
            eta=self.eta,
            preview=self.preview if pictures else None,
            result=self.encoded if pictures else None,
            error=None if self.error is None else JobFault(code=code_of(self.error), message=str(self.error)),
        )

    def move(self, position: int) -> None:
        """Tells its place in the queue."""
        if position != self.position:
            self.position = position
            self._publish("queued")

    def start(self) -> None:
        """Drawing begins."""
        self.status, self.started, self.position = JobStatus.GENERATING, time.time(), 0

    def report(self, progress: Progress) -> None:
        """Takes in what the engine says."""
        if self.status is not JobStatus.GENERATING:
            return
        phase = progress.phase.value.replace(" ", "_")
        if phase != self.phase:
            self.phase = phase
            self._publish("phase")
        if progress.phase is not Phase.SAMPLE:
            self.eta = None
            return
        self.step, self.image, self.together = progress.step, progress.image, progress.together
        self.eta = _eta(progress)
        self._publish("step")

    def show(self, preview: JobPreview) -> None:
        """Takes in the picture so far."""
        if self.status is JobStatus.GENERATING:
            self.preview = preview
            self._publish("preview", {"preview": preview.model_dump()})

    def cancel(self, by: str) -> None:
        """Asks for an end; the engine hears it at its next step."""
        if not self.status.is_final and not self._cancel.is_set():
            self.cancelled_by = by
            self._cancel.set()

    def skip(self) -> None:
        """Asks to leave out the picture being drawn."""
        self._skip.set()

    def interrupt(self) -> None:
        """Asks to leave out the picture being drawn and all after it; finished ones are kept."""
        self._interrupt.set()

    @property
    def is_skipped(self) -> bool:
        """Whether a picture is about to be left out."""
        return self._skip.is_set()

    @property
    def is_interrupted(self) -> bool:
        """Whether its remaining pictures are left out."""
        return self._interrupt.is_set()

    def take_skip(self) -> bool:
        """Whether the picture being drawn is to be left out; a skip is told once. The worker asks."""
        is_asked = self._skip.is_set()
        self._skip.clear()
        return is_asked or self._interrupt.is_set()

    def complete(self, result: GenerationResult, encoded: JobResult | None = None) -> None:
        """The pictures are there. encoded: as the job's own API hands them out."""
        self.result, self.encoded = result, encoded
        for index, seed in enumerate(result.seeds):
            self._publish("image", {"index": index, "seed": seed})
        self._finish(JobStatus.COMPLETED, "completed")

    def fail(self, error: Exception) -> None:
        """There will be no pictures."""
        self.error = error
        status = JobStatus.CANCELLED if isinstance(error, Cancelled) else JobStatus.FAILED
        self._finish(status, status.value)

    def shorten_history(self) -> None:
        """Frees the memory of previews and steps that nobody will ask for."""
        self._events = [event for event in self._events if event.type not in ("preview", "step")]

    def forget_pictures(self) -> None:
        """Frees the memory of what was drawn."""
        self.result = self.encoded = self.preview = None
        self.shorten_history()

    async def finished(self) -> None:
        """Waits until the job is final."""
        while not self.status.is_final:
            await self._changed.wait()

    async def events(self, after: int = 0) -> AsyncIterator[JobEvent]:
        """What happened since the event numbered `after`, and what happens, to the end.

        Of previews only the newest few are kept. A reader that is too slow for the steps misses the oldest.
        """
        while True:
            changed = self._changed
            news = [event for event in self._events if event.id > after]
            for event in news:
                after = event.id
                yield event
            if self.status.is_final and after >= self._last_id:
                return
            if not news:
                await changed.wait()

    def _finish(self, status: JobStatus, type: str) -> None:
        self.status, self.completed, self.position = status, time.time(), 0
        self.eta, self.preview = None, None
        self.plan = None  # it holds pictures
        self.request = self.request.model_copy(
            update={"init_image": None, "mask_image": None, "ref_images": ()}
        )
        self._publish(type)

    def _publish(self, type: str, more: dict[str, object] | None = None) -> None:
        self._last_id += 1
        data = self.state(pictures=False).model_dump(mode="json", exclude={"result", "preview"})
        previews = [event for event in self._events if event.type == "preview"]
        if type == "preview" and len(previews) >= PREVIEWS_KEPT:
            self._events.remove(previews[0])
        elif len(self._events) >= EVENTS_KEPT:
            oldest = next((i for i, event in enumerate(self._events) if event.type == "step"), 0)
            del self._events[oldest]
        self._events.append(JobEvent(id=self._last_id, type=type, data=data | (more or {})))
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def preview_of(jpeg: bytes, preview: Preview) -> JobPreview:
    """A preview as it is sent."""
    return JobPreview(
        b64_json=base64.b64encode(jpeg).decode("ascii"),
        width=preview.image.width,
        height=preview.image.height,
        step=preview.step,
        image=preview.image_number,
    )


def positions(waiting: Sequence[Job]) -> None:
    """Tells each waiting job its place."""
    for place, job in enumerate(waiting, 1):
        job.move(place)


def _eta(progress: Progress) -> float | None:
    """Seconds that sampling still takes when each step takes as long as those of this picture did."""
    if progress.step == 0:
        return None
    later = max(progress.images - progress.image - progress.together + 1, 0)  # pictures after these
    left = progress.steps - progress.step + later / progress.together * progress.steps
    return round(progress.seconds / progress.step * left, 3)
