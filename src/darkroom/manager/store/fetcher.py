"""How a wanted file comes into the store: from this machine if it is here, else from where it is offered."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

from darkroom.manager.store.blobs import Blobs
from darkroom.manager.store.download import Download
from darkroom.manager.store.elsewhere import Elsewhere
from darkroom.manager.store.errors import FileNotOffered, Offline
from darkroom.manager.store.folders import Folders, Stopped, sha256_of
from darkroom.manager.store.hub import cache_folder, cached_sum, is_offline
from darkroom.manager.store.ledger import Ledger, Source
from darkroom.manager.store.locks import FileLock
from darkroom.manager.store.network import Network
from darkroom.manager.store.offer import Offer, shown
from darkroom.manager.store.options import StoreOptions
from darkroom.manager.store.progress import State
from darkroom.manager.store.threads import finished
from darkroom.manager.store.transfer import NotModified
from darkroom.manager.store.wanted import Wanted

_log = logging.getLogger(__name__)

_LOCK_POLL_S = 0.2


class Fetcher:
    """Does the work of downloads; `obtain` is one of them."""

    def __init__(
        self, folders: Folders, ledger: Ledger, blobs: Blobs, elsewhere: Elsewhere, options: StoreOptions
    ) -> None:
        self._folders = folders
        self._ledger = ledger
        self._blobs = blobs
        self._elsewhere = elsewhere
        self._options = options
        self._network = Network(folders, options)
        self._places = asyncio.Semaphore(options.parallel)

    async def obtain(self, download: Download) -> Path:
        """The file, under the name that it has in the store.

        Errors: those of `Store.fetch`.
        """
        wanted = download.wanted
        download.show(State.CHECKING)
        if found := await self._here(wanted):
            return found
        lock = FileLock(self._folders.partial / f"{wanted.key}.lock")
        while not lock.acquire():
            self._watch_other(download)
            await asyncio.sleep(_LOCK_POLL_S)
        try:
            if wanted.sha256 and (blob := self._blobs.find_or_restore(wanted.sha256)):
                return self._named(blob, wanted, wanted.sha256)
            if is_offline(self._options):
                return await self._without_network(wanted)
            download.show(State.QUEUED)
            async with self._places:
                return await self._from_network(download)
        finally:
            lock.release()

    async def _here(self, wanted: Wanted) -> Path | None:
        """A file that does not have to be fetched, under its name."""
        if wanted.sha256 and (found := await self.locate(wanted.sha256, wanted.size)):
            return self._named(found, wanted, wanted.sha256)
        place = self._folders.link(wanted.role, wanted.name)
        if self._ledger.has_name(wanted.role, wanted.name) or not place.is_file():
            return None
        if wanted.size is not None and place.stat().st_size != wanted.size:
            return None
        sha256 = await asyncio.to_thread(sha256_of, place)
        if wanted.sha256 not in ("", sha256):
            _log.warning("%s: put there by hand, but not the file that is wanted (%s)", place, wanted.sha256)
            return None
        blob = await finished(lambda: self._blobs.bring(sha256, place, copy=True)) or place
        self._ledger.add_name(wanted.role, wanted.name, sha256)
        return self._named(blob, wanted, sha256)

    async def _from_network(self, download: Download) -> Path:
        wanted = download.wanted
        last = None if wanted.sha256 else self._ledger.last_from(wanted.origin)
        known = (
            last[0]
            if last and (self._blobs.find_or_restore(last[0]) or self._elsewhere.find(last[0]))
            else ""
        )
        try:
            got = await self._network.fetch(download, self.locate, last[1].etag if last and known else "")
        except NotModified:
            file = await self.locate(known, None)
            if file is None:
                raise FileNotOffered(f"{wanted.name}: it was here a moment ago; fetch it again") from None
            return self._named(file, wanted, known)
        path = got.file
        if got.is_new:
            path = await finished(lambda: self._blobs.take(got.sha256, got.file))
        return self._named(path, wanted, got.sha256, got.offer)

    async def locate(self, sha256: str, size: int | None) -> Path | None:
        """These bytes on this machine: in the store, in adopted folders, in the Hugging Face cache."""
        if found := self._blobs.find_or_restore(sha256):
            return found
        cache = cache_folder(self._options)
        stop = threading.Event()
        try:
            return await asyncio.to_thread(
                lambda: (
                    self._elsewhere.in_hf_cache(cache, sha256, size)
                    or self._elsewhere.search(sha256, size, stop=stop.is_set)
                )
            )
        except Stopped:
            return None
        finally:
            stop.set()

    def _watch_other(self, download: Download) -> None:
        """Another process downloads the same file: shows how far it is."""
        part = self._folders.partial / f"{download.wanted.key}.part"
        try:
            received = part.stat().st_size
        except OSError:
            received = 0
        download.show(State.DOWNLOADING, received, download.wanted.size)

    def _named(self, file: Path, wanted: Wanted, sha256: str, offer: Offer | None = None) -> Path:
        name = offer.name if offer is not None and offer.name else wanted.name
        path = self._blobs.link(file, wanted.role, name, sha256)
        if offer is not None:
            source = Source(
                wanted.origin, shown(offer.url), offer.repo, offer.revision, offer.etag, wanted.licence
            )
            self._ledger.add_source(sha256, source)
        return path

    async def _without_network(self, wanted: Wanted) -> Path:
        if not wanted.sha256:
            last = self._ledger.last_from(wanted.origin)
            for sha256 in (last[0] if last else "", cached_sum(wanted, self._options)):
                if sha256 and (found := await self.locate(sha256, None)):
                    return self._named(found, wanted, sha256)
        place = self._folders.link(wanted.role, wanted.name)
        raise Offline(
            f"{wanted.name}: is not on this machine and offline mode is on; unset HF_HUB_OFFLINE, or get it "
            f"from {wanted.origin} elsewhere and put it at {place}"
        )
