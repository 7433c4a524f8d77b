"""What Taskflow measures, and how Prometheus reads it: the text format, version 0.0.4."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from msgspec import Struct

MEDIA_TYPE: Final = "text/plain; version=0.0.4"


class Metric(Struct, frozen=True):
    """One metric: its name, kind, what it says, and its labels."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


class Histogram:
    """Seconds, counted in buckets that double from 1 ms to 17 minutes; one that is longer is in none of them."""

    LARGEST: Final = 20
    BOUNDS: Final = tuple(2**exponent / 1000 for exponent in range(LARGEST + 1))

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (self.LARGEST + 2)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one; less than none, as clocks may say, is none."""
        if seconds < 0:
            seconds = 0.0
        exponent = int(seconds * 1000).bit_length()  # a bisection would take three times as long
        self.counts[exponent if exponent <= self.LARGEST else -1] += 1
        self.sum += seconds

    def add_all(self, seconds: Iterable[float]) -> None:
        """Count many; hundreds in a tenth of the time."""
        ordered = sorted(seconds)
        start = bisect_left(ordered, 0.0)
        self.counts[0] += start
        self.sum += sum(ordered[start:])
        for index, bound in enumerate(self.BOUNDS):
            end = bisect_left(ordered, bound, start)
            self.counts[index] += end - start
            start = end
            if start == len(ordered):
                break
        self.counts[-1] += len(ordered) - start

    def copy(self) -> "Histogram":
        """The same counts, that no longer grow."""
        twin = Histogram()
        twin.counts, twin.sum = list(self.counts), self.sum
        return twin


Sample = tuple[tuple[str, ...], float | Histogram]
"""The values of a metric's labels, and the number."""


def render(families: Iterable[tuple[Metric, Iterable[Sample]]]) -> bytes:
    """The text of *families*: each metric with its samples."""
    return "".join(f"{line}\n" for metric, samples in families for line in _lines(metric, samples)).encode()


def _lines(metric: Metric, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} {metric.kind}"
    for values, number in samples:
        labels = ",".join(f"{name}={_quote(value)}" for name, value in zip(metric.labels, values, strict=True))
        if isinstance(number, Histogram):
            yield from _buckets(metric.name, labels, number)
        else:
            yield f"{metric.name}{{{labels}}} {number!r}" if labels else f"{metric.name} {number!r}"


def _buckets(name: str, labels: str, histogram: Histogram) -> Iterator[str]:
    count = 0
    for bound, more in zip((*map(str, Histogram.BOUNDS), "+Inf"), histogram.counts, strict=True):
        count += more
        yield f'{name}_bucket{{{labels},le="{bound}"}} {count}'
    yield f"{name}_sum{{{labels}}} {histogram.sum!r}"
    yield f"{name}_count{{{labels}}} {count}"


def _quote(value: str) -> str:
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'


INFO: Final = Metric("taskflow_info", "gauge", "1; the version is the label", ("version",))

DATABASE_UP: Final = Metric(
    "taskflow_database_up", "gauge", "1 if Postgres answered; if it is 0, what is read from it is missing"
)
QUEUE_WAITING: Final = Metric(
    "taskflow_queue_waiting", "gauge", "queued tasks that are due, counted up to 10,000", ("priority",)
)
QUEUE_SCHEDULED: Final = Metric(
    "taskflow_queue_scheduled", "gauge", "queued tasks that are due later, counted up to 10,000", ("priority",)
)
QUEUE_HELD: Final = Metric(
    "taskflow_queue_held", "gauge", "queued tasks that a gate keeps back, counted up to 10,000", ("priority",)
)
QUEUE_UNCOUNTED: Final = Metric(
    "taskflow_queue_uncounted",
    "gauge",
    "1 if there are more waiting or scheduled tasks than were counted",
    ("priority",),
)
QUEUE_OLDEST: Final = Metric(
    "taskflow_queue_oldest_waiting_seconds", "gauge", "for how long the oldest waiting task has been due", ("priority",)
)
TASKS_RUNNING: Final = Metric("taskflow_tasks_running", "gauge", "running tasks")
TASKS_FAILED: Final = Metric("taskflow_tasks_failed", "gauge", "failed tasks, counted up to 10,000")
WORKERS: Final = Metric("taskflow_workers", "gauge", "live workers that claim this priority", ("priority",))
WORKERS_SILENT: Final = Metric(
    "taskflow_workers_silent", "gauge", "workers without a heartbeat for longer than the lease, not yet rescued from"
)
FLEET_SLOTS: Final = Metric("taskflow_fleet_slots", "gauge", "attempts that all live workers may run at once")
DEAD_TUPLES: Final = Metric(
    "taskflow_dead_tuples",
    "gauge",
    "dead row versions that vacuum has to clear away, as Postgres estimates",
    ("table",),
)
TABLE_BYTES: Final = Metric("taskflow_table_bytes", "gauge", "size on disk, indexes included", ("table",))
NOTIFY_USAGE: Final = Metric(
    "taskflow_notify_queue_usage", "gauge", "share of Postgres' notification queue in use, 0 to 1; full, commits fail"
)
OLDEST_TRANSACTION: Final = Metric(
    "taskflow_oldest_transaction_seconds", "gauge", "age of the oldest transaction; vacuum clears nothing younger away"
)

ENQUEUED: Final = Metric("taskflow_enqueued_total", "counter", "tasks that this server stored")
REQUESTS: Final = Metric(
    "taskflow_http_requests_total", "counter", "answers of this server", ("method", "route", "status")
)
REQUEST_SECONDS: Final = Metric(
    "taskflow_http_request_seconds", "histogram", "from the request to the head of its answer", ("route",)
)
POOL_SIZE: Final = Metric("taskflow_pool_connections", "gauge", "connections of this server's pool, open now")
POOL_FREE: Final = Metric("taskflow_pool_connections_free", "gauge", "of those, not in use")
POOL_WAITING: Final = Metric("taskflow_pool_requests_waiting", "gauge", "requests that wait for a connection")

CLAIMED: Final = Metric(
    "taskflow_wait_seconds",
    "histogram",
    "from when a task was due to its claim; its count is that of claims",
    ("type",),
)
ATTEMPTS: Final = Metric(
    "taskflow_attempts_total",
    "counter",
    "attempts that ended; outcome is succeeded, retry, failed, released or cancelled",
    ("type", "outcome"),
)
ATTEMPT_SECONDS: Final = Metric(
    "taskflow_attempt_seconds", "histogram", "from the start of an attempt to its end", ("type",)
)
SLOTS: Final = Metric("taskflow_worker_slots", "gauge", "attempts that this worker runs at once, at most")
SLOTS_USED: Final = Metric("taskflow_worker_slots_used", "gauge", "attempts that run now")
UNRECORDED: Final = Metric("taskflow_worker_outcomes_pending", "gauge", "outcomes that Postgres does not have yet")
CLOCK_AHEAD: Final = Metric("taskflow_worker_clock_difference_seconds", "gauge", "Postgres' clock minus this worker's")
READY: Final = Metric("taskflow_worker_ready", "gauge", "1 if it beats and can claim, as /readiness says")

CPU_SECONDS: Final = Metric("process_cpu_seconds_total", "counter", "user and system CPU time of this process")
START_TIME: Final = Metric("process_start_time_seconds", "gauge", "when this process started, in Unix seconds")
RESIDENT_BYTES: Final = Metric("process_resident_memory_bytes", "gauge", "memory of this process (Linux)")

METRICS: Final = tuple(value for value in dict(globals()).values() if isinstance(value, Metric))
"""All of them, in this order."""
