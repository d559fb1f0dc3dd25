"""What the manager counts, for Prometheus. Labels are bounded: models of the library, states, reasons."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from darkroom.manager.pool.state import ModelState, ModelStatus, PoolEvent
from darkroom.manager.store.download import Download
from darkroom.manager.store.progress import State

_STEPS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters and histograms; gauges are read when somebody looks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter, histogram = self._counter, self._histogram
        self.requests = counter("img_requests", "requests answered", "api", "model", "status")
        self.queue_wait = histogram("img_queue_wait_seconds", "from a request to its sidecar", "model")
        self.load = histogram("img_load_seconds", "loading a model", "model")
        self.generate = histogram("img_generate_seconds", "from a sidecar's first byte to its last", "model")
        self.step = histogram("img_step_seconds", "a step of a durable job", "model", buckets=_STEPS)
        self.downloaded = counter("img_download_bytes", "bytes that were fetched", "host")
        self.download = histogram("img_download_seconds", "fetching a file", "result")
        self.images = counter("img_images", "pictures of durable jobs", "model")
        self.evictions = counter("img_evictions", "models unloaded for others", "reason")
        self.out_of_memory = counter("img_oom", "times that memory was short", "rung")
        self.restarts = counter("img_restarts", "sidecars that failed", "reason")
        self.orphans = counter("img_orphans_reaped", "processes of an earlier manager, ended")
        self.cancels = counter("img_cancel", "work that was stopped", "by")
        self.sse_clients = Gauge(
            "img_sse_clients", "streams of events being listened to", registry=self.registry
        )
        self._loads: dict[str, int] = {}
        self.orphans.inc(0)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(name, help, labels, registry=self.registry)

    def _histogram(
        self, name: str, help: str, *labels: str, buckets: tuple[float, ...] = _SECONDS
    ) -> Histogram:
        return Histogram(name, help, labels, buckets=buckets, registry=self.registry)

    def watch(
        self, pool: Callable[[], Iterable[ModelStatus]], queued: Callable[[], int], stored: Callable[[], int]
    ) -> None:
        """Where gauges are read: models in the pool, durable jobs that wait, bytes in the store."""
        self.registry.register(_Gauges(pool, queued, stored))

    def take(self, event: PoolEvent) -> None:
        """Counts what happened in the pool."""
        status = event.status
        if event.type == "state" and status.loads > self._loads.get(status.model, 0):
            self._loads[status.model] = status.loads
            self.load.labels(status.model).observe(status.load_seconds or 0.0)
        elif event.type == "evicted":
            self.evictions.labels(event.reason.partition(" for ")[0] or "room").inc()
        elif event.type == "out_of_memory":
            self.out_of_memory.labels(str(status.rung)).inc()
        elif event.type == "failed" and status.failure:
            self.restarts.labels(str(status.failure.kind)).inc()
        elif event.type == "reaped":
            self.orphans.inc()

    async def follow(self, download: Download) -> None:
        """Counts what a download brings, until it is over."""
        host = urlsplit(download.wanted.url).hostname or "hub"
        began, before = time.perf_counter(), download.progress.received
        async for progress in download.events():
            if progress.state is State.DOWNLOADING:
                self.downloaded.labels(host).inc(max(0, progress.received - before))
            before = progress.received
        self.download.labels(download.state.value).observe(time.perf_counter() - began)

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self.registry)


class StepClock:
    """Seconds between a job's steps, which are told with a delay that is the same for each."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._step = metrics.step.labels(model)
        self._image = self._number = 0
        self._since: float | None = None

    def tick(self, sampling: bool, image: int, number: int) -> None:
        """A job is at this step of this picture; while it does anything else the clock stands."""
        now = time.perf_counter()
        more = number - self._number
        if not sampling or image != self._image:
            self._since = None
        if sampling and self._since is not None and more > 0:
            for _ in range(more):
                self._step.observe((now - self._since) / more)
        if sampling and (self._since is None or more > 0):
            self._since, self._image, self._number = now, image, number


class _Gauges(Collector):
    def __init__(
        self, pool: Callable[[], Iterable[ModelStatus]], queued: Callable[[], int], stored: Callable[[], int]
    ) -> None:
        self._pool = pool
        self._queued = queued
        self._stored = stored

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Read now."""
        statuses = list(self._pool())
        instances = GaugeMetricFamily("img_pool_instances", "models in each state", labels=["state"])
        for state in ModelState:
            instances.add_metric([state.value], sum(status.state is state for status in statuses))
        memory = GaugeMetricFamily("img_pool_memory_bytes", "what sidecars hold", labels=["model", "device"])
        depth = GaugeMetricFamily("img_queue_depth", "requests that wait for a model", labels=["model"])
        for status in statuses:
            depth.add_metric([status.model], status.waiting)
            for device, count in status.memory.items():
                memory.add_metric([status.model, device], count)
        yield from (instances, memory, depth)
        yield GaugeMetricFamily("img_jobs_queued", "durable jobs that wait", value=self._queued())
        yield GaugeMetricFamily("img_store_bytes", "bytes in the store", value=self._stored())
