"""What a service counts, in Prometheus' text format."""

from __future__ import annotations

import threading
from collections import Counter

LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the histogram, in seconds."""


class Metrics:
    """Counters for Prometheus; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._statuses: Counter[int] = Counter()
        self._buckets = [0] * len(LATENCIES)
        self._sums: Counter[str] = Counter()
        self._seconds = 0.0

    def request(self, status: int, seconds: float) -> None:
        """Counts an answered request."""
        with self._lock:
            self._statuses[status] += 1
            self._seconds += seconds
            for index, bound in enumerate(LATENCIES):
                self._buckets[index] += seconds <= bound

    def add(self, **amounts: int) -> None:
        """Adds to the counters called sparring_<name>_total."""
        with self._lock:
            self._sums.update(amounts)

    def text(self, gauges: dict[str, float]) -> str:
        """All counters, and the gauges given, in Prometheus' text format."""
        with self._lock:
            rows = ["# TYPE sparring_requests_total counter"]
            rows += [f'sparring_requests_total{{status="{s}"}} {n}' for s, n in sorted(self._statuses.items())]
            for name, value in sorted(self._sums.items()):
                rows += [f"# TYPE sparring_{name}_total counter", f"sparring_{name}_total {value}"]
            name, count = "sparring_request_seconds", self._statuses.total()
            rows.append(f"# TYPE {name} histogram")
            bounds = zip(LATENCIES, self._buckets, strict=True)
            rows += [f'{name}_bucket{{le="{bound}"}} {seen}' for bound, seen in bounds]
            rows += [f'{name}_bucket{{le="+Inf"}} {count}', f"{name}_sum {self._seconds:.6f}"]
            rows.append(f"{name}_count {count}")
        for name, level in gauges.items():
            rows += [f"# TYPE sparring_{name} gauge", f"sparring_{name} {level:g}"]
        return "\n".join(rows) + "\n"
