"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server; a registry of their own, so that two servers in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        made = self.registry
        self.requests = Counter(
            "binderclip_requests", "Answered requests.", ("method", "route", "status"), registry=made
        )
        self.seconds = Histogram(
            "binderclip_request_seconds",
            "Seconds to the answer.",
            ("route",),
            buckets=_SECONDS,
            registry=made,
        )
        self.active = Gauge("binderclip_requests_active", "Requests at work.", registry=made)
        self.inputs = Counter("binderclip_inputs", "Texts and pictures that were encoded.", ("lane",), registry=made)
        self.batches = Histogram(
            "binderclip_batch_size", "Inputs of a batch.", ("lane",), buckets=_SIZES, registry=made
        )
        self.rejected = Counter("binderclip_rejected", "Requests refused before any work.", ("reason",), registry=made)
        self.pending = Gauge("binderclip_queue", "Inputs admitted and not yet answered.", ("lane",), registry=made)

    def batch(self, lane: str, size: int) -> None:
        """Counts a batch."""
        self.inputs.labels(lane).inc(size)
        self.batches.labels(lane).observe(size)

    def watch(self, lane: str, depth: Callable[[], float]) -> None:
        """Reads a queue's depth whenever the metrics are read."""
        self.pending.labels(lane).set_function(depth)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts an answered request."""
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
