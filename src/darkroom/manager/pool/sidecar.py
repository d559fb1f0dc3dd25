"""One process that serves one model: from its start to its end, told as messages."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

from darkroom.api.health import NONCE_VARIABLE, Health, HealthStatus
from darkroom.manager.model_settings import Setting
from darkroom.manager.pool.activity import Activity
from darkroom.manager.pool.command_line import with_defaults
from darkroom.manager.pool.diagnosis import diagnose, explain
from darkroom.manager.pool.engine import Engine
from darkroom.manager.pool.errors import FailureKind
from darkroom.manager.pool.ladder import Rung
from darkroom.manager.pool.output import Bar, Output
from darkroom.manager.pool.ports import HOST
from darkroom.manager.pool.probe import new_client, read_capabilities, read_health, read_progress
from darkroom.manager.pool.process import Process, clean_environment
from darkroom.manager.pool.run_file import Entry, RunFile
from darkroom.manager.pool.spec import Patience
from darkroom.manager.pool.state import Capabilities, Failure

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Launch:
    """What one process is started with. load_stall, hang: seconds without progress."""

    model: str
    engine: Engine
    argv: tuple[str, ...]
    settings: dict[str, Setting]
    port: int
    nonce: str
    log: Path
    folder: Path
    rung: Rung
    weight_bytes: int
    load_stall: float
    hang: float


@dataclass(frozen=True)
class Loading:
    """The process reads its files. total 0: not known yet."""

    sidecar: Sidecar
    read: int
    total: int


@dataclass(frozen=True)
class Ready:
    """The process has proved that it is ours and answers."""

    sidecar: Sidecar


@dataclass(frozen=True)
class Gone:
    """The process is no more. failure None: it was asked to stop. recovered: its memory is free again."""

    sidecar: Sidecar
    failure: Failure | None
    recovered: bool = False


class _Failed(Exception):
    """The process must go; why is in its arguments."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Sidecar:
    """The process as the pool holds it. Only `run` and what it calls change it, and `working`, `stop`."""

    launch: Launch
    patience: Patience
    run_file: RunFile
    report: Callable[[Loading | Ready | Gone], None]
    process: Process | None = None
    working: int = 0
    """requests that are with it"""

    def __post_init__(self) -> None:
        self.capabilities: Capabilities = self.launch.engine.capabilities
        self.settings: Mapping[str, Setting] = self.launch.settings
        self.output = Output(self.launch.log, self._on_bar, self._on_line)
        self._activity = Activity(time.monotonic())
        self._stopping = asyncio.Event()
        self.ended: asyncio.Future[Failure | None] = asyncio.get_running_loop().create_future()
        self._grace = self.patience.stop
        self._progress: tuple[int, int] = (0, 0)
        self._marks: frozenset[str] | None = None
        self._is_ready = False

    @property
    def pid(self) -> int | None:
        """None before the start."""
        return self.process.pid if self.process else None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.launch.port}"

    def stop(self, grace: float | None = None) -> None:
        """Asks it to end: SIGTERM, after `grace` seconds SIGKILL; 0 is SIGKILL at once."""
        self._grace = self.patience.stop if grace is None else grace
        self._stopping.set()
        if self._grace == 0 and self.process:
            self.process.kill_now()

    def beat(self) -> None:
        """Who talks to it has seen progress."""
        self._activity.beat(time.monotonic())

    async def run(self) -> None:
        """Starts it, watches it, and tells how it ends; never raises."""
        failure: Failure | None
        try:
            failure = await self._live()
        except Exception as error:
            _log.exception("model '%s': its watch failed", self.launch.model)
            if self.process:
                await self.process.kill()
            failure = self._failure(FailureKind.CRASH, str(error))
        self.run_file.drop(self.launch.nonce)
        self.ended.set_result(failure)
        self.report(Gone(self, failure))

    async def _live(self) -> Failure | None:
        try:
            self.process = await self._start()
        except OSError as error:
            return self._failure(
                FailureKind.NOT_STARTED, f"{error.filename or self.launch.argv[0]}: {error.strerror}"
            )
        async with new_client(self.patience.probe_timeout) as client:
            watch = asyncio.create_task(self._watch(client))
            ended = asyncio.create_task(self.process.wait())
            stopping = asyncio.create_task(self._stopping.wait())
            await asyncio.wait({watch, ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            watch.cancel()
            stopping.cancel()
            found = (await asyncio.gather(watch, return_exceptions=True))[0]
            was_asked = self._stopping.is_set()
            if not ended.done():
                await (self.process.stop(self._grace) if was_asked else self.process.kill())
            status = await ended
        self.output.write(f"-- ended with status {status}")
        if was_asked:
            return None
        if isinstance(found, _Failed):
            return self._failure(found.kind, str(found))
        if isinstance(found, Exception):
            raise found
        tail = self.output.tail
        kind = diagnose(status, tail)
        return self._failure(kind, explain(kind, tail, status))

    async def _start(self) -> Process:
        launch = self.launch
        launch.folder.mkdir(parents=True, exist_ok=True)
        entry = Entry(launch.nonce, launch.model, launch.port)
        await asyncio.to_thread(self.run_file.put, entry)
        self.output.write(f"-- {time.strftime('%F %T')} {' '.join(launch.argv)}")
        environment = clean_environment() | {NONCE_VARIABLE: launch.nonce, "PYTHONUNBUFFERED": "1"}
        process = await Process.start(launch.argv, environment, launch.folder, self.output.feed)
        entry = Entry(launch.nonce, launch.model, launch.port, process.pid, process.created)
        await asyncio.to_thread(self.run_file.put, entry)
        return process

    async def _watch(self, client: httpx2.AsyncClient) -> None:
        """Never returns. Errors: _Failed when the process must go."""
        await self._load(client)
        document = await read_capabilities(client, self.launch.port)
        self._take(document)
        self._is_ready = True
        self.beat()
        self.report(Ready(self))
        failures, probed = 0, time.monotonic()
        while True:
            await asyncio.sleep(self.patience.watch)
            now = time.monotonic()
            if not self.working:
                self.beat()
                if now - probed < self.patience.probe:
                    continue
            if self.working and not self.launch.engine.is_darkroom:
                self._check_progress()
                continue  # it answers nobody while it draws
            probed = now
            health = await read_health(client, self.launch.engine, self.launch.port)
            is_well = self.working or (health and self._is_ours(health))
            failures = 0 if is_well else failures + 1
            if failures >= self.patience.probe_failures:
                raise _Failed(FailureKind.HANG, f"{failures} probes were not answered")
            if health:
                self._note(health, await read_progress(client, self.launch.port))
            self._check_progress()

    async def _load(self, client: httpx2.AsyncClient) -> None:
        """Until the process answers that it is ready and is proved to be ours."""
        while True:
            health = await read_health(client, self.launch.engine, self.launch.port)
            if health:
                if not await asyncio.to_thread(self._is_ours, health):
                    raise _Failed(
                        FailureKind.PORT, f"port {self.launch.port} answers, but it is not our process"
                    )
                if health.status is HealthStatus.ERROR:
                    text = health.error or "unknown"
                    kind = diagnose(0, (text,))
                    raise _Failed(kind, explain(kind, (text,)))
                self._show_loading(health.bytes_read, health.bytes_total)
                if health.status is HealthStatus.OK:
                    return
            if self._activity.stalled_for(time.monotonic()) > self.launch.load_stall:
                raise _Failed(
                    FailureKind.STALLED_LOAD, f"no progress in loading for {self.launch.load_stall:g} s"
                )
            await asyncio.sleep(self.patience.poll)

    def _is_ours(self, health: Health) -> bool:
        """A nonce proves it; a server without one must be the owner of the listening socket."""
        if self.launch.engine.is_darkroom:
            return health.nonce == self.launch.nonce
        return self.process is not None and self.process.owns(self.launch.port)

    def _note(self, health: Health, marks: frozenset[str] | None) -> None:
        """Progress of a server that tells it; one that draws nothing, or does not tell, is not judged."""
        now = time.monotonic()
        if marks is None or not health.generating:
            self._activity.beat(now)
        elif marks != self._marks:
            self._activity.step(now)
        self._marks = marks

    def _check_progress(self) -> None:
        limit = self._activity.limit(self.launch.hang, self.patience.hang_steps)
        stalled = self._activity.stalled_for(time.monotonic())
        if self.working and stalled > limit:
            tail = self.output.tail
            said = f"; it last said: {tail[-1]}" if tail else ""
            raise _Failed(FailureKind.HANG, f"no progress for {stalled:.0f} s{said}")

    def _show_loading(self, read: int, total: int) -> None:
        if (read, total) != self._progress:
            self._progress = (read, total)
            self.beat()
            self.report(Loading(self, read, total))

    def _take(self, document: dict[str, object]) -> None:
        """What the engine says of itself goes before what is known of its kind."""
        features, defaults = document.get("features"), document.get("defaults")
        if isinstance(features, dict):
            self.capabilities = Capabilities(
                self.capabilities.progress,
                self.capabilities.previews,
                bool(features.get("cancel_generating", self.capabilities.cancel_running)),
            )
        if isinstance(defaults, dict):
            self.settings = with_defaults(self.launch.settings, defaults)

    def _on_bar(self, bar: Bar) -> None:
        if self._is_ready:
            self._activity.step(time.monotonic(), bar.seconds or None)
        elif bar.loading and not self.launch.engine.is_darkroom:
            size = self.launch.weight_bytes  # the bar counts tensors
            self._show_loading(size * bar.done // max(1, bar.total), size)

    def _on_line(self) -> None:
        if not self.launch.engine.is_darkroom or not self._is_ready:
            self.beat()

    def _failure(self, kind: FailureKind, message: str) -> Failure:
        return Failure(kind, message, self.output.tail, time.time())
