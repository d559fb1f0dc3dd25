"""Pictures that requests name by URL: fetched from public addresses, if the manager may fetch at all."""

from __future__ import annotations

import asyncio

import httpx2

from darkroom.api.errors import RequestError
from darkroom.manager.config import ManagerConfig
from darkroom.manager.net_guard import guarded_client

_SECONDS = 30.0


async def fetch_picture(url: str, subject: str, config: ManagerConfig, *, seconds: float = _SECONDS) -> bytes:
    """The bytes behind `url`, at most `config.max_upload`, in at most `seconds` altogether.

    Errors: RequestError, which starts with `subject`; AddressRefused.
    """
    if not config.fetch_images:
        raise RequestError(
            f"{subject}: URLs are not fetched here; send the picture as a data URL, or set fetch_images"
        )
    try:
        async with asyncio.timeout(seconds), guarded_client() as client, client.stream("GET", url) as answer:
            return await _body(answer, subject, config.max_upload)
    except TimeoutError:
        raise RequestError(f"{subject}: the URL took longer than {seconds:.0f} s; send the picture") from None
    except httpx2.TooManyRedirects:
        raise RequestError(f"{subject}: the URL redirects too often; give the final one") from None
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise RequestError(f"{subject}: the URL cannot be fetched: {error}; give a URL that works") from None


async def _body(answer: httpx2.Response, subject: str, limit: int) -> bytes:
    if not answer.is_success:
        raise RequestError(f"{subject}: the URL answers {answer.status_code}; give one that answers 200")
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise RequestError(f"{subject}: the URL's answer is compressed; pictures are compressed already")
    data = bytearray()
    async for piece in answer.aiter_raw():
        data += piece
        if len(data) > limit:
            raise RequestError(f"{subject}: the URL gives more than {limit} bytes; give a smaller picture")
    return bytes(data)
