"""What the routes draw with: one model, its queue, and everything they may ask about it.

All methods are called in the event loop's thread and none blocks it: the engine works in the worker's
thread, requests are checked and pictures encoded in others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

from pydantic import ValidationError
from starlette.requests import Request

from darkroom.api.config import EngineConfig
from darkroom.api.errors import Cancelled, DarkroomError
from darkroom.api.health import NONCE_VARIABLE, Health, HealthStatus
from darkroom.api.jobs import JobEvent, JobResult
from darkroom.api.request import GenerationRequest
from darkroom.api.result import GenerationResult, Progress
from darkroom.api.version import __version__
from darkroom.server.errors import NotReady, ShuttingDown
from darkroom.server.job_book import JobBook
from darkroom.server.jobs import Job
from darkroom.server.model import LoadedModel, ModelInfo, name_of, open_engine
from darkroom.server.options import ServerOptions
from darkroom.server.requests import refusal
from darkroom.server.worker import Worker

logger = logging.getLogger(__name__)

Encode = Callable[[GenerationResult], JobResult]
"""Turns pictures into what a job's state shows; it runs in a thread of its own."""


class Service:
    """One model behind a queue.

    defaults: what a request gets that says nothing else (the generation options given at start).
    """

    def __init__(
        self, config: EngineConfig, options: ServerOptions, defaults: GenerationRequest | None = None
    ) -> None:
        self.config = config
        self.options = options
        self.defaults = defaults or GenerationRequest()
        self._worker = Worker()
        self._book = JobBook(options.max_queue, options.job_ttl)
        self._model: LoadedModel | None = None
        self._error: str | None = None
        self._read = [0, 0]
        self._info: ModelInfo | None = None
        self._tokenize: Callable[[str], list[int]] | None = None
        self._loading = asyncio.Lock()
        self._is_stopping = False
        self._started = time.monotonic()
        self._encoders: dict[str, Encode] = {}
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to load the model and to work through the queue."""
        self._worker.start()
        self._serving = asyncio.get_running_loop().create_task(self._serve())

    def health(self) -> Health:
        """How the server is; answered at any time."""
        status = HealthStatus.OK if self._info else HealthStatus.LOADING
        if self._error is not None:
            status = HealthStatus.ERROR
        return Health(
            status=status,
            bytes_read=self._read[0],
            bytes_total=self._read[1],
            error=self._error,
            model=name_of(self.config),
            version=__version__,
            nonce=os.environ.get(NONCE_VARIABLE),
            pid=os.getpid(),
            loaded=self._model is not None,
            stopping=self._is_stopping,
            queued=len(self._book.waiting),
            generating=len(self._book.running),
            uptime=round(time.monotonic() - self._started, 3),
        )

    def info(self) -> ModelInfo:
        """What is known of the model. Raises NotReady while it is loaded and when it cannot be."""
        if self._info is None:
            self._require_ready()
        assert self._info is not None, "a server that is ready knows its model"
        return self._info

    def tokens(self, text: str) -> int:
        """How many tokens the model's tokenizer makes of `text`. Raises NotReady."""
        if self._tokenize is None:
            self._require_ready()
        assert self._tokenize is not None, "a server that is ready has a tokenizer"
        return len(self._tokenize(text))

    def request(self, **fields: object) -> GenerationRequest:
        """A request of these fields and, for the others, of the server's defaults.

        Raises InvalidField, which names the field and what would be right.
        """
        given = {name: getattr(self.defaults, name) for name in self.defaults.model_fields_set}
        try:
            return GenerationRequest(**(given | fields))
        except ValidationError as error:
            raise refusal(error) from None

    async def submit(
        self,
        request: GenerationRequest,
        *,
        api: str,
        previews: bool = False,
        encode: Encode | None = None,
    ) -> Job:
        """Checks the request and puts it into the queue.

        api: which of the HTTP APIs asks. previews: whether the job is to carry previews. encode: makes what
        the job's state shows of its pictures; None keeps them out of it.
        Raises RequestError, QueueFull, NotReady, ShuttingDown.
        """
        self._require_ready()
        self._book.require_room()
        model = await self._loaded()
        outline = await asyncio.to_thread(model.outline, request)
        request = request.model_copy(update={"seed": outline.seeds[0]})
        self._require_ready()
        job = Job(self._book.new_id(), request, outline, api=api, previews=previews)
        self._book.add(job)
        if encode is not None:
            self._encoders[job.id] = encode
        logger.info("job %s: queued for %s, %s", job.id, api, _summary(job))
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

    def events(self, job: Job, after: int = 0) -> AsyncIterator[JobEvent]:
        """What happened to the job since the event numbered `after`, and what happens until its end."""
        return job.events(after)

    def cancel(self, job: Job, by: str) -> None:
        """Ends a waiting job at once and a running one within a step; one that is over stays as it is.

        by: who asks: client, disconnect or shutdown.
        """
        job.cancel(by)
        if self._book.leave_queue(job):
            self._fail(job, Cancelled(_why_cancelled(job)))

    async def unload(self) -> None:
        """Frees the model's memory after the job being drawn. The next request loads it again."""
        async with self._loading:
            model, self._model = self._model, None
            if model is not None:
                await self._worker.run(model.close)
                logger.info("model: unloaded")

    async def reload(self) -> None:
        """Loads the model if it is not there. Raises NotReady when it cannot be."""
        await self._loaded()

    async def stop(self, seconds: float) -> bool:
        """Takes no more work and cancels what is there. False when a step took longer than `seconds`."""
        self._is_stopping = True
        for job in (*self._book.waiting, *self._book.running):
            self.cancel(job, "shutdown")
        running = [asyncio.create_task(job.finished()) for job in self._book.running]
        if running:
            _, late = await asyncio.wait(running, timeout=seconds)
            if late:
                return False
        if self._serving is not None:
            self._serving.cancel()
        if self._info is None and self._error is None:
            return False  # reading files cannot be stopped
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.unload(), seconds)
            self._worker.stop()
            return True
        return False

    def _require_ready(self) -> None:
        if self._is_stopping:
            raise ShuttingDown("the server is shutting down; try again later", headers={"Retry-After": "5"})
        if self._error is not None:
            raise NotReady(f"the model could not be loaded: {self._error}")
        if self._info is None:
            raise NotReady("the model is being loaded; try again soon", headers={"Retry-After": "1"})

    async def _loaded(self) -> LoadedModel:
        async with self._loading:
            if self._model is None:
                await self._load()
            if self._model is None:
                raise NotReady(f"the model could not be loaded: {self._error}")
            return self._model

    async def _load(self) -> None:
        self._read[:] = 0, 0
        try:
            model = await self._worker.run(partial(open_engine, self.config, self._read))
        except DarkroomError as error:
            self._error = str(error)
        except Exception as error:
            logger.exception("model: could not be loaded")
            self._error = f"{type(error).__name__}: {error}"
        else:
            self._model, self._info, self._error = model, model.info(), None
            self._tokenize = model.tokenizer()
            return
        logger.error("model: %s", self._error)

    async def _serve(self) -> None:
        async with self._loading:
            await self._load()
        while True:
            job = await self._book.next()
            try:
                model = await self._loaded()
            except NotReady as error:
                if self._book.leave_queue(job):
                    self._fail(job, error)
                continue
            if job in self._book.waiting:
                self._book.begin([job])
                await self._draw(model, job)

    async def _draw(self, model: LoadedModel, job: Job) -> None:
        loop = asyncio.get_running_loop()

        def on_progress(progress: Progress) -> None:
            loop.call_soon_threadsafe(job.report, progress)

        try:
            result = await self._worker.run(
                lambda: model.generate(job.request, on_progress, lambda: job.is_cancelled)
            )
            encode = self._encoders.get(job.id)
            encoded = await asyncio.to_thread(encode, result) if encode else None
        except Cancelled:
            self._fail(job, Cancelled(_why_cancelled(job)))
        except DarkroomError as error:
            self._fail(job, error)
        except Exception as error:
            logger.exception("job %s: a fault in Darkroom", job.id)
            self._fail(job, DarkroomError(f"{type(error).__name__}: {error}"))
        else:
            job.complete(result, encoded)
            self._end(job)

    def _fail(self, job: Job, error: Exception) -> None:
        job.fail(error)
        self._end(job)

    def _end(self, job: Job) -> None:
        self._encoders.pop(job.id, None)
        self._book.end(job)
        logger.info("job %s: %s after %.2f s", job.id, job.status, job.seconds or 0.0)


async def _disconnected(request: Request) -> None:
    """Waits until the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _why_cancelled(job: Job) -> str:
    return {
        "disconnect": "cancelled: the client is gone",
        "shutdown": "cancelled: the server is shutting down",
    }.get(job.cancelled_by or "", "cancelled")


def _summary(job: Job) -> str:
    it = job.outline
    return f"{len(it.seeds)} x {it.width}x{it.height}, {it.steps} steps, seed {it.seeds[0]}"
