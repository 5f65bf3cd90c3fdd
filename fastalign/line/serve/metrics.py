"""Figures of a server in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

TEXT = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """Counts of one server; of no other in the same process.

    Args:
        version: of fastalign.
        model: name of the model's file.
        waiting: tells how many photographs wait.
    """

    def __init__(self, version: str, model: str, waiting: Callable[[], float]) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._photographs = Counter(
            "fastalign_photographs", "Photographs judged.", ["verdict"], registry=registry
        )
        for verdict in ("good", "anomaly", "unsure"):
            self._photographs.labels(verdict)
        self._refused = Counter(
            "fastalign_refused",
            "Requests refused, by status of the answer.",
            ["status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "fastalign_seconds",
            "Seconds from a photograph's last byte to its verdict.",
            buckets=_SECONDS,
            registry=registry,
        )
        gauge = Gauge("fastalign_waiting", "Photographs that wait.", registry=registry)
        gauge.set_function(waiting)
        about = Gauge(
            "fastalign_about", "What runs; always 1.", ["version", "model"], registry=registry
        )
        about.labels(version, model).set(1)
        self._drift = Gauge(
            "fastalign_drift",
            "Drift that stands: its size in its unit.",
            ["statistic", "direction", "unit"],
            registry=registry,
        )
        ProcessCollector(registry=registry)

    def judged(self, verdict: str, seconds: float) -> None:
        """One more photograph."""
        self._photographs.labels(verdict).inc()
        self._seconds.observe(seconds)

    def refused(self, status: int) -> None:
        """One more request that got an error."""
        self._refused.labels(str(status)).inc()

    def drift(self, standing: Sequence[Mapping[str, Any]]) -> None:
        """The drifts that stand."""
        self._drift.clear()
        for one in standing:
            labels = one["statistic"], one["direction"], one["unit"]
            self._drift.labels(*labels).set(one["size"])

    def text(self) -> bytes:
        """All figures."""
        return generate_latest(self._registry)
