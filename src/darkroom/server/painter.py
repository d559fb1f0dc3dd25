"""Works through the queue: hands jobs to the worker, and what comes back to the jobs."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from darkroom.api.errors import Cancelled, DarkroomError, OutOfMemoryError
from darkroom.api.jobs import JobPreview, JobResult
from darkroom.api.result import GenerationResult, Hooks, Phase, Preview, Progress
from darkroom.core.log import log_fields
from darkroom.server.errors import NotReady, code_of, fault, has_run_out
from darkroom.server.holder import ModelHolder
from darkroom.server.job_book import JobBook
from darkroom.server.jobs import Job, preview_of
from darkroom.server.metrics import Metrics, StepTimer
from darkroom.server.model import LoadedModel
from darkroom.server.spare import Spare
from darkroom.server.worker import Worker

logger = logging.getLogger(__name__)

Encode = Callable[[GenerationResult], JobResult]
"""Turns pictures into what a job's state shows; it runs in a thread of its own."""

PREVIEW_QUALITY = 75

_CANCELLED = {
    "disconnect": "cancelled: the client is gone",
    "shutdown": "cancelled: the server is shutting down",
}


class Painter:
    """The one task that gives the worker work."""

    def __init__(
        self, book: JobBook, holder: ModelHolder, worker: Worker, metrics: Metrics, spare: Spare
    ) -> None:
        self._book = book
        self._holder = holder
        self._worker = worker
        self._metrics = metrics
        self._spare = spare
        self._encoders: dict[str, Encode] = {}
        self._previews = ThreadPoolExecutor(1, "previews")
        self._unshown: set[asyncio.Future[JobPreview]] = set()

    def expect(self, job: Job, encode: Encode) -> None:
        """The job's pictures are to be encoded when they are there."""
        self._encoders[job.id] = encode

    async def work(self) -> None:
        """Loads the model, then draws one job after the other, for ever."""
        try:
            await self._holder.loaded()
        except NotReady:
            return
        while True:
            job = await self._book.next()
            try:
                model = await self._holder.loaded()
                jobs = await self._with_company(model, job)
            except Exception as error:
                why = error if isinstance(error, DarkroomError) else self._fault(error, [job])
                if self._book.leave_queue(job):
                    self.fail(job, why)
                continue
            if jobs:
                self._book.begin(jobs)
                for each in jobs:
                    self._metrics.begun(each)
                with log_fields(
                    job=",".join(each.id for each in jobs),
                    request=",".join(each.request_id for each in jobs if each.request_id),
                ):
                    await self._draw(model, jobs)

    def withdraw(self, job: Job) -> None:
        """Ends a cancelled job at once if it waits; one being drawn hears of it at its next step."""
        if self._book.leave_queue(job):
            self.fail(job, Cancelled(_why(job)))

    def fail(self, job: Job, error: Exception) -> None:
        """There will be no pictures."""
        job.fail(error)
        self._end(job)

    def close(self) -> None:
        """Takes no more previews."""
        self._previews.shutdown(wait=False, cancel_futures=True)

    async def _with_company(self, model: LoadedModel, first: Job) -> list[Job]:
        """The job and those behind it that are worth drawing with it, but for any that left meanwhile."""
        waiting = [job for job in self._book.waiting if job.plan is not None]
        if waiting[:1] != [first]:
            return []
        plans = [job.plan for job in waiting if job.plan is not None]
        places = [0] if len(plans) == 1 else await self._worker.run(lambda: model.together(plans))
        still = set(self._book.waiting)
        return [waiting[place] for place in places if waiting[place] in still]

    async def _draw(self, model: LoadedModel, jobs: list[Job]) -> None:
        if len(jobs) > 1:
            logger.info("jobs %s: drawn together", ", ".join(job.id for job in jobs))
        work = [(job.request, self._hooks(job, jobs)) for job in jobs]
        outcomes: list[GenerationResult | DarkroomError]
        try:
            outcomes = await self._worker.run(lambda: model.generate(work))
        except Exception as error:
            outcomes = [self._fault(error, jobs)] * len(jobs)
        if any(isinstance(outcome, OutOfMemoryError) for outcome in outcomes):
            self._spare.give_up()
        else:
            self._spare.take()
        finishing = (self._finish(job, outcome) for job, outcome in zip(jobs, outcomes, strict=True))
        await asyncio.gather(*finishing)

    async def _finish(self, job: Job, outcome: GenerationResult | DarkroomError) -> None:
        """Encodes the pictures, if there are any, and ends the job."""
        if job.status.is_final:  # it left those it was drawn with
            return
        encode = self._encoders.pop(job.id, None)
        if job.is_cancelled or isinstance(outcome, Cancelled):
            self.fail(job, Cancelled(_why(job)))
        elif isinstance(outcome, DarkroomError):
            self.fail(job, outcome)
        else:
            try:
                encoded = await asyncio.to_thread(encode, outcome) if encode else None
            except Exception as error:
                self.fail(job, self._fault(error, [job]))
                return
            if self._unshown:
                await asyncio.wait(self._unshown)
            job.complete(outcome, encoded)
            self._end(job)

    def _left(self, job: Job) -> None:
        """Ends a job whose pictures are no longer among those being drawn, if none of them is finished."""
        if job.status.is_final:
            return
        if job.is_cancelled:
            self.fail(job, Cancelled(_why(job)))
        elif job.is_interrupted and job.image <= 1:
            job.complete(GenerationResult((), ()))
            self._end(job)

    def _hooks(self, job: Job, jobs: list[Job]) -> Hooks:
        """What the worker's thread calls; everything is handed over to the loop's.

        jobs: all that are drawn together. One that leaves ends at once, the engine tells of it with the last.
        """
        loop = asyncio.get_running_loop()
        last_load = 0.0
        timer = StepTimer(self._metrics.step_seconds) if job is jobs[0] else None

        def on_progress(progress: Progress) -> None:
            nonlocal last_load
            if progress.phase is Phase.LOAD:  # said for every tensor
                if 0 < progress.seconds - last_load < 0.1 and progress.step < progress.steps:
                    return
                last_load = progress.seconds
            elif progress.phase is Phase.SAMPLE and timer:
                timer.note(progress)
            loop.call_soon_threadsafe(job.report, progress)

        def on_preview(preview: Preview) -> None:
            loop.call_soon_threadsafe(self._show, job, preview)

        def leaves(is_leaving: bool) -> bool:
            if is_leaving and len(jobs) > 1:
                loop.call_soon_threadsafe(self._left, job)
            return is_leaving

        return Hooks(
            on_progress=on_progress,
            is_cancelled=lambda: leaves(job.is_cancelled),
            on_preview=on_preview if job.previews else None,
            is_skipped=lambda: leaves(job.take_skip()),
        )

    def _show(self, job: Job, preview: Preview) -> None:
        """Encodes the preview in a thread, one after the other, and gives it to its job."""
        encoding = asyncio.wrap_future(self._previews.submit(_jpeg, preview))
        self._unshown.add(encoding)

        def shown(done: asyncio.Future[JobPreview]) -> None:
            self._unshown.discard(done)
            if not done.cancelled() and done.exception() is None:
                job.show(done.result())

        encoding.add_done_callback(shown)

    def _fault(self, error: Exception, jobs: list[Job]) -> DarkroomError:
        """Logs what nobody foresaw; -> what the jobs fail with."""
        if has_run_out(error):
            self._spare.give_up()  # saying so takes memory, too
        logger.error("jobs %s: a fault in Darkroom", ", ".join(job.id for job in jobs), exc_info=error)
        return fault(error)

    def _end(self, job: Job) -> None:
        self._encoders.pop(job.id, None)
        self._book.end(job)
        self._metrics.ended(job)
        fields = {"job": job.id, "request": job.request_id, "seconds": round(job.seconds or 0.0, 3)}
        if job.error is not None:
            fields |= {"code": code_of(job.error), "by": job.cancelled_by}
        logger.info("job %s", job.status, extra={"fields": fields})


def _jpeg(preview: Preview) -> JobPreview:
    buffer = io.BytesIO()
    preview.image.save(buffer, "JPEG", quality=PREVIEW_QUALITY)
    return preview_of(buffer.getvalue(), preview)


def _why(job: Job) -> str:
    return _CANCELLED.get(job.cancelled_by or "", "cancelled")
