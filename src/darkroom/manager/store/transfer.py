"""One try to get the bytes of a file that are not there yet.

Ranges follow RFC 9110 §14: a server that has changed the file since answers a request with `If-Range` by
200 and all of it. Redirects are followed here, so that what is meant for one origin is sent to no other.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.message import Message
from urllib.parse import urljoin, urlsplit

import httpx2

from darkroom.manager.store.errors import (
    DownloadFailed,
    FileNotOffered,
    FileRejected,
    GatedFile,
    StoreError,
)
from darkroom.manager.store.hub import refusal
from darkroom.manager.store.offer import Offer, shown
from darkroom.manager.store.partial import Partial
from darkroom.manager.store.retry import RETRIED, TryAgain, wait_asked_for
from darkroom.manager.store.sink import Sink
from darkroom.manager.store.threads import finished
from darkroom.manager.store.wanted import Wanted, safe_name

_REDIRECTS = 5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class NotModified(StoreError):
    """The server still has the version that `Offer.unless` names."""


async def receive(
    client: httpx2.AsyncClient,
    offer: Offer,
    wanted: Wanted,
    partial: Partial,
    on_bytes: Callable[[int | None], None],
) -> None:
    """Continues `partial` until it is as long as the server says the file is.

    on_bytes: called with the whole size, if it is known, before the first byte and after each piece.
    Errors: TryAgain when the server stalls, breaks off or is busy; FileRejected when the size is not the one
    that is wanted; FileNotOffered, GatedFile, DownloadFailed; OSError of the disk.
    """
    size = wanted.size if wanted.size is not None else offer.size
    if size is not None and partial.received > size:
        await finished(partial.restart)
    if size is not None:
        on_bytes(size)
        if partial.received == size:
            return
    headers = {"Accept-Encoding": "identity"} | offer.headers
    if offer.unless and not partial.received:
        headers["If-None-Match"] = offer.unless
    if partial.received:
        headers["Range"] = f"bytes={partial.received}-"
        if validator := partial.notes.get("validator"):
            headers["If-Range"] = validator
    try:
        async with _opened(client, offer.url, headers) as response:
            total = await _start(response, offer, wanted, partial)
            if total is not None and size is not None and total != size:
                raise _wrong_size(wanted, size, total)
            if total != size:
                on_bytes(total)
            async with Sink(partial, lambda: on_bytes(total)) as sink:
                async for data in response.aiter_raw():
                    await sink.put(data)
    except httpx2.TimeoutException as error:
        raise TryAgain(f"{urlsplit(offer.url).netloc} sent nothing for too long") from error
    except httpx2.TransportError as error:
        raise TryAgain(f"{urlsplit(offer.url).netloc}: {error or type(error).__name__}") from error
    if total is not None and partial.received < total:
        raise TryAgain(f"{urlsplit(offer.url).netloc} broke off after {partial.received} of {total} bytes")
    if total is not None and partial.received > total:
        raise _wrong_size(wanted, total, partial.received)


def _wrong_size(wanted: Wanted, expected: int, received: int) -> FileRejected:
    return FileRejected(
        f"{wanted.name}: {expected} bytes were expected, the server has {received}; it is another file",
        str(expected),
        str(received),
    )


@asynccontextmanager
async def _opened(
    client: httpx2.AsyncClient, url: str, headers: dict[str, str]
) -> AsyncIterator[httpx2.Response]:
    for _ in range(_REDIRECTS + 1):
        async with client.stream("GET", url, headers=headers, follow_redirects=False) as response:
            if not response.has_redirect_location:
                yield response
                return
            target = urljoin(url, response.headers["Location"])
        if urlsplit(target).scheme not in ("http", "https"):
            raise DownloadFailed(f"{shown(url)}: leads to {shown(target)}, which is not http or https")
        if _origin(target) != _origin(url):
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        url = target
    raise DownloadFailed(f"{shown(url)}: more than {_REDIRECTS} redirects")


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


async def _start(response: httpx2.Response, offer: Offer, wanted: Wanted, partial: Partial) -> int | None:
    """Reads the head of an answer and brings the partial file in line with it.

    Returns: the size of the whole file, if the server says.
    """
    headers = response.headers
    if response.status_code == 416:
        await finished(partial.restart)
        raise TryAgain(f"{shown(offer.url)}: the file has become shorter")
    if response.status_code == 304:
        raise NotModified(f"{wanted.name}: not changed")
    if response.status_code not in (200, 206):
        raise _refused(response, offer, wanted)
    encoding = headers.get("Content-Encoding", "identity")
    validator = _validator(headers)
    etag = headers.get("ETag", "")
    if response.status_code == 206:
        found = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        known = partial.notes.get("etag", "")
        changed = bool(known and etag and known != etag)
        if not found or int(found[1]) != partial.received or changed:
            await finished(partial.restart)
            raise TryAgain(f"{shown(offer.url)}: another part than the one asked for")
        total = None if found[3] == "*" else int(found[3])
    else:
        if partial.received:
            await finished(partial.restart)
        length = headers.get("Content-Length", "")
        total = int(length) if length.isdigit() and encoding == "identity" else None
    if encoding != "identity":
        raise DownloadFailed(f"{shown(offer.url)}: sends the file packed ({encoding}), unasked")
    name = _offered_name(headers)
    await finished(lambda: partial.write_notes(etag=etag, validator=validator, name=name))
    return total


def _validator(headers: httpx2.Headers) -> str:
    """What If-Range may be: a strong ETag, else a date (RFC 9110 §13.1.5)."""
    etag = headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return "" if etag else headers.get("Last-Modified", "")


def _offered_name(headers: httpx2.Headers) -> str:
    """The file name in Content-Disposition (RFC 6266), or nothing."""
    message = Message()
    message["Content-Disposition"] = headers.get("Content-Disposition", "")
    name = message.get_filename("")
    return safe_name(name) if name else ""


def _refused(response: httpx2.Response, offer: Offer, wanted: Wanted) -> Exception:
    status = response.status_code
    if offer.repo and response.headers.get("X-Error-Code"):
        endpoint = offer.page.removesuffix(f"/{offer.repo}")
        return refusal(
            response,
            wanted,
            endpoint,
            has_token=any(name.lower() == "authorization" for name in offer.headers),
        )
    if status in RETRIED:
        return TryAgain(f"{shown(offer.url)} answered {status}", wait_asked_for(response.headers))
    if offer.repo and status in (401, 403) and _origin(str(response.url)) != _origin(offer.url):
        return TryAgain(f"{response.url.host} does not take the hub's signature any more ({status})")
    if status in (401, 403):
        return GatedFile(
            f"{wanted.name}: {shown(offer.url)} wants an account or an accepted licence ({status}); "
            f"see {offer.page or shown(offer.url)}, or put the file there by hand",
            offer.repo,
            offer.page or shown(offer.url),
        )
    if status in (404, 410):
        return FileNotOffered(f"{wanted.name}: {shown(offer.url)} is not there ({status})")
    return DownloadFailed(f"{wanted.name}: {shown(offer.url)} answered {status}")
