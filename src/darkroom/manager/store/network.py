"""Bytes from the network: from one place or the next, again and again until they are all there and proven."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from urllib.parse import urlsplit

import httpx2

from darkroom.manager.net_guard import guarded_client
from darkroom.manager.store.download import Download
from darkroom.manager.store.elsewhere import MODEL_SUFFIXES
from darkroom.manager.store.errors import (
    DownloadFailed,
    FileNotOffered,
    FileRejected,
    GatedFile,
    StoreError,
    StoreFull,
)
from darkroom.manager.store.folders import Folders
from darkroom.manager.store.hub import hub_offer
from darkroom.manager.store.offer import Offer
from darkroom.manager.store.options import StoreOptions
from darkroom.manager.store.partial import Partial
from darkroom.manager.store.progress import State
from darkroom.manager.store.retry import TryAgain, pause_before
from darkroom.manager.store.space import Space
from darkroom.manager.store.threads import finished
from darkroom.manager.store.transfer import NotModified, receive
from darkroom.manager.store.wanted import Wanted

_log = logging.getLogger(__name__)

Locate = Callable[[str, int | None], Awaitable[Path | None]]
Ask = Callable[[], Awaitable[Offer]]


@dataclass(frozen=True)
class Received:
    """A file whose bytes are proven. is_new: it is in `partial/` and must be placed."""

    sha256: str
    file: Path
    offer: Offer
    is_new: bool


class Network:
    """Downloads into `partial/`. The caller holds the key's lock."""

    def __init__(self, folders: Folders, options: StoreOptions) -> None:
        self._folders = folders
        self._options = options
        self._space = Space(folders.root, options)

    async def fetch(self, download: Download, locate: Locate, unless: str) -> Received:
        """The hub first, then the plain URL; where both fail, the hub's answer is told.

        locate: finds a file on this machine, once the server has said its sum. unless: the ETag of a version
        that is here.
        Errors: NotModified; those of `Store.fetch`.
        """
        wanted = download.wanted
        ways = [way for way, given in ((self._by_hub, wanted.repo), (self._by_url, wanted.url)) if given]
        errors: list[StoreError] = []
        for way in ways:
            try:
                return await way(download, locate, unless)
            except (GatedFile, FileNotOffered, DownloadFailed) as error:
                errors.append(error)
        if errors:
            raise errors[0]
        raise FileNotOffered(f"{wanted.name}: it is not known where it is offered; put it there by hand")

    async def _by_hub(self, download: Download, locate: Locate, unless: str) -> Received:
        async def ask() -> Offer:
            offer = await hub_offer(download.wanted, self._options)
            if unless and offer.etag == unless:
                raise NotModified(f"{download.wanted.name}: not changed")
            return offer

        async with httpx2.AsyncClient(timeout=self._timeout()) as client:
            return await self._download(download, client, ask, locate)

    async def _by_url(self, download: Download, locate: Locate, unless: str) -> Received:
        wanted = download.wanted
        token = self._options.host_tokens.get(urlsplit(wanted.url).hostname or "")
        secure = self._options.allow_private or wanted.url.startswith("https:")
        headers = {"Authorization": f"Bearer {token}"} if token and secure else {}

        async def ask() -> Offer:
            return Offer(wanted.url, headers, unless=unless)

        async with guarded_client(
            allow_private=self._options.allow_private, follow_redirects=False, timeout=self._timeout()
        ) as client:
            return await self._download(download, client, ask, locate)

    def _timeout(self) -> httpx2.Timeout:
        stall = self._options.stall_s
        return httpx2.Timeout(stall, connect=min(10.0, stall), pool=None)

    async def _download(
        self, download: Download, client: httpx2.AsyncClient, ask: Ask, locate: Locate
    ) -> Received:
        wanted = download.wanted
        partial = Partial(self._folders.partial, wanted.key)
        try:
            download.show(State.CHECKING)
            await finished(partial.open, partial.stop)
            while True:
                offer, found = await self._receive(download, client, ask, locate, partial)
                if found is not None:
                    partial.discard()
                    return Received(offer.sha256, found, offer, is_new=False)
                expected = wanted.sha256 or offer.sha256 or partial.sha256
                if partial.sha256 == expected:
                    break
                if not partial.inherited:
                    raise _rejected(wanted, expected, partial, self._folders.quarantine)
                _log.warning(
                    "%s: what an earlier run left of it was damaged; it is fetched anew", wanted.name
                )
                await finished(partial.restart)
            _check_content(wanted, partial)
            notes = partial.notes
            offer = replace(
                offer,
                etag=offer.etag or notes.get("etag", ""),
                name=_name(wanted, notes.get("name", ""), partial),
            )
            partial.finish()
            return Received(partial.sha256, partial.file, offer, is_new=True)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(
                    f"{wanted.name}: {self._folders.root} has no room left; make room and resume", 0, 0
                ) from error
            raise
        finally:
            self._space.done(wanted.key)
            partial.close()

    async def _receive(
        self,
        download: Download,
        client: httpx2.AsyncClient,
        ask: Ask,
        locate: Locate,
        partial: Partial,
    ) -> tuple[Offer, Path | None]:
        """Tries until all bytes are there, or the server has named a file that is on this machine."""
        wanted, options = download.wanted, self._options
        failures = 0
        while True:
            before = partial.received
            try:
                offer = await ask()
                _check_sum(wanted, offer)
                if not wanted.sha256 and offer.sha256 and (found := await locate(offer.sha256, offer.size)):
                    return offer, found
                await receive(client, offer, wanted, partial, self._watch(download, partial))
                return offer, None
            except TryAgain as error:
                failures = 1 if partial.received > before else failures + 1
                if failures >= options.tries:
                    raise DownloadFailed(
                        f"{wanted.name}: {error}; given up after {failures} tries; fetch it again to go on"
                    ) from error
                wait = pause_before(failures, options.backoff_s) if error.wait_s is None else error.wait_s
                _log.info("%s: %s; again in %.1f s", wanted.name, error, wait)
                await asyncio.sleep(wait)

    def _watch(self, download: Download, partial: Partial) -> Callable[[int | None], None]:
        """What is done at each piece: progress is told, and the disk is looked at now and then."""
        name, key = download.wanted.name, download.wanted.key
        looked_at = -1

        def on_bytes(total: int | None) -> None:
            nonlocal looked_at
            if looked_at < 0 or partial.received - looked_at >= self._options.recheck:
                looked_at = partial.received
                self._space.need(key, name, (total or 0) - partial.received if total else 0)
            download.show(State.DOWNLOADING, partial.received, total)

        return on_bytes


