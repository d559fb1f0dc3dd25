"""The pool's models and what can be done to one of them; only the keeper's task calls it."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from darkroom.manager.config import ManagerConfig, Paths
from darkroom.manager.model_settings import file_name
from darkroom.manager.pool.command_line import command_line
from darkroom.manager.pool.engine import Engine, Engines
from darkroom.manager.pool.errors import LoadFailed
from darkroom.manager.pool.ladder import Rung, Rungs
from darkroom.manager.pool.memory import RAM, Measurement, await_return, main_device, measure
from darkroom.manager.pool.messages import Message, Specified
from darkroom.manager.pool.news import News
from darkroom.manager.pool.ports import Ports
from darkroom.manager.pool.record import Record
from darkroom.manager.pool.run_file import RunFile
from darkroom.manager.pool.sidecar import Gone, Launch, Sidecar
from darkroom.manager.pool.spec import LaunchSpec, Patience
from darkroom.manager.pool.state import ModelState

_log = logging.getLogger(__name__)
_NOTABLE = 64 * 1024**2
"""bytes on a device whose return is waited for"""

Specify = Callable[[str], Awaitable[LaunchSpec]]
"""From a model's name to what it is started with; raises DarkroomError when it cannot be started."""


class Roster:
    """Records, ports, rungs, and the processes themselves."""

    def __init__(self, config: ManagerConfig, paths: Paths, specify: Specify, patience: Patience) -> None:
        self.config = config
        self.patience = patience
        self.records: dict[str, Record] = {}
        self.news = News()
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.ports = Ports(config.ports)
        self.run_file = RunFile(paths.run)
        self.measurement = Measurement({}, (), 0)
        self._paths = paths
        self._specify = specify
        self._engines = Engines()
        self._engine_of: dict[str, Engine] = {}
        self._rungs = Rungs(paths.state / "rungs.json")
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def live(self) -> list[Record]:
        """The models with a process."""
        return [record for record in self.records.values() if record.sidecar]

    def get(self, model: str) -> Record:
        """The model's record, a new one if need be."""
        return self.records.setdefault(model, Record(model))

    def now(self) -> float:
        """The clock of all records."""
        return asyncio.get_running_loop().time()

    def tell(self, record: Record, type: str, reason: str = "") -> None:
        """To all who listen."""
        self.news.tell(type, record.status(self.now(), self.config.keep_alive), reason)

    def set(self, record: Record, state: ModelState, reason: str = "") -> None:
        """Changes the state and tells."""
        record.state = state
        if reason:
            record.stop_reason = reason
        self.tell(record, "failed" if state is ModelState.FAILED else "state", reason)

    def log_file(self, model: str) -> Path:
        """Where the model's process writes."""
        return self._paths.logs / file_name(model, ".log")

    def is_blocked(self, record: Record) -> bool:
        """Whether models that make room for this one are still there."""
        record.blocked_by = {
            name for name in record.blocked_by if (other := self.records.get(name)) and other.sidecar
        }
        return bool(record.blocked_by)

    # from a name to a process

    def begin_to_specify(self, record: Record) -> None:
        """Finds out what the model is started with, outside of this task."""
        self.set(record, ModelState.VALIDATING)
        self._spawn(self._find_out(record.name))

    async def _find_out(self, model: str) -> None:
        try:
            spec = await self._specify(model)
            engine = await self._engines.get(spec.settings.engine or self.config.engine)
            found = Specified(model, (spec, engine, await measure(self.pids())))
        except Exception as error:  # of any kind: it is the requests' to hear
            found = Specified(model, error)
        self.inbox.put_nowait(found)

    def specified(self, record: Record, spec: LaunchSpec, engine: Engine) -> None:
        """The model may be placed now."""
        record.spec = spec
        self._engine_of[record.name] = engine
        device, record.rung_key = main_device(spec.settings, self.measurement.gpus)
        rung = self._rungs.get(record.name, record.rung_key)
        if (device, rung) != (record.device, record.rung):
            record.device, record.rung, record.peak = device, rung, {}
            record.proven = rung
        record.bytes_read, record.bytes_total = 0, spec.weight_bytes
        self.set(record, ModelState.QUEUED)

    def launch(self, record: Record) -> bool:
        """Starts the process; False when somebody has just taken the last port."""
        port, spec = self.ports.take(), record.spec
        assert spec is not None, "a queued model has a spec"
        if port is None:
            return False
        engine = self._engine_of[record.name]
        try:
            line = command_line(engine, spec, record.rung, port)
        except LoadFailed as error:
            refusal = error
            self.ports.give_back(port)
            record.fail(lambda: refusal)
            self.set(record, ModelState.ABSENT, str(refusal))
            return True
        launch = Launch(
            model=record.name,
            engine=engine,
            argv=tuple(line.argv),
            settings=line.settings,
            port=port,
            nonce=secrets.token_hex(16),
            log=self.log_file(record.name),
            folder=self._paths.run / "cwd",
            rung=record.rung,
            weight_bytes=spec.weight_bytes,
            load_stall=self.config.load_timeout,
            hang=self.config.hang_timeout,
        )
        record.sidecar = Sidecar(launch, self.patience, self.run_file, self.inbox.put_nowait)
        record.started, record.is_up = self.now(), False
        self.set(record, ModelState.STARTING)
        self._spawn(record.sidecar.run())
        return True

    def drain(self, record: Record, reason: str) -> None:
        """No more requests; it goes when the last one is done."""
        self.set(record, ModelState.DRAINING, reason)

    def stop(self, record: Record, reason: str, *, grace: float | None = None, evicted: bool = False) -> None:
        """Ends the process; `Gone` follows."""
        if record.sidecar is None or (record.state is ModelState.STOPPING and grace is None):
            return
        record.sidecar.stop(grace)
        self.set(record, ModelState.STOPPING, reason)
        if evicted:
            self.tell(record, "evicted", reason)

    def bury(self, record: Record, gone: Gone) -> bool:
        """Gives a dead process' port back. False while its memory is not free yet: `Gone` comes again."""
        held = {name: count for name, count in record.memory.items() if name != RAM and count > _NOTABLE}
        if held and not gone.recovered:
            self._spawn(self._recover(gone, held))
            return False
        self.ports.give_back(gone.sidecar.launch.port)
        record.sidecar, record.memory, record.leases, record.is_up = None, {}, 0, False
        for future in record.unloaded:
            if not future.done():
                future.set_result(None)
        record.unloaded.clear()
        return True

    async def _recover(self, gone: Gone, held: dict[str, int]) -> None:
        if not await await_return(held, self.measurement.gpus, self.patience.recovery):
            _log.warning("model '%s': its GPU memory is not free again", gone.sidecar.launch.model)
        self.inbox.put_nowait(Gone(gone.sidecar, gone.failure, recovered=True))

    # memory

    def pids(self) -> list[int]:
        """Of all processes."""
        return [record.sidecar.pid for record in self.live if record.sidecar and record.sidecar.pid]

    def measured(self, measurement: Measurement) -> None:
        """Takes note of what processes hold."""
        self.measurement = measurement
        for record in self.live:
            sidecar = record.sidecar
            used = measurement.used.get(sidecar.pid or 0) if sidecar else None
            if not sidecar or not used:
                continue
            keys = used.keys() | record.memory.keys()
            change = max(abs(used.get(key, 0) - record.memory.get(key, 0)) for key in keys)
            record.memory = used
            if record.is_up and sidecar.launch.rung is record.rung:
                keys = used.keys() | record.peak.keys()
                record.peak = {key: max(used.get(key, 0), record.peak.get(key, 0)) for key in keys}
            if change > _NOTABLE // 4:
                self.tell(record, "memory")

    def make_frugal(self, record: Record) -> bool:
        """Memory was short: makes room, or puts the model one rung down. False: nothing is left to do."""
        sidecar = record.sidecar
        if self.is_blocked(record):
            return True  # another request has said so already
        if sidecar and sidecar.launch.rung is not record.rung:
            return sidecar.launch.rung < record.rung
        self.tell(record, "out_of_memory", record.rung.title)
        idle = [
            other
            for other in self.live
            if other is not record and other.state is ModelState.READY and not other.is_pinned
        ]
        if idle:
            idle.sort(key=lambda other: other.last_used)
            for other in idle if record.evictions else idle[:1]:
                record.blocked_by.add(other.name)
                self.stop(other, f"memory was short for '{record.name}'", evicted=True)
            record.evictions += 1
            return True
        below = record.rung.below
        if below is None and record.proven is record.rung:
            return False
        # What no rung can do is too large, and the model need not be slow for it.
        self._step(record, record.proven if below is None else below)
        return below is not None

    def _step(self, record: Record, rung: Rung) -> None:
        """Another rung from the next start on, which is as soon as possible."""
        record.rung, record.peak, record.evictions = rung, {}, 0
        self._rungs.set(record.name, record.rung_key, rung)
        _log.warning("model '%s': memory was short; now: %s", record.name, rung.title)
        if record.is_up and record.state in (ModelState.READY, ModelState.BUSY):
            self.drain(record, "memory was short")

    def pardon(self, record: Record) -> None:
        """Crashes and rung are forgotten; the rung counts from the next start on."""
        self._rungs.forget(record.name)
        record.failures.clear()
        record.quarantined_until, record.quarantines, record.evictions = -math.inf, 0, 0
        if not record.sidecar:
            record.rung, record.proven, record.peak = Rung.FULL, Rung.FULL, {}
        self.tell(record, "state", "pardoned")

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
