"""Events of operations and stage moves, where they go, and histograms of how long operations took.

Every operation of the memory, every stage move and every step of a migration is an `Event`, given to each sink: a callable
that takes it. A sink that raises is dropped, and that is an event, too; nothing is ever printed. Histograms are kept in the
process whatever the sinks, for gates and `status`.

Sinks: any callable; `to_logging`, `to_json_lines`; `to_opentelemetry` and `to_prometheus`, whose packages are imported when
they are made.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from store.errors import UserError

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable

__all__ = [
    "Event", "Histogram", "Resources", "Telemetry", "resources_now", "to_json_lines", "to_logging", "to_opentelemetry",
    "to_prometheus",
]  # fmt: skip

_SUB: Final = 4  # bits after the leading one: a bucket is 6 per cent wide
_KEPT: Final = 1 << 10  # events kept for `status`


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        operation: an operation of the memory ("get_value"), or what else happened ("stage", "drain", "rewrite", "alert" ...).
        key: the key, as text; "" when there is none.
        stage: the stage of the key or kind.
        store: the store that answered or was written: "edn", "datalog", "edn+datalog"; "" for none.
        found: whether a read found something; None for other operations.
        ns: how long it took, in nanoseconds.
        error: code of the error, or its class; "" when there was none.
        data: what else there is to say.
    """

    operation: str
    key: str = ""
    stage: str = ""
    store: str = ""
    found: bool | None = None
    ns: int = 0
    error: str = ""
    data: dict[str, Any] = field(default_factory=dict)


class Histogram:
    """Counts of durations in buckets six per cent wide.

    Adding takes about a microsecond, and may lose a count between threads; it never raises.
    """

    __slots__ = ("count", "counts", "total_ns")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.count = 0
        self.total_ns = 0

    def add(self, ns: int) -> None:
        """Counts one duration in nanoseconds."""
        shift = max(0, ns.bit_length() - _SUB - 1)
        bucket = (shift << (_SUB + 1)) + (ns >> shift)
        counts = self.counts
        counts[bucket] = counts.get(bucket, 0) + 1
        self.count += 1
        self.total_ns += ns

    def quantile(self, q: float) -> float | None:
        """The duration in nanoseconds below which the share `q` lies; None when nothing was counted."""
        counts = sorted(self.counts.items())
        total = sum(n for _, n in counts)
        if not total:
            return None
        left = q * total
        for bucket, n in counts:
            if n >= left:
                shift = bucket >> (_SUB + 1)
                low = (bucket & ((1 << (_SUB + 1)) - 1)) << shift
                return low + (1 << shift) * left / n
            left -= n
        return None

    def as_dict(self) -> dict[str, Any]:
        """Count and quantiles in microseconds."""

        def us(q: float) -> float | None:
            ns = self.quantile(q)
            return None if ns is None else round(ns / 1000, 1)

        return {"count": self.count, "p50_us": us(0.5), "p95_us": us(0.95), "p99_us": us(0.99)}


@dataclass(frozen=True, slots=True)
class Resources:
    """What the process has used: resident memory, CPU seconds, bytes read from and written to disks."""

    rss_bytes: int
    cpu_s: float
    read_bytes: int
    written_bytes: int

    def since(self, earlier: Resources) -> dict[str, Any]:
        """What was used since an earlier moment; memory as it is."""
        return {
            "rss_bytes": self.rss_bytes,
            "cpu_s": round(self.cpu_s - earlier.cpu_s, 3),
            "read_bytes": self.read_bytes - earlier.read_bytes,
            "written_bytes": self.written_bytes - earlier.written_bytes,
        }


