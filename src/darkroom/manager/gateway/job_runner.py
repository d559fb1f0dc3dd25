"""Durable jobs at work: each waits for its model, goes to its sidecar, and leaves its pictures in files."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from darkroom.api.jobs import JobPreview
from darkroom.manager.gateway.errors import GatewayError, as_gateway_error
from darkroom.manager.gateway.event_log import EventLog
from darkroom.manager.gateway.job_store import JobStore
from darkroom.manager.gateway.jobs import Fault, Job, Status
from darkroom.manager.gateway.metrics import StepClock
from darkroom.manager.gateway.native_client import NativeClient
from darkroom.manager.gateway.results import Results
from darkroom.manager.gateway.sidecars import Sidecars, job_failure
from darkroom.manager.pool.output import read_bar
from darkroom.manager.pool.pool import Lease

logger = logging.getLogger(__name__)

_PER_MODEL = 8
_POLL = 0.3
_PRUNE = 3600.0


class JobRunner:
    """Takes queued jobs in their order; only this object changes a job.

    results: where pictures go. retention: seconds that finished jobs are kept.
    """

    def __init__(self, store: JobStore, sidecars: Sidecars, results: Results, retention: float) -> None:
        self._store = store
        self._sidecars = sidecars
        self._metrics = sidecars.metrics
        self.results = results
        self._retention = retention
        self._live: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._logs: dict[str, EventLog] = {}
        self._cancelled: set[str] = set()
        self._others: list[asyncio.Task[None]] = []
        self._takes_old = True
        self._own: set[str] = set()

    def start(self, *, with_old_jobs: bool = True) -> None:
        """Takes up what an earlier manager left: queued jobs go on, running ones are interrupted."""
        self._takes_old = with_old_jobs
        for job in self._store.with_status(Status.GENERATING) if with_old_jobs else ():
            self._store.interrupt(job, time.time())
            logger.info("job %s: interrupted by the manager's end", job.id)
        self._others = [
            asyncio.create_task(self._follow_loads()),
            asyncio.create_task(self._prune()),
        ]
        self._fill()

    async def stop(self, drain: float) -> None:
        """Gives running jobs `drain` seconds; those that are not done then are interrupted."""
        for task in self._others:
            task.cancel()
        drawn = [job for job in self._live.values() if job.status is Status.GENERATING]
        running = {self._tasks[job.id] for job in drawn}
        for task in set(self._tasks.values()) - running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=drain)
        await _ended([*self._tasks.values(), *self._others])
        for job in drawn:
            if not job.status.is_final:
                self._store.interrupt(job, time.time())

    def add(self, job: Job, idempotency_key: str | None, most: int) -> tuple[Job, bool]:
        """Queues the job; see `JobStore.add`. Errors: GatewayError 429 when `most` jobs wait already."""
        if self._store.count(Status.QUEUED) >= most:
            raise GatewayError(
                f"jobs: {most} wait already; try again later",
                status=429,
                code="queue_full",
                type="rate_limit_error",
                retry_after=5,
            )
        job, new = self._store.add(job, idempotency_key)
        if new:
            self._own.add(job.id)
            self._fill()
        return self.get(job.id) or job, new

    def get(self, id: str) -> Job | None:
        """The job as it is now."""
        return self._live.get(id) or self._store.get(id)

    def log(self, job: Job) -> EventLog:
        """The job's events. One that ended under an earlier manager has only its last."""
        if job.id in self._logs:
            return self._logs[job.id]
        log = EventLog(max(0, job.last_event - 1))
        if job.status.is_final:
            log.add(job.status.value, job.public())
        else:
            self._logs[job.id] = log
        return log

    def retry(self, job: Job) -> Job:
        """Queues a job that failed, was cancelled or interrupted once more. Errors: GatewayError 409."""
        if job.status in (Status.QUEUED, Status.GENERATING, Status.COMPLETED):
            raise GatewayError(
                f"job {job.id}: is {job.status}; only failed, cancelled and interrupted jobs are tried again",
                status=409,
                code="not_retryable",
                retry=False,
            )
        fresh = Job(
            id=job.id,
            model=job.model,
            request=job.request,
            owner=job.owner,
            created=job.created,
            attempt=job.attempt + 1,
            output_format=job.output_format,
            last_event=job.last_event,
        )
        self._logs[job.id] = EventLog(job.last_event)
        self._store.save(fresh)
        self._fill()
        return fresh

    async def cancel(self, job: Job) -> Job:
        """Ends the job: at once while it waits, within a step while it is drawn."""
        task = self._tasks.get(job.id)
        if job.status.is_final:
            return job
        self._cancelled.add(job.id)
        if task is None:
            self._finish(job, Status.CANCELLED, Fault(code="cancelled", message="cancelled while it waited"))
        else:
            task.cancel()
            await asyncio.wait([task], timeout=10)
        return self.get(job.id) or job

    def _fill(self) -> None:
        """Starts what may start: a few of each model, so that its sidecar can batch."""
        running: dict[str, int] = {}
        for id in self._tasks:
            model = self._live[id].model
            running[model] = running.get(model, 0) + 1
        for job in self._store.with_status(Status.QUEUED):
            is_mine = self._takes_old or job.id in self._own
            if job.id in self._tasks or not is_mine or running.get(job.model, 0) >= _PER_MODEL:
                continue
            running[job.model] = running.get(job.model, 0) + 1
            self._live[job.id] = job
            self._logs.setdefault(job.id, EventLog(job.last_event))
            self._publish(job, "queued")
            self._tasks[job.id] = asyncio.create_task(self._run(job))
            self._tasks[job.id].add_done_callback(lambda _, id=job.id: self._done(id))  # type: ignore[misc]

    def _done(self, id: str) -> None:
        self._tasks.pop(id, None)
        self._live.pop(id, None)
        self._cancelled.discard(id)
        if not any(task.cancelling() for task in self._others):
            self._fill()

    async def _run(self, job: Job) -> None:
        try:
            body = dict(job.request)
            keep_alive = body.pop("keep_alive", None)
            await self._sidecars.run(job.model, lambda lease: self._draw(job, lease, body), keep_alive)
        except asyncio.CancelledError:
            if job.id not in self._cancelled:
                raise  # the manager stops
            self._finish(job, Status.CANCELLED, Fault(code="cancelled", message="cancelled by the client"))
        except Exception as error:
            answer = as_gateway_error(error).error
            fault = Fault(code=str(answer.code), message=answer.message, details=answer.details)
            self._finish(job, Status.FAILED, fault)

    async def _draw(self, job: Job, lease: Lease, body: dict[str, Any]) -> None:
        native = NativeClient(self._sidecars.client, lease.url)
        job.status, job.started = Status.GENERATING, time.time()
        job.at.phase = "queue"
        self._store.save(job)
        self._publish(job, "phase")
        id = await native.submit(body)
        try:
            await self._follow(job, lease, native, id)
        except asyncio.CancelledError:
            await self._sidecars.cancel(lease, native, id)
            raise
        state = await native.state(id)
        if state.get("status") != "completed":
            raise job_failure(lease, state.get("error") or {})
        await self._keep(job, state["result"])

    async def _follow(self, job: Job, lease: Lease, native: NativeClient, id: str) -> None:
        """Until the sidecar's job has ended, told by its events or, without any, by asking."""
        if lease.capabilities.progress:
            steps = StepClock(self._metrics, job.model)
            async for event in native.events(id):
                lease.beat()
                self._take(job, event.type, event.json())
                steps.tick(job.at.phase == "sample", job.at.image, job.at.step)
            return
        job.at.progress, old = False, last_step(lease)
        while (await native.state(id)).get("status") in ("queued", "generating"):
            if (step := last_step(lease)) and step != old:
                old = step
                job.at.progress, job.at.phase = True, "sample"
                job.at.step, job.at.steps = step
                self._publish(job, "step")
            await asyncio.sleep(_POLL)

    def _take(self, job: Job, type: str, data: dict[str, Any]) -> None:
        """A sidecar's event becomes the job's."""
        at = job.at
        at.phase = data.get("phase") or at.phase
        at.step, at.steps = int(data.get("step") or 0), int(data.get("steps") or 0)
        at.image, at.images = int(data.get("image") or 0), int(data.get("images") or 1)
        at.eta = data.get("eta")
        if type == "preview":
            job.preview = JobPreview.model_validate(data["preview"])
            self._publish(job, "preview", preview=job.preview.model_dump())
        elif type in ("phase", "step"):
            self._publish(job, type)

    async def _keep(self, job: Job, result: dict[str, Any]) -> None:
        """Writes the pictures, then says that the job is done."""
        job.output_format = str(result.get("output_format") or "png")
        job.pictures = await asyncio.to_thread(self.results.keep, job, result)
        for index, picture in enumerate(job.pictures):
            self._publish(job, "image", index=index, seed=picture.seed)
        self._metrics.images.labels(job.model).inc(len(job.pictures))
        self._finish(job, Status.COMPLETED)

    def _finish(self, job: Job, status: Status, error: Fault | None = None) -> None:
        job.status, job.completed, job.error, job.preview = status, time.time(), error, None
        self._publish(job, status.value)
        self._store.save(job)
        self._logs.pop(job.id, None)

    def _publish(self, job: Job, type: str, **more: object) -> None:
        log = self._logs.setdefault(job.id, EventLog(job.last_event))
        log.add(type, {**job.public(self._store.position(job.id)), **more})
        job.last_event = log.last

    async def _follow_loads(self) -> None:
        """Jobs that wait for a model that loads tell how far it is."""
        async for event in self._sidecars.pool.events():
            for job in list(self._live.values()):
                if job.model == event.status.model and job.status is Status.QUEUED:
                    status = event.status
                    job.at.phase = "load" if status.state in ("starting", "loading") else "queue"
                    job.at.bytes_read, job.at.bytes_total = status.bytes_read, status.bytes_total
                    self._publish(job, "phase")

    async def _prune(self) -> None:
        """Forgets old jobs and their pictures."""
        while True:
            for job in self._store.delete_older(time.time() - self._retention):
                await asyncio.to_thread(self.results.remove, job)
            await asyncio.sleep(_PRUNE)


def last_step(lease: Lease) -> tuple[int, int] | None:
    """Step and steps as the engine has printed them last, for engines that tell them nowhere else."""
    bars = (bar for line in reversed(lease.sidecar.output.tail) if (bar := read_bar(line)))
    return next(((bar.done, bar.total) for bar in bars if not bar.loading), None)


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