def _check_sum(wanted: Wanted, offer: Offer) -> None:
    if wanted.sha256 and offer.sha256 and wanted.sha256 != offer.sha256:
        raise FileRejected(
            f"{wanted.name}: sha256 {wanted.sha256} was expected, {wanted.origin} now has {offer.sha256}; "
            "name a revision that has the file, or another source",
            wanted.sha256,
            offer.sha256,
        )


def _rejected(wanted: Wanted, expected: str, partial: Partial, quarantine: Path) -> FileRejected:
    received = partial.sha256
    kept = partial.reject(quarantine)
    return FileRejected(
        f"{wanted.name}: sha256 {expected} was expected, {received} came; what came is not used ({kept})",
        expected,
        received,
    )


def _name(wanted: Wanted, offered: str, partial: Partial) -> str:
    """What a file is called whose address does not end like a model's: the server's name, else by content."""
    if PurePath(wanted.name).suffix.lower() in MODEL_SUFFIXES or wanted.sha256:
        return wanted.name
    if PurePath(offered).suffix.lower() in MODEL_SUFFIXES:
        return offered
    begin = partial.begin(9)
    if begin.startswith(b"GGUF"):
        return f"{wanted.name}.gguf"
    return f"{wanted.name}.safetensors" if begin[8:] == b"{" else wanted.name


_NO_MODELS = {
    b"version https://git-lfs": "a Git LFS pointer",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
}


def _check_content(wanted: Wanted, partial: Partial) -> None:
    """What servers send in place of a file whose sum nobody knows."""
    begin = partial.begin(64).lstrip().lower()
    for magic, what in _NO_MODELS.items():
        if begin.startswith(magic):
            partial.discard()
            raise FileRejected(f"{wanted.name}: {wanted.origin} is {what}, not a model; check the address")
