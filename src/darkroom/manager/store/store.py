"""The store: every companion file once, whoever uses it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from darkroom.api.errors import RequestError
from darkroom.manager.config import Paths
from darkroom.manager.store.blobs import Blobs
from darkroom.manager.store.collect import Garbage, collect
from darkroom.manager.store.download import Download
from darkroom.manager.store.downloads import Downloads
from darkroom.manager.store.elsewhere import Adopted, Elsewhere
from darkroom.manager.store.errors import StoreError
from darkroom.manager.store.fetcher import Fetcher
from darkroom.manager.store.folders import Folders, Stopped
from darkroom.manager.store.ledger import Ledger, Source, Use
from darkroom.manager.store.options import StoreOptions
from darkroom.manager.store.progress import Progress
from darkroom.manager.store.wanted import Published, Wanted, safe_name

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredFile:
    """One file. path: under its first name; names: every (role, name); external: another program's."""

    sha256: str
    path: Path
    size: int
    names: tuple[tuple[str, str], ...]
    sources: tuple[Source, ...]
    uses: tuple[Use, ...]
    pinned: bool
    external: bool


class Store:
    """What is in `paths.store`. Make and use it in one event loop; several processes may share the folder.

    Errors of all methods: StoreError and what is below it (errors.py), RequestError for wrong arguments.
    """

    def __init__(self, paths: Paths, options: StoreOptions = StoreOptions()) -> None:  # noqa: B008 - frozen
        self.folders = Folders(paths.store)
        self.folders.make()
        self._options = options
        self._ledger = Ledger(self.folders.ledger)
        self._blobs = Blobs(self.folders, self._ledger)
        self._elsewhere = Elsewhere(self._ledger)
        self._fetcher = Fetcher(self.folders, self._ledger, self._blobs, self._elsewhere, options)
        self._downloads = Downloads(self.folders, self._ledger, self._fetcher.obtain)
        self._reading: asyncio.Task[None] | None = None
        self._closing = False

    async def close(self) -> None:
        """Stops downloads so that the next run can go on with them."""
        self._closing = True
        await self._downloads.interrupt()
        if self._reading is not None:
            await asyncio.wait([self._reading])
        self._ledger.close()

    async def __aenter__(self) -> Store:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def fetch(
        self,
        file: Wanted | Published,
        on_progress: Callable[[Progress], None] | None = None,
        *,
        model: str = "",
    ) -> Path:
        """Has a file here: finds it, or downloads it, once for all who ask meanwhile.

        on_progress: called now and after each change. model: the one that will use it, see `start`.
        Cancelling the caller does not stop the download.
        Returns: where it is, under a name with its suffix.
        Errors: GatedFile, FileNotOffered, FileRejected, StoreFull, Offline, DownloadFailed, Cancelled.
        """
        wanted = file if isinstance(file, Wanted) else Wanted.of(file)
        download = self.start(wanted, model=model)
        async for progress in download.events():
            if on_progress is not None:
                on_progress(progress)
        path = await download.wait()
        if download.wanted == wanted:
            return path
        return self._blobs.link(path.resolve(), wanted.role, wanted.name, self.sum_of(path))

    def start(self, file: Wanted | Published, *, model: str = "") -> Download:
        """Like `fetch`, without waiting.

        model: keeps a file of known sum from being garbage, until `use` says what the model really uses.
        """
        wanted = file if isinstance(file, Wanted) else Wanted.of(file)
        if model and wanted.sha256:
            self._ledger.add_use(model, wanted.role, wanted.sha256)
        return self._downloads.start(wanted)

    def downloads(self) -> list[Download]:
        """Those of this process, and those that earlier ones did not finish; the oldest first."""
        return self._downloads.all()

    def resume_interrupted(self) -> list[Download]:
        """Goes on with what an earlier process was downloading when it ended; not with what was paused."""
        return self._downloads.resume_interrupted()

    def download(self, id: str) -> Download:
        """By its id, or by a file's name.

        Errors: RequestError.
        """
        return self._downloads.get(id)

    async def cancel(self, download: Download) -> None:
        """Stops a download and drops what is there of it."""
        await self._downloads.cancel(download)

    def find(self, sha256: str) -> Path | None:
        """These bytes, of the store or adopted, if they are here and nobody has changed them."""
        file = self._blobs.find(sha256) or self._elsewhere.find(sha256)
        if file is None:
            return None
        for role, name in self._ledger.names(sha256):
            link = self.folders.link(role, name)
            with contextlib.suppress(OSError):
                if link.samefile(file):
                    return link
        return file

    def describe(self, sha256: str) -> StoredFile | None:
        """All that is known of a file that is here."""
        path = self.find(sha256)
        if path is None:
            return None
        return StoredFile(
            sha256=sha256,
            path=path,
            size=path.stat().st_size,
            names=tuple(self._ledger.names(sha256)),
            sources=tuple(self._ledger.sources(sha256)),
            uses=tuple(self._ledger.uses(sha256)),
            pinned=self._ledger.row("SELECT 1 FROM pins WHERE sha256 = ?", sha256) is not None,
            external=not path.resolve().is_relative_to(self.folders.root.resolve()),
        )

    def files(self) -> list[StoredFile]:
        """Every file that has a name here."""
        sums = {row["sha256"] for row in self._ledger.rows("SELECT DISTINCT sha256 FROM names")}
        found = [self.describe(sha256) for sha256 in sorted(sums | set(self._blobs.all()))]
        return [file for file in found if file is not None]

    def sum_of(self, path: Path) -> str:
        """The sha256 of a file of the store, from its ledger; empty for any other file."""
        with contextlib.suppress(OSError):
            real = path.resolve(strict=True)
            if real.is_relative_to(self.folders.blobs.resolve()):
                return real.name
            row = self._ledger.row("SELECT sha256 FROM elsewhere WHERE path = ?", str(real))
            if row is not None and row["sha256"]:
                return str(row["sha256"])
            for row in self._ledger.rows("SELECT * FROM names WHERE name = ?", path.name):
                if self.folders.link(row["role"], row["name"]).samefile(path):
                    return str(row["sha256"])
        return ""

    async def add(self, path: Path, role: str = "model", name: str = "", *, copy: bool = False) -> StoredFile:
        """Takes in a file that is on this machine: by reflink or hard link, else where it is.

        copy: on another file system it is copied, so that the store owns the bytes.
        Errors: StoreError when it cannot be read; StoreFull.
        """
        path = path.expanduser().absolute()
        if not path.is_file():
            raise StoreError(f"{path}: not a file; give a model file")
        try:
            sha256 = await asyncio.to_thread(self._elsewhere.sum_of, path)
            file = self._blobs.find_or_restore(sha256)
            if file is None:
                file = await asyncio.to_thread(lambda: self._blobs.bring(sha256, path, copy=copy))
        except OSError as error:
            raise StoreError(f"{path}: cannot be taken in: {error}") from error
        if file is None:
            self._elsewhere.add(path, sha256)
            file = path
        self._blobs.link(file, role, safe_name(name or path.name), sha256)
        self._ledger.add_source(sha256, Source(str(path)))
        found = self.describe(sha256)
        assert found is not None
        return found

    async def adopt(self, folder: Path, sizes: Collection[int] = ()) -> Adopted:
        """Uses the files of another program's folder where they are; call it again to look again.

        sizes: files as large as these are read in the background, for their sums; others when they are asked
        for. Of a Hugging Face cache nothing has to be read.
        """
        adopted = await asyncio.to_thread(self._elsewhere.adopt, folder)
        if self._reading is not None:
            await asyncio.wait([self._reading])
        self._reading = asyncio.create_task(self._read_sums(set(sizes)))
        return adopted

    async def _read_sums(self, sizes: set[int]) -> None:
        for file in self._elsewhere.unread(sizes):
            try:
                await asyncio.to_thread(self._elsewhere.sum_of, file, stop=lambda: self._closing)
            except Stopped:
                return
            except OSError as error:
                _log.warning("%s: %s", file, error)

    def forget(self, folder: Path) -> None:
        """Undoes `adopt`; the folder stays as it is."""
        self._elsewhere.forget(folder)

    def adopted(self) -> list[Adopted]:
        """The adopted folders."""
        return self._elsewhere.roots()

    def use(self, model: str, files: Mapping[str, str | Path]) -> None:
        """`model` uses these files and no others: sums or paths by role. Others' paths are left out."""
        sums = {str(role): self.sum_of(f) if isinstance(f, Path) else f for role, f in files.items()}
        self._ledger.use(model, {role: sha256 for role, sha256 in sums.items() if sha256})

    def drop(self, model: str) -> None:
        """`model` is deleted: it uses nothing any more. Its files go with the next `gc`, if they can."""
        self._ledger.use(model, {})

    def references(self, sha256: str | None = None) -> list[Use]:
        """Which models use these bytes; None: all uses."""
        return self._ledger.uses(sha256)

    def pin(self, sha256: str, pinned: bool = True) -> None:
        """Keeps a file that no model uses."""
        self._ledger.pin(sha256, pinned)

    def remove(self, sha256: str) -> None:
        """Takes a model's own file out of use and forgets who used it; `fetch` brings it back for a while.

        Errors: RequestError when a model uses it, or nothing here has this sum. Files of other programs only
        lose their names.
        """
        if not sha256 or self.find(sha256) is None:
            raise RequestError(f"sha256 '{sha256}': not a file of the store; see `darkroom list`")
        if uses := self._ledger.uses(sha256):
            raise RequestError(
                f"{sha256[:16]}: used by {', '.join(sorted({use.model for use in uses}))}; delete these first"
            )
        if self._blobs.find(sha256) is not None:
            self._blobs.quarantine(sha256)
        else:
            self._blobs.unlink_names(sha256)
            self._ledger.drop_names(sha256)

    async def gc(
        self, dry_run: bool = True, *, purge: bool = False, running: Collection[Path | str] = ()
    ) -> Garbage:
        """Takes files that nothing uses out of use, and deletes those that were taken out long ago.

        running: files that models have open or would be loaded with, or their sums. purge: deletes at once.
        """
        sums = {self.sum_of(file) if isinstance(file, Path) else file for file in running}
        active = self._downloads.active()
        return await asyncio.to_thread(
            lambda: collect(
                self.folders,
                self._ledger,
                self._blobs,
                self._options,
                dry_run=dry_run,
                purge=purge,
                running=sums,
                downloading=active,
            )
        )
