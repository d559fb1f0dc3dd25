"""What the routes draw with: one model, its queue, and everything they may ask about it.

All methods are called in the event loop's thread and none blocks it: the engine works in the worker's
thread, requests are checked and pictures encoded in others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping

from pydantic import ValidationError
from starlette.requests import Request

from darkroom.api.config import EngineConfig
from darkroom.api.errors import Cancelled, DarkroomError, RequestError
from darkroom.api.health import NONCE_VARIABLE, Health, HealthStatus
from darkroom.api.jobs import JobEvent, JobStatus
from darkroom.api.request import GenerationRequest
from darkroom.api.result import GenerationResult
from darkroom.api.version import __version__
from darkroom.server.access_log import current_exchange
from darkroom.server.errors import QueueFull, ShuttingDown
from darkroom.server.holder import ModelHolder
from darkroom.server.job_book import JobBook
from darkroom.server.jobs import Job
from darkroom.server.metrics import Metrics
from darkroom.server.model import ModelInfo, name_of
from darkroom.server.options import ServerOptions
from darkroom.server.painter import Encode, Painter
from darkroom.server.requests import encodable, in_fields, refusal
from darkroom.server.spare import Spare, prepare
from darkroom.server.worker import Worker

logger = logging.getLogger(__name__)


class Service:
    """One model behind a queue.

    defaults: what a request gets that says nothing else (the generation options given at start).
    embeds_metadata: whether pictures hold their `parameters` text where a request does not say.
    """

    def __init__(
        self,
        config: EngineConfig,
        options: ServerOptions,
        defaults: GenerationRequest | None = None,
        *,
        embeds_metadata: bool = True,
    ) -> None:
        self.config = config
        self.options = options
        self.defaults = defaults or GenerationRequest()
        self.embeds_metadata = embeds_metadata
        self._worker = Worker()
        self.metrics = Metrics()
        self._holder = ModelHolder(config, self._worker, self.metrics)
        self._book = JobBook(options.max_queue, options.job_ttl)
        self.spare = Spare()
        self._painter = Painter(self._book, self._holder, self._worker, self.metrics, self.spare)
        self._is_stopping = False
        self._started = time.monotonic()
        self._working: asyncio.Task[None] | None = None
        self.metrics.look_up("queue_depth", "Jobs that wait.", lambda: len(self._book.waiting))
        self.metrics.look_up("jobs_drawing", "Jobs being drawn.", lambda: len(self._book.running))
        self.metrics.look_up("model_loaded", "Whether weights are in memory.", lambda: self._holder.is_loaded)

    def start(self) -> None:
        """Begins to load the model and to work through the queue."""
        loop = asyncio.get_running_loop()
        prepare(loop, self.spare)
        self._worker.start()
        self._working = loop.create_task(self._painter.work())

    def health(self) -> Health:
        """How the server is; answered at any time."""
        holder = self._holder
        status = HealthStatus.OK if holder.info else HealthStatus.LOADING
        if holder.error is not None:
            status = HealthStatus.ERROR
        return Health(
            status=status,
            bytes_read=holder.read[0],
            bytes_total=holder.read[1],
            error=holder.error,
            model=name_of(self.config),
            version=__version__,
            nonce=os.environ.get(NONCE_VARIABLE),
            pid=os.getpid(),
            loaded=holder.is_loaded,
            stopping=self._is_stopping,
            queued=len(self._book.waiting),
            generating=len(self._book.running),
            uptime=round(time.monotonic() - self._started, 3),
        )

    def info(self) -> ModelInfo:
        """What is known of the model. Raises NotReady while it is loaded and when it cannot be."""
        return self._holder.require_known()

    def tokens(self, text: str) -> int:
        """How many tokens the model's tokenizer makes of `text`. Raises NotReady."""
        self._holder.require_known()
        assert self._holder.tokenize is not None, "a model that is known has a tokenizer"
        return len(self._holder.tokenize(text))

    def request(self, names: Mapping[str, str] | None = None, /, **fields: object) -> GenerationRequest:
        """A request of these fields and, for the others, of the server's defaults.

        names: what the client calls a field, where it is another name than GenerationRequest's.
        Raises InvalidField, which names the field and what would be right.
        """
        given = {name: getattr(self.defaults, name) for name in self.defaults.model_fields_set}
        try:
            return GenerationRequest(**(given | fields))
        except ValidationError as error:
            raise refusal(error, names or {}) from None

    async def submit(
        self,
        request: GenerationRequest,
        *,
        api: str,
        previews: bool = False,
        encode: Encode | None = None,
        names: Mapping[str, str] | None = None,
    ) -> Job:
        """Checks the request and puts it into the queue.

        api: which of the HTTP APIs asks. previews: whether the job is to carry previews. encode: makes what
        the job's state shows of its pictures; None keeps them out of it. names: as for `request`.
        Raises RequestError, QueueFull, NotReady, ShuttingDown.
        """
        self._require_ready()
        self._require_room(api)
        model = await self._holder.loaded()
        request = encodable(request)
        try:
            outline, plan = await asyncio.to_thread(model.outline, request)
        except RequestError as error:
            raise in_fields(error, names or {}) from None
        request = request.model_copy(update={"seed": outline.seeds[0]})
        self._require_ready()
        self._require_room(api)
        exchange = current_exchange()
        job = Job(
            self._book.new_id(),
            request,
            outline,
            plan,
            api=api,
            previews=previews,
            request_id=exchange.id if exchange else None,
        )
        self._book.add(job)
        if exchange is not None:
            exchange.job = job.id
        self.metrics.queued(job)
        if encode is not None:
            self._painter.expect(job, encode)
        logger.info("job queued", extra={"fields": self._summary(job)})
        return job

    def job(self, id: str) -> Job:
        """Raises JobNotFound, JobExpired."""
        return self._book.get(id)

    def jobs(self) -> list[Job]:
        """Every job that is remembered, the oldest first."""
        return self._book.all()

    async def result(self, job: Job) -> GenerationResult:
        """Waits for the pictures. Raises what the job failed with: Cancelled, OutOfMemoryError, ..."""
        await job.finished()
        if job.error is not None:
            raise job.error
        if job.result is None:
            raise DarkroomError(f"job {job.id}: its pictures were forgotten; ask sooner")
        if not job.result.images:
            raise Cancelled("interrupted before a picture was finished")
        return job.result

    async def result_or_cancel(self, http_request: Request, job: Job) -> GenerationResult:
        """Waits for the pictures as long as the client does; when it leaves, its job is cancelled.

        The body of `http_request` must have been read. Raises as `result` does.
        """
        if self.options.keep_going_on_disconnect:
            return await self.result(job)
        gone = asyncio.create_task(_disconnected(http_request))
        done = asyncio.create_task(job.finished())
        try:
            await asyncio.wait({gone, done}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            done.cancel()
            if not job.status.is_final:
                self.cancel(job, "disconnect")
        return await self.result(job)

    async def events(self, job: Job, after: int = 0) -> AsyncIterator[JobEvent]:
        """What happened to the job since the event numbered `after`, and what happens until its end."""
        with self.metrics.streams.track_inprogress():
            async for event in job.events(after):
                yield event

    def cancel(self, job: Job, by: str) -> None:
        """Ends a waiting job at once and a running one within a step; one that is over stays as it is.

        by: who asks: client, disconnect or shutdown.
        """
        job.cancel(by)
        self._painter.withdraw(job)

    def skip(self, job: Job) -> None:
        """Leaves out the picture that is being drawn; the job goes on with the next."""
        if job.status is JobStatus.GENERATING:
            job.skip()

    def interrupt(self, job: Job) -> None:
        """Leaves out the picture being drawn and all after it; the job ends with the finished ones."""
        if job.status is JobStatus.GENERATING:
            job.interrupt()

    async def memory(self) -> dict[str, tuple[int, int]]:
        """Bytes free and in all of each card in use, by its name."""
        return await self._holder.memory()

    async def unload(self) -> None:
        """Frees the model's memory after the job being drawn. The next request loads it again."""
        await self._holder.unload()

    async def reload(self) -> None:
        """Loads the model if it is not there. Raises NotReady when it cannot be."""
        await self._holder.loaded()

    async def stop(self, seconds: float) -> bool:
        """Takes no more work and cancels what is there. False when a step took longer than `seconds`."""
        self._is_stopping = True
        end = time.monotonic() + seconds
        for job in (*self._book.waiting, *self._book.running):
            self.cancel(job, "shutdown")
        ending = [asyncio.create_task(job.finished()) for job in self._book.running]
        if ending:
            await asyncio.wait(ending, timeout=seconds)
        if self._working is not None:
            self._working.cancel()
        self._painter.close()
        try:
            await asyncio.wait_for(self._holder.unload(), max(0.1, end - time.monotonic()))
        except TimeoutError:  # a step or the reading of files that cannot be stopped
            return False
        self._worker.stop()
        return True

    def _require_room(self, api: str) -> None:
        try:
            self._book.require_room()
        except QueueFull:
            self.metrics.refused.labels(api).inc()
            raise

    def _summary(self, job: Job) -> dict[str, object]:
        """What the log tells of a job; its texts only where that is asked for."""
        it = job.outline
        texts = {"prompt": job.request.prompt, "negative_prompt": job.request.negative_prompt or None}
        return {
            "job": job.id,
            "api": job.api,
            "images": len(it.seeds),
            "size": f"{it.width}x{it.height}",
            "steps": it.steps,
            "seed": it.seeds[0],
            **(texts if self.options.log_prompts else {}),
        }

    def _require_ready(self) -> None:
        if self._is_stopping:
            raise ShuttingDown("the server is shutting down; try again later", headers={"Retry-After": "5"})
        self._holder.require_known()


async def _disconnected(request: Request) -> None:
    """Waits until the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
