"""A job's events as server-sent events, and who may see which job."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import StreamingResponse

from darkroom.api.events import PING, sse
from darkroom.manager.gateway.errors import GatewayError, not_found
from darkroom.manager.gateway.jobs import Job
from darkroom.manager.gateway.keys import Scope
from darkroom.manager.service import Manager

_QUIET = 15.0


def owner_of(request: Request) -> str | None:
    """The key whose jobs the request may see; None for everyone's: without keys, and for administrators."""
    key = getattr(request.state, "key", None)
    return None if key is None or key.allows(Scope.ADMIN) else key.id


def job_of(manager: Manager, request: Request, id: str) -> Job:
    """The job, if the request may see it. Errors: GatewayError 404."""
    job = manager.jobs.get(id)
    owner = owner_of(request)
    if job is None or (owner is not None and job.owner != owner):
        raise not_found(f"job '{id[:80]}': not there; it may be older than jobs are kept", "job_not_found")
    return job


def event_stream(manager: Manager, request: Request, job: Job, after: int) -> StreamingResponse:
    """What happens to the job, from the event after `after` or after the header Last-Event-ID."""
    seen = request.headers.get("Last-Event-ID")
    if seen is not None:
        if not (seen.isascii() and seen.isdecimal() and len(seen) < 13):
            raise GatewayError(f"Last-Event-ID '{seen[:40]}': no event's id; send one that was received")
        after = int(seen)
    log = manager.jobs.log(job)

    async def pieces() -> AsyncIterator[bytes]:
        manager.metrics.sse_clients.inc()
        try:
            yield PING
            async for event in log.follow(after, _QUIET):
                yield PING if event is None else sse(event.type, event.data, event.id)
        finally:
            manager.metrics.sse_clients.dec()

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(pieces(), media_type="text/event-stream", headers=headers)