def resources_now() -> Resources:
    """What the process has used so far; disk figures are 0 where the system does not tell."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    io: dict[str, int] = {}
    rss = usage.ru_maxrss * 1024
    with contextlib.suppress(OSError, ValueError):
        rss = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError):
        io = {n: int(v) for n, v in (line.split(":") for line in Path("/proc/self/io").read_text().splitlines())}
    return Resources(rss, usage.ru_utime + usage.ru_stime, io.get("read_bytes", 0), io.get("write_bytes", 0))


class Telemetry:
    """Sinks, alert hooks and histograms of one memory. Safe between threads.

    Args:
        sinks: called with each event.
        alerts: called with the events whose operation is "alert": a second store that fails, a mismatch, a refused gate.
    """

    def __init__(
        self, sinks: Iterable[Callable[[Event], Any]] = (), alerts: Iterable[Callable[[Event], Any]] = ()
    ) -> None:
        self._sinks: tuple[Callable[[Event], Any], ...] = tuple(sinks)
        self._alerts: tuple[Callable[[Event], Any], ...] = tuple(alerts)
        self._lock = threading.Lock()
        self.histograms: dict[tuple[str, str, str], Histogram] = {}
        self.errors: dict[str, int] = {}
        self.operations = 0
        self.recent_alerts: list[Event] = []
        self.usage: dict[str, dict[str, Any]] = {}
        self._usage_stage = ""
        self._usage_from = resources_now()

    def add_sink(self, sink: Callable[[Event], Any]) -> None:
        """Adds a sink."""
        with self._lock:
            self._sinks = (*self._sinks, sink)

    def took(self, operation: str, stage: str, store: str, ns: int) -> None:
        """Counts a duration."""
        at = (operation, stage, store)
        histogram = self.histograms.get(at)
        if histogram is None:
            histogram = self.histograms.setdefault(at, Histogram())
        histogram.add(ns)

    def done(
        self, operation: str, key: object, stage: str, store: str, began_ns: int, *,
        found: bool | None = None, error: str = "",
    ) -> None:  # fmt: skip
        """Counts an operation that has just ended, and tells the sinks."""
        ns = time.perf_counter_ns() - began_ns
        self.operations += 1
        self.took(operation, stage, store, ns)
        if error:
            with self._lock:
                self.errors[error] = self.errors.get(error, 0) + 1
        if self._sinks:
            self.emit(Event(operation, str(key) if key is not None else "", stage, store, found, ns, error))

    def emit(self, event: Event) -> None:
        """Gives an event to the sinks."""
        for sink in self._sinks:
            self._give(sink, event)

    def alert(self, name: str, **data: Any) -> None:
        """Gives an alert to sinks and alert hooks, and keeps it for `status`."""
        event = Event("alert", data={"alert": name, **data})
        with self._lock:
            self.recent_alerts = [*self.recent_alerts[-99:], event]
        self.emit(event)
        for hook in self._alerts:
            self._give(hook, event)

    def _give(self, sink: Callable[[Event], Any], event: Event) -> None:
        try:
            sink(event)
        except Exception as e:  # noqa: BLE001 - an application's sink must not fail its memory
            with self._lock:
                self._sinks = tuple(s for s in self._sinks if s is not sink)
                self._alerts = tuple(s for s in self._alerts if s is not sink)
                self.errors["sink dropped"] = self.errors.get("sink dropped", 0) + 1
            self.emit(Event("sink-dropped", error=f"{type(e).__name__}: {e}"))

    def stage_begins(self, stage: str) -> None:
        """Books what the process used to the stage that ends."""
        now = resources_now()
        with self._lock:
            if self._usage_stage:
                self.usage[self._usage_stage] = now.since(self._usage_from)
            self._usage_stage, self._usage_from = stage, now

    def summary(self) -> dict[str, Any]:
        """Counts, quantiles and usage as plain data."""
        latencies: dict[str, Any] = {}
        for (operation, stage, store), h in sorted(self.histograms.items()):
            latencies.setdefault(stage or "none", {})[f"{operation} {store}".strip()] = h.as_dict()
        usage = dict(self.usage)
        if self._usage_stage:
            usage[self._usage_stage] = resources_now().since(self._usage_from)
        return {
            "operations": self.operations,
            "errors": dict(sorted(self.errors.items())),
            "alerts": [e.data for e in self.recent_alerts[-10:]],
            "latencies": latencies,
            "resources": usage,
        }


# ---------------------------------------------------------------------------------------------------------------------
# sinks


def to_logging(logger: logging.Logger, level: int = 10, error_level: int = 30) -> Callable[[Event], None]:
    """A sink that writes each event to a logger; alerts and errors with `error_level`."""

    def sink(event: Event) -> None:
        bad = bool(event.error) or event.operation == "alert"
        logger.log(
            error_level if bad else level, "%s %s stage=%s store=%s found=%s us=%.1f %s %s", event.operation, event.key,
            event.stage, event.store, event.found, event.ns / 1000, event.error, event.data or "",
        )  # fmt: skip

    return sink


def to_json_lines(path: str | os.PathLike[str]) -> Callable[[Event], None]:
    """A sink that appends each event to a file, one JSON map a line, with the time in microseconds since 1970."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def sink(event: Event) -> None:
        line = orjson.dumps(
            {"at_us": time.time_ns() // 1000, **asdict(event)}, default=str, option=orjson.OPT_NON_STR_KEYS
        )
        os.write(fd, line + b"\n")

    return sink


def _extra(module: str, extra: str) -> Any:
    import importlib  # noqa: PLC0415 - optional packages only

    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise UserError(
            "telemetry/package",
            f"This sink needs the package {module.split('.', maxsplit=1)[0]}, which is not installed.",
            hint=f"pip install 'datalog-lmdb[{extra}]'",
        ) from e


def to_opentelemetry(meter: Any = None) -> Callable[[Event], None]:
    """A sink that records a histogram and a counter of operations with OpenTelemetry; needs the extra `opentelemetry`."""
    if meter is None:
        meter = _extra("opentelemetry.metrics", "opentelemetry").get_meter("datalog.memory")
    durations = meter.create_histogram("datalog.memory.duration", unit="us", description="Duration of an operation.")
    counts = meter.create_counter("datalog.memory.operations", description="Operations, stage moves and alerts.")

    def sink(event: Event) -> None:
        labels = {"operation": event.operation, "stage": event.stage, "store": event.store, "error": event.error}
        counts.add(1, labels)
        durations.record(event.ns / 1000, labels)

    return sink


def to_prometheus(registry: Any = None) -> Callable[[Event], None]:
    """A sink that counts and times operations with prometheus_client; needs the extra `prometheus`."""
    client = _extra("prometheus_client", "prometheus")
    names = ["operation", "stage", "store"]
    more = {} if registry is None else {"registry": registry}
    seconds = client.Histogram(
        "datalog_memory_seconds", "Duration of an operation.", names,
        buckets=(1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1), **more,
    )  # fmt: skip
    errors = client.Counter("datalog_memory_errors", "Operations that failed, and alerts.", [*names, "error"], **more)

    def sink(event: Event) -> None:
        labels = (event.operation, event.stage, event.store)
        seconds.labels(*labels).observe(event.ns / 1e9)
        if event.error or event.operation == "alert":
            errors.labels(*labels, event.error or str(event.data.get("alert", ""))).inc()

    return sink
