"""Counts and times of the service in the format of Prometheus."""

from __future__ import annotations

import os
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE")
SHARED = "PROMETHEUS_MULTIPROC_DIR"  # set where several workers count together
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Of one process; where several work together, they are added up when somebody asks one of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "unisrec"}
        # a path that the service does not have must not make a row of its own
        self._requests = Counter("requests", "Answered requests.", ("path", "method", "status"), **own)
        self._seconds = Histogram("request_seconds", "Time to answer.", ("path",), buckets=SECONDS, **own)
        latest: dict[str, Any] = {**own, "multiprocess_mode": "livemax"}
        self.items = Gauge("items", "Items that can be recommended.", **latest)
        self.version = Gauge("catalogue_version", "Rises with each change of the catalogue.", **latest)
        self.waiting = Gauge(
            "waiting_requests", "Recommendations that wait.", **{**own, "multiprocess_mode": "livesum"}
        )
        self.writes = Gauge("waiting_writes", "Changes that wait.", **{**own, "multiprocess_mode": "livesum"})
        self.changed = Counter("changed_items", "Items added, replaced or removed over HTTP.", **own)
        self.reloads = Counter("reloads", "Saved models taken over while serving.", ("result",), **own)

    def answered(self, scope: Any, status: int, seconds: float) -> None:
        """Count a request."""
        route = scope.get("route")
        path = getattr(route, "path", None) or "other"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._requests.labels(path, method, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        if SHARED not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call, unused-ignore]
        return generate_latest(together)
