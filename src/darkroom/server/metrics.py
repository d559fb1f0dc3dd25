"""Figures for Prometheus. Labels take few values, whatever clients send."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from darkroom.api.jobs import JobStatus
from darkroom.api.result import GenerationResult, Progress
from darkroom.api.version import __version__
from darkroom.server.errors import code_of

if TYPE_CHECKING:
    from darkroom.server.jobs import Job

_METHODS = ("GET", "POST", "HEAD", "OPTIONS")

_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_WORK_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LOAD_SECONDS = (0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


disable_created_metrics()  # type: ignore[no-untyped-call]  # they are as many lines again, read by nobody


class StepTimer:
    """Takes the seconds of each denoising step from the signs of life of one request."""

    def __init__(self, seconds: Histogram) -> None:
        self._seconds = seconds
        self._last = (0, 0.0)

    def note(self, progress: Progress) -> None:
        """A sign of life while sampling."""
        step, seconds = self._last
        if progress.step > step and progress.seconds >= seconds:
            self._seconds.observe((progress.seconds - seconds) / (progress.step - step))
        self._last = (progress.step, progress.seconds)


class Metrics:
    """The figures of one service, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        Info("darkroom", "What runs.", registry=self._registry).info({"version": __version__})
        self._count_requests()
        self._count_jobs()
        self._measure_drawing()

    def _count_requests(self) -> None:
        self.requests = self._counter(
            "http_requests",
            "Requests answered; status 0: the client left before its answer.",
            "api",
            "route",
            "method",
            "status",
        )
        self.request_seconds = self._histogram(
            "http_request_seconds", "From a request to the end of its answer.", _REQUEST_SECONDS, "api"
        )
        self.in_flight = self._gauge("http_in_flight", "Requests being answered.")
        self.streams = self._gauge("event_streams", "Clients that read server-sent events.")

    def _count_jobs(self) -> None:
        self.submitted = self._counter("jobs_queued", "Jobs taken in.", "api")
        self.refused = self._counter("jobs_refused", "Jobs that found no room in the queue.", "api")
        self.jobs = self._counter("jobs_ended", "Jobs that are over.", "api", "status")
        self.failures = self._counter(
            "jobs_failed", "Jobs that failed, by why: out_of_memory, generation_failed, ...", "code"
        )
        self.cancels = self._counter(
            "jobs_cancelled", "Jobs that were cancelled, by whom: client, disconnect or shutdown.", "by"
        )
        self.images = self._counter("images", "Pictures drawn.", "api")
        self.pixels = self._counter("pixels", "Pixels drawn.", "api")

    def _measure_drawing(self) -> None:
        self.wait_seconds = self._histogram(
            "queue_wait_seconds", "From the queue to the beginning.", _WORK_SECONDS
        )
        self.step_seconds = self._histogram(
            "step_seconds", "Denoising steps; one for pictures that are drawn together.", _WORK_SECONDS
        )
        self.phase_seconds = self._histogram(
            "generate_seconds", "Parts of drawing a job.", _WORK_SECONDS, "phase"
        )
        self.load_seconds = self._histogram("model_load_seconds", "Loading of the model.", _LOAD_SECONDS)
        self.load_failures = self._counter("model_load_failures", "Times that it could not be loaded.")
        self._device_free = self._gauge("device_memory_free_bytes", "Free memory of a card.", "device")
        self._device_total = self._gauge("device_memory_total_bytes", "Memory of a card.", "device")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"darkroom_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"darkroom_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"darkroom_{name}", text, labels, buckets=buckets, registry=self._registry)

    def look_up(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Adds a figure that is looked up when it is asked for."""
        self._gauge(name, text).set_function(value)

    def answered(self, api: str, route: str, method: str, status: int, seconds: float) -> None:
        """A request is over. route: its template, not its path."""
        known = method if method in _METHODS else "other"
        self.requests.labels(api, route, known, str(status)).inc()
        self.request_seconds.labels(api).observe(seconds)

    def queued(self, job: Job) -> None:
        """A job was taken in."""
        self.submitted.labels(job.api).inc()

    def begun(self, job: Job) -> None:
        """A job's turn has come."""
        if job.started is not None:
            self.wait_seconds.observe(max(0.0, job.started - job.created))

    def ended(self, job: Job) -> None:
        """A job is final."""
        self.jobs.labels(job.api, job.status.value).inc()
        if job.status is JobStatus.CANCELLED:
            self.cancels.labels(job.cancelled_by or "other").inc()
        elif job.error is not None:
            self.failures.labels(code_of(job.error)).inc()
        elif job.result is not None:
            self._drawn(job.api, job.result)

    def _drawn(self, api: str, result: GenerationResult) -> None:
        self.images.labels(api).inc(len(result.images))
        self.pixels.labels(api).inc(sum(image.width * image.height for image in result.images))
        for phase, seconds in result.timings.items():
            self.phase_seconds.labels(phase.value.replace(" ", "_")).observe(seconds)

    def text(self, devices: Mapping[str, tuple[int, int]]) -> bytes:
        """All figures as Prometheus reads them. devices: bytes free and in all, by name."""
        for name, (free, total) in devices.items():
            self._device_free.labels(name).set(free)
            self._device_total.labels(name).set(total)
        return generate_latest(self._registry)
