"""OpenAI's image requests for engines whose own OpenAI API lacks most of it, by way of their native API.

stable-diffusion.cpp's takes no seed and no steps there, streams nothing and tells errors in its own form.
What it cannot do at all, previews of the running picture, is said to be missing: `x-partial-images:
unsupported`; nothing is made up.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, Response

from darkroom.api.events import sse
from darkroom.api.openai import ImageEditRequest, ImageRequest
from darkroom.api.openai.requests import DrawRequest, Quality
from darkroom.manager.gateway.native_client import NativeClient, refusal
from darkroom.manager.gateway.sidecars import Sidecars, job_failure
from darkroom.manager.gateway.translate import Pictures, to_native
from darkroom.manager.pool.pool import Lease

_POLL = 0.2
_BATCH = 8
HEADERS = {"x-partial-images": "unsupported"}


@dataclass(frozen=True)
class Order:
    """What is to be drawn. takes_references: the model edits by looking at pictures."""

    request: ImageRequest
    pictures: Pictures
    takes_references: bool


async def draw(sidecars: Sidecars, model: str, order: Order, keep_alive: float | None) -> Response:
    """OpenAI's answer, streamed or not."""

    async def work(lease: Lease) -> list[dict[str, Any]]:
        return await _draw(NativeClient(sidecars.client, lease.url), lease, order)

    images = await sidecars.run(model, work, keep_alive)
    request = order.request
    if isinstance(request, DrawRequest) and request.stream:
        return Response(_events(request, images), media_type="text/event-stream", headers=HEADERS)
    return JSONResponse({**_common(request), "created": int(time.time()), "data": images}, headers=HEADERS)


async def _draw(native: NativeClient, lease: Lease, order: Order) -> list[dict[str, Any]]:
    """The pictures, in as many jobs as the engine's largest batch makes of them."""
    defaults = (await native.capabilities()).get("defaults")
    body = await asyncio.to_thread(
        to_native,
        order.request,
        order.pictures,
        default_steps=_steps(defaults),
        takes_references=order.takes_references,
    )
    wanted, seed, images = body["batch_count"], body["seed"], list[dict[str, Any]]()
    while len(images) < wanted:
        body["batch_count"] = min(_BATCH, wanted - len(images))
        body["seed"] = seed if seed < 0 else seed + len(images)
        drawn = await _one_job(native, lease, body)
        if not drawn:
            raise refusal(500, {"error": "the engine gave no picture"})
        images += drawn
    return images


def _steps(defaults: object) -> int | None:
    sample = defaults.get("sample_params") if isinstance(defaults, Mapping) else None
    steps = sample.get("sample_steps") if isinstance(sample, Mapping) else None
    return steps if isinstance(steps, int) and steps > 0 else None


async def _one_job(native: NativeClient, lease: Lease, body: dict[str, Any]) -> list[dict[str, Any]]:
    id = await native.submit(body)
    try:
        while (state := await native.state(id)).get("status") in ("queued", "generating"):
            await asyncio.sleep(_POLL)
    except asyncio.CancelledError:
        lease.cancel_hard()  # it cannot stop one that is being drawn
        raise
    if state.get("status") != "completed":
        raise job_failure(lease, state.get("error") or {})
    first = body["seed"]
    return [
        {"b64_json": image["b64_json"]} | ({} if first < 0 else {"seed": first + index})
        for index, image in enumerate(state["result"]["images"])
    ]


def _common(request: ImageRequest) -> dict[str, Any]:
    """The fields that the answer repeats. There is no usage: the engine does not count."""
    drawn = isinstance(request, DrawRequest)
    quality = (request.quality or Quality.AUTO) if isinstance(request, DrawRequest) else Quality.AUTO
    return {
        "background": "opaque",
        "output_format": request.written if isinstance(request, DrawRequest) else "png",
        "quality": quality.level if drawn else "medium",
        **({"size": request.size} if request.size and request.size != "auto" else {}),
    }


def _events(request: DrawRequest, images: list[dict[str, Any]]) -> bytes:
    subject = "image_edit" if isinstance(request, ImageEditRequest) else "image_generation"
    now = int(time.time())
    return b"".join(
        sse(
            f"{subject}.completed",
            json.dumps(
                {
                    "type": f"{subject}.completed",
                    "created_at": now,
                    "image_index": index,
                    **_common(request),
                    **image,
                }
            ),
        )
        for index, image in enumerate(images)
    )
