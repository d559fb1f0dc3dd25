"""A request on its way through sd-server, as its native API tells it."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field


class JobStatus(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    GENERATING = "generating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing comes after it."""
        return self in (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED)


class JobPreview(BaseModel):
    """The picture so far. step: the one that it shows. image: its number in the batch, from 1."""

    mime_type: str = "image/jpeg"
    b64_json: str
    width: int
    height: int
    step: int
    image: int


class JobImage(BaseModel):
    """A finished picture. seed, infotext: what it was made with."""

    index: int
    b64_json: str
    seed: int
    infotext: str = ""


class JobResult(BaseModel):
    """Finished pictures, all of one format: png, jpeg or webp."""

    output_format: str
    images: list[JobImage]


class JobFault(BaseModel):
    """Why there are no pictures. code: generation_failed, out_of_memory or cancelled."""

    code: str
    message: str


class JobState(BaseModel):
    """One job.

    created, started, completed: seconds since 1970, None until they have come.
    queue_position: from 1 while it waits, else 0.
    phase: load, encode_text, encode_image, sample or decode. step, steps: of the picture being drawn.
    image, images: which picture of the batch, from 1; 0 before the first. seeds: of the pictures.
    eta: seconds that sampling still takes, as far as the last steps tell.
    request_id: of the request that it came with.
    """

    id: str
    request_id: str | None = None
    kind: str = "img_gen"
    status: JobStatus
    created: int
    started: int | None = None
    completed: int | None = None
    queue_position: int = 0
    phase: str | None = None
    step: int = 0
    steps: int = 0
    image: int = 0
    images: int = 1
    seeds: list[int] = Field(default_factory=list)
    eta: float | None = None
    preview: JobPreview | None = None
    result: JobResult | None = None
    error: JobFault | None = None


class JobReceipt(BaseModel):
    """What is answered to a request for pictures: where to look for them. seeds: of the pictures."""

    id: str
    kind: str = "img_gen"
    status: JobStatus
    created: int
    poll_url: str
    events_url: str
    cancel_url: str
    queue_position: int
    seeds: list[int]


class JobList(BaseModel):
    """All jobs that are remembered, without their pictures, the oldest first."""

    jobs: list[JobState]


class Refusal(BaseModel):
    """An error of the native API. code: for programs. param: the field that is wrong."""

    error: str
    message: str
    code: str | None = None
    param: str | None = None


class JobEvent(BaseModel):
    """Something that happened to a job.

    id: counted from 1. type: queued, phase, step, preview, image, completed, failed or cancelled.
    data: the job's state as it then was, without its pictures, and what the type brings along.
    """

    id: int
    type: str
    data: dict[str, Any]

    @property
    def is_final(self) -> bool:
        """Whether it is the job's last."""
        return self.type in ("completed", "failed", "cancelled")
