"""Durable jobs: requests that outlive the connection, and the process, that brought them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field

from darkroom.api.jobs import JobPreview


class Status(StrEnum):
    """Where a durable job is: sd-server's words, and `interrupted` for what a dead manager was drawing."""

    QUEUED = "queued"
    GENERATING = "generating"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_final(self) -> bool:
        """Whether nothing comes after it, unless someone asks for another try."""
        return self not in (Status.QUEUED, Status.GENERATING)


class Fault(BaseModel):
    """Why there are no pictures, as the error objects of the API say it."""

    code: str
    message: str
    details: Any = None


class Picture(BaseModel):
    """A finished picture, kept in a file of this name below the results folder."""

    file: str
    seed: int | None = None
    infotext: str = ""


class Step(BaseModel):
    """How far a job is.

    phase: queue, load, or sd-server's encode_text, encode_image, sample, decode. step, steps: of the picture
    being drawn; image, images: which one of them, from 1. bytes_read, bytes_total: of a model that loads.
    eta: seconds that sampling still takes. progress: False where the engine does not tell its steps.
    """

    phase: str = "queue"
    step: int = 0
    steps: int = 0
    image: int = 0
    images: int = 1
    eta: float | None = None
    bytes_read: int = 0
    bytes_total: int = 0
    progress: bool = True


class Job(BaseModel):
    """One durable job. created, started, completed: seconds since 1970.

    request: sd-server's native body. owner: the key's id that brought it. attempt: from 1.
    last_event: the id of its newest event, so that ids go on after a restart.
    """

    id: str
    model: str
    request: dict[str, Any]
    owner: str | None = None
    status: Status = Status.QUEUED
    created: float
    started: float | None = None
    completed: float | None = None
    attempt: int = 1
    at: Step = Field(default_factory=Step)
    output_format: str = "png"
    pictures: list[Picture] = Field(default_factory=list)
    error: Fault | None = None
    last_event: int = 0
    preview: JobPreview | None = Field(default=None, exclude=True)

    def public(self, queue_position: int = 0) -> dict[str, Any]:
        """What `GET /v1/jobs/{id}` answers, without a preview."""
        links = {"self": f"/v1/jobs/{self.id}", "events": f"/v1/jobs/{self.id}/events"}
        return {
            "id": self.id,
            "object": "job",
            "model": self.model,
            "status": self.status.value,
            "created": self.created,
            "started": self.started,
            "completed": self.completed,
            "attempt": self.attempt,
            "queue_position": queue_position,
            **self.at.model_dump(),
            "prompt": self.request.get("prompt"),
            "result": self._result() if self.status is Status.COMPLETED else None,
            "error": self.error.model_dump(exclude_none=True) if self.error else None,
            "links": links,
        }

    def _result(self) -> dict[str, Any]:
        images = [
            {
                "index": index,
                "url": f"/v1/jobs/{self.id}/images/{index}",
                "seed": picture.seed,
                "infotext": picture.infotext,
            }
            for index, picture in enumerate(self.pictures)
        ]
        return {"output_format": self.output_format, "images": images}
