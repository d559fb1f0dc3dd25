"""How far the picture is, and how to end it."""

from __future__ import annotations

import time

from fastapi import APIRouter

from darkroom.api.a1111.answers import ProgressAnswer, ProgressState
from darkroom.api.jobs import JobStatus
from darkroom.server.jobs import Job
from darkroom.server.service import Service

API = "a1111"

STARTED = 0.01
"""The progress of a picture without a step: never 0, which means that nothing is drawn."""


def router(service: Service) -> APIRouter:
    """GET /progress, POST /interrupt and /skip."""
    routes = APIRouter()

    def running() -> Job | None:
        """What is drawn; of several that are drawn together the first that came through this API."""
        jobs = [job for job in service.jobs() if job.status is JobStatus.GENERATING]
        return min(jobs, key=lambda job: job.api != API, default=None)

    @routes.get("/progress", summary="How far the picture is")
    async def progress(skip_current_image: bool = False) -> ProgressAnswer:
        """Of the job that is drawn, else of the first that waits. skip_current_image: without its preview."""
        job = running() or next((job for job in service.jobs() if not job.status.is_final), None)
        if job is None:
            state = ProgressState(job_timestamp=timestamp(time.time()))
            return ProgressAnswer(progress=0, eta_relative=0, state=state)
        return answer(job, with_image=not skip_current_image)

    @routes.post("/interrupt", summary="End the request that is drawn")
    async def interrupt() -> dict[str, str]:
        """Its client gets the pictures that are finished. Requests of the other APIs are left alone."""
        job = running()
        if job is not None and job.api == API:
            service.interrupt(job)
        return {}

    @routes.post("/skip", summary="Leave out the picture that is drawn")
    async def skip() -> None:
        """The request goes on with its next picture."""
        job = running()
        if job is not None and job.api == API:
            service.skip(job)

    return routes


def answer(job: Job, *, with_image: bool) -> ProgressAnswer:
    """What A1111's clients are told of a job."""
    images, steps = len(job.outline.seeds), max(job.outline.steps, 1)
    done = max(job.image - 1, 0)
    share = (done + min(job.together, images - done) * job.step / steps) / images
    preview = job.preview if with_image else None
    return ProgressAnswer(
        progress=min(max(share, STARTED), 1.0),
        eta_relative=job.eta or 0.0,
        state=ProgressState(
            skipped=job.is_skipped,
            interrupted=job.is_interrupted or job.is_cancelled,
            job=job.id,
            job_count=images,
            job_no=done,
            job_timestamp=timestamp(job.started or job.created),
            sampling_step=job.step,
            sampling_steps=job.outline.steps,
        ),
        current_image=preview.b64_json if preview else None,
        textinfo=_text(job),
    )


def timestamp(seconds: float) -> str:
    """As A1111 writes it: 20260131235959."""
    return time.strftime("%Y%m%d%H%M%S", time.localtime(seconds))


def _text(job: Job) -> str:
    if job.status is JobStatus.QUEUED:
        return f"waiting, number {job.position} in the queue"
    return (job.phase or "starting").replace("_", " ")
