"""The manager put together: library, store, pool, jobs, keys. Gateway and command line stand on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darkroom.api.errors import RequestError
from darkroom.manager.config import OPENAI_NAMES, ManagerConfig, Paths
from darkroom.manager.gateway.files import SignedFiles
from darkroom.manager.gateway.job_runner import JobRunner
from darkroom.manager.gateway.job_store import JobStore
from darkroom.manager.gateway.jobs import Status
from darkroom.manager.gateway.keys import Keys
from darkroom.manager.gateway.metrics import Metrics
from darkroom.manager.gateway.results import Results
from darkroom.manager.gateway.sidecars import Sidecars
from darkroom.manager.library.catalogue import KnownFile
from darkroom.manager.library.components import Component
from darkroom.manager.library.library import BUILTIN, Library
from darkroom.manager.library.model import Model
from darkroom.manager.model_settings import ModelSettings, SettingsFolder
from darkroom.manager.pool.engine import Engines
from darkroom.manager.pool.pool import Pool
from darkroom.manager.pool.spec import LaunchSpec, Patience
from darkroom.manager.pool.state import ModelStatus
from darkroom.manager.store.collect import Garbage
from darkroom.manager.store.download import Download
from darkroom.manager.store.options import StoreOptions, tokens_of_hosts
from darkroom.manager.store.progress import State
from darkroom.manager.store.store import Store
from darkroom.manager.store.wanted import Wanted
from darkroom.manager.units import count_of, seconds

logger = logging.getLogger(__name__)


class Manager:
    """Everything that one `darkroom serve` has. `start` and `stop` in the event loop that it lives in."""

    def __init__(self, config: ManagerConfig, paths: Paths, patience: Patience | None = None) -> None:
        self.config = config
        self.paths = paths
        self.keys = Keys(paths.keys_file)
        self.settings = SettingsFolder(paths.model_settings)
        self.metrics = Metrics()
        self.store = Store(
            paths,
            StoreOptions(allow_private=config.allow_private_downloads, host_tokens=tokens_of_hosts()),
        )
        self.library = Library(paths, config.folders, downloading=self._is_downloading)
        self.pool = Pool(config, paths, self.specify, patience)
        self.sidecars = Sidecars(self.pool, self.metrics)
        self.jobs_store = JobStore(paths.jobs_file)
        self.jobs = JobRunner(self.jobs_store, self.sidecars, Results(paths.results), config.job_retention)
        self.files = SignedFiles(paths.cache / "pictures")
        self.checkpoint = ""
        """what A1111's clients have chosen; empty: the default model"""
        self._engines = Engines()
        self._scanned = asyncio.Event()
        self._fetched = 0
        """downloads that were done when the library was last read"""
        self._tasks: list[asyncio.Task[None]] = []
        self._loads: set[asyncio.Task[ModelStatus]] = set()
        self._fetches: dict[str, asyncio.Task[None]] = {}
        self.stopping = False

    async def start(self, *, with_old_jobs: bool = True) -> None:
        """Cleans up after a dead manager, then takes requests; the library is read meanwhile.

        with_old_jobs: take up the durable jobs and the downloads of earlier managers.
        """
        self.paths.models.mkdir(parents=True, exist_ok=True)
        self._tasks.append(asyncio.create_task(self._watch_library()))
        await self.pool.start()
        self.metrics.orphans.inc(len(self.pool.reaped))
        self.metrics.watch(
            self.pool.state, lambda: self.jobs_store.count(Status.QUEUED), lambda: self.stored_bytes
        )
        self.jobs.start(with_old_jobs=with_old_jobs)
        if with_old_jobs:
            for download in self.store.resume_interrupted():
                self._watched(download)
                logger.info("download of %s: goes on", download.wanted.name)
        self._tasks.append(asyncio.create_task(self._watch_pool()))

    async def stop(self, drain: float | None = None) -> None:
        """Takes nothing more, lets running work end for a while, and leaves no process behind."""
        if self.stopping:
            await self.pool.shutdown(0)  # asked twice: now
            return
        self.stopping = True
        drain = self.config.drain_timeout if drain is None else drain
        for task in (*self._tasks, *self._fetches.values()):
            task.cancel()
        ends = (self.jobs.stop(drain), self.pool.shutdown(drain))
        for failure in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(failure, Exception):  # such as a disk that is gone; the rest still ends
                logger.error("stopping: %s", failure, exc_info=failure)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.sidecars.client.aclose()
        await self.store.close()
        self.library.close()
        self.jobs_store.close()

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken and every model is known."""
        return self._scanned.is_set() and not self.stopping

    @property
    def stored_bytes(self) -> int:
        """What the store's files take."""
        return sum(file.size for file in self.store.files() if not file.external)

    async def scanned(self) -> None:
        """Returns when the library has been read once."""
        await self._scanned.wait()

    async def rescan(self) -> None:
        """Looks at the library's folders now."""
        done = self._downloads_done()
        await asyncio.to_thread(self.library.scan)
        self._fetched = done
        self._scanned.set()

    async def up_to_date(self) -> None:
        """Returns when the library knows of everything that was fetched."""
        await self.scanned()
        if self._downloads_done() != self._fetched:
            await self.rescan()

    def _downloads_done(self) -> int:
        return sum(download.state is State.COMPLETED for download in self.store.downloads())

    async def resolve(self, name: str | None) -> str:
        """The id of the model that a request means. Errors: UnknownModel, AmbiguousModel, BrokenModel."""
        if not name or (self.config.openai_aliases and name in OPENAI_NAMES):
            return await self._default()
        return (await self.model(self.config.aliases.get(name, name))).id

    async def model(self, name: str) -> Model:
        """The model of a name; the built-in one is there before the folders were read."""
        if name != BUILTIN or self._scanned.is_set():
            await self.up_to_date()
        return self.library.get(name)

    async def named(self, name: str) -> Model:
        """The model that a name means, aliases of all kinds included. Errors: as `resolve`."""
        return await self.model(await self.resolve(name))

    async def _default(self) -> str:
        if self.config.default_model:
            name = self.config.default_model
            return (await self.model(self.config.aliases.get(name, name))).id
        serving = [status for status in self.pool.state() if status.state.is_serving]
        serving.sort(key=lambda status: status.idle_seconds or 0.0)
        return serving[0].model if serving else BUILTIN

    async def specify(self, name: str) -> LaunchSpec:
        """What the pool starts the model with. Errors: those of `Library.launch_files`."""
        model = await self.model(name)
        files = await asyncio.to_thread(self.library.launch_files, model)
        settings = self.settings.get(model.id)
        if settings.engine is None and self.config.engine is not None:
            settings = settings.model_copy(update={"engine": self.config.engine})
        if not model.engine and settings.engine is None:
            raise RequestError(
                f"{model.id}: our engine draws no {model.title}; set `engine` to an sd-server that does"
            )
        self.store.use(model.id, {str(role): path for role, path in files.items()})
        paths = files.values() if files else [model.path]
        network = model.network
        return LaunchSpec(
            model.id,
            files,
            settings,
            weight_bytes=sum(_size(path) for path in paths),
            diffusion_layers=network.layers or None,
            diffusion_bytes=network.nbytes or None,
        )

    def change_settings(self, model: str, changes: Mapping[str, Any]) -> ModelSettings:
        """Saves changes; a loaded model takes them up at its next load. Errors: RequestError."""
        return self.settings.change(model, changes)

    async def is_darkroom(self, model: str) -> bool:
        """Whether the model's engine is ours, or speaks like it. Errors: LoadFailed when it cannot be run."""
        if loaded := self.pool.status(model).engine:
            return loaded == "darkroom"
        path = self.settings.get(model).engine or self.config.engine
        return (await self._engines.get(path)).is_darkroom

    def begin_load(self, model: str, keep_alive: float | None = None) -> asyncio.Task[ModelStatus]:
        """Loads the model, whether or not somebody waits for it."""
        task = asyncio.create_task(self.pool.load(model, keep_alive))
        self._loads.add(task)
        task.add_done_callback(self._loads.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # told in the pool's state
        return task

    def keep_alive(self, value: object) -> float | None:
        """A request's `keep_alive`: `10m`, 0, -1. Errors: RequestError."""
        if value is None or value == "":
            return None
        if not isinstance(value, str | int | float):
            raise RequestError("keep_alive: not a time; write 10m, 0 or -1")
        return seconds(value, "keep_alive")

    def fetch(self, file: Wanted, model: str = "") -> Download:
        """Begins to fetch a file, or joins whoever does. model: the one that it is for, see `Store.start`."""
        return self._watched(self.store.start(file, model=model))

    def _watched(self, download: Download) -> Download:
        """Counts what is fetched, and has the library look at it."""
        if download.id not in self._fetches:
            self._fetches[download.id] = asyncio.create_task(self._watch_download(download))
            self._fetches[download.id].add_done_callback(lambda _: self._fetches.pop(download.id, None))
        return download

    async def _watch_download(self, download: Download) -> None:
        await self.metrics.follow(download)
        await self.up_to_date()

    def fetch_missing(self, model: Model) -> list[tuple[Component, Download]]:
        """Begins to fetch every required companion that is not there and is published: the one click."""
        return [
            (component, self.fetch(Wanted.of(component.known[0]), model.id))
            for component in self.library.components(model)
            if component.required and component.can_be_fetched
        ]

    async def collect_garbage(self, dry_run: bool = True, *, purge: bool = False) -> Garbage:
        """`Store.gc`, with what models have open and what they would be loaded with."""
        await self.scanned()
        taken = self.pool.open_files() | await asyncio.to_thread(self.library.files_taken)
        return await self.store.gc(dry_run, purge=purge, running=taken)

    def _is_downloading(self, known: KnownFile) -> bool:
        active = [download for download in self.store.downloads() if download.state.is_active]
        return bool(active) and Wanted.of(known).key in {download.wanted.key for download in active}

    async def _watch_library(self) -> None:
        await self.rescan()
        logger.info("library: %s", count_of(self.library.models(), "model"))
        async for _ in self.library.watch():
            logger.info("library: %s now", count_of(self.library.models(), "model"))

    async def _watch_pool(self) -> None:
        async for event in self.pool.events():
            self.metrics.take(event)


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return path.stat().st_size
    except OSError:
        return 0
