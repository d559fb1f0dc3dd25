"""A streamed answer: real previews while a picture is drawn, then the picture."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from PIL import Image
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from darkroom.api.events import PING, sse
from darkroom.api.openai import CompletedEvent, PartialImageEvent
from darkroom.api.result import GenerationResult
from darkroom.server.answers import as_api_error, content
from darkroom.server.jobs import Job
from darkroom.server.pings import with_pings
from darkroom.server.routes.openai.answers import Wishes, infotext, to_base64
from darkroom.server.service import Service


def preview_interval(steps: int, partials: int) -> int:
    """Steps from one preview to the next, so that `partials` of them are there before the end."""
    return max(1, steps // (partials + 1))


class PictureStream(StreamingResponse):
    """The events of a job. A client that leaves cancels it, unless the server is told to draw on."""

    def __init__(
        self, service: Service, job: Job, wishes: Wishes, *, is_edit: bool, headers: dict[str, str]
    ) -> None:
        super().__init__(
            self._events(),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers},
        )
        self._service = service
        self._job = job
        self._wishes = wishes
        self._is_edit = is_edit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events; also when nothing could be sent, the job is not left behind."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            if not self._job.status.is_final and not self._service.options.keep_going_on_disconnect:
                self._service.cancel(self._job, "disconnect")

    async def _events(self) -> AsyncIterator[bytes]:
        try:
            async for event in self._previews():
                yield event
            async for event in self._pictures():
                yield event
        except Exception as error:
            yield sse("error", content("/v1/images", as_api_error(error)))

    async def _previews(self) -> AsyncIterator[bytes]:
        """The partial images, each at its share of the way, and signs of life in between."""
        sent: Counter[int] = Counter()
        async for event in with_pings(self._service.events(self._job)):
            if event is None:
                yield PING
            elif event.type == "preview":
                preview = event.data["preview"]
                number = preview["image"]
                due = (sent[number] + 1) * self._job.outline.steps / (self._wishes.partials + 1)
                if sent[number] < self._wishes.partials and preview["step"] >= due:
                    yield await asyncio.to_thread(self._partial, preview, sent[number])
                    sent[number] += 1

    async def _pictures(self) -> AsyncIterator[bytes]:
        result = await self._service.result(self._job)
        for index in range(len(result.images)):
            yield await asyncio.to_thread(self._completed, result, index)

    def _partial(self, preview: dict[str, Any], index: int) -> bytes:
        """A preview, which may be small, at the size of the picture to come."""
        size = (self._job.outline.width, self._job.outline.height)
        small = Image.open(io.BytesIO(base64.b64decode(preview["b64_json"]))).convert("RGB")
        event = PartialImageEvent(
            type="image_edit.partial_image" if self._is_edit else "image_generation.partial_image",
            partial_image_index=index,
            **self._of_any_event(small.resize(size, Image.Resampling.BICUBIC), preview["image"] - 1),
        )
        return sse(event.type, event.model_dump_json(exclude_none=True))

    def _completed(self, result: GenerationResult, index: int) -> bytes:
        event = CompletedEvent(
            type="image_edit.completed" if self._is_edit else "image_generation.completed",
            usage=self._wishes.usage(self._job.outline, 1, with_input=index == 0),
            safety_identifier=self._wishes.who,
            seed=result.seeds[index],
            **self._of_any_event(result.images[index], index, infotext(result, index)),
        )
        return sse(event.type, event.model_dump_json(exclude_none=True))

    def _of_any_event(self, picture: Image.Image, index: int, infotext: str = "") -> dict[str, Any]:
        return {
            "b64_json": to_base64(self._wishes.encode(picture, infotext)),
            "created_at": int(time.time()),
            "output_format": self._wishes.format,
            "quality": self._wishes.level,
            "size": f"{picture.width}x{picture.height}",
            "image_index": index,
        }
