"""How long an idle worker takes to pick up a task: from the return of the enqueue to the start of the handler."""

import time
from collections.abc import Sequence
from typing import Final, LiteralString

from taskflow.bench.report import Figure, Result, quantile
from taskflow.bench.stage import BenchmarkFailed, Session, Stage
from taskflow.bench.workers import IDLE, await_count, run_workers

WARM_UP: Final = 5
BINS: Final = (0.5, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, float("inf"))  # ms
WIDTH: Final = 50
PATIENCE: Final = 30.0

ENQUEUE: Final[LiteralString] = """
INSERT INTO taskflow.tasks (name, type, payload) VALUES ('bench', 'note_start', jsonb_build_object('i', %(i)s::int))
"""


def run(stage: Stage, tasks: int, every: float, concurrency: int) -> Result:
    """Enqueue one task *every* so many seconds to one idle worker."""
    with stage.connect() as conn, run_workers(stage, 1, concurrency) as workers:
        with stage.step("starting a worker"):
            await_count(conn, IDLE, 1, workers)
        with stage.step(f"enqueueing {tasks:,} tasks, one every {every * 1000:g} ms", tasks) as done:
            enqueued: list[int] = []
            for number in range(-WARM_UP, tasks):
                time.sleep(every)
                enqueued.append(enqueue(conn, number))
                done(number)
        starts = await_starts(stage, WARM_UP + tasks)
    pickups = sorted((starts[number] - enqueued[number + WARM_UP]) / 1e6 for number in range(tasks))
    return Result(
        benchmark="latency",
        parameters={"tasks": tasks, "every": every, "concurrency": concurrency},
        figures=[
            Figure("p50_ms", "pickup p50", quantile(pickups, 0.5), "ms"),
            Figure("p95_ms", "pickup p95", quantile(pickups, 0.95), "ms"),
            Figure("p99_ms", "pickup p99", quantile(pickups, 0.99), "ms"),
            Figure("max_ms", "pickup max", pickups[-1], "ms"),
        ],
        samples={"pickup_ms": pickups},
        picture=histogram(pickups),
    )


def enqueue(conn: Session, number: int) -> int:
    """Enqueue one task in a transaction of its own; when its commit was acknowledged (CLOCK_MONOTONIC, ns)."""
    conn.execute(ENQUEUE, {"i": number}, prepare=True)
    return time.monotonic_ns()


def await_starts(stage: Stage, count: int) -> dict[int, int]:
    """When each handler started first, by the task's number; waits until there are *count*."""
    notes = stage.folder / "starts"
    deadline = time.monotonic() + PATIENCE
    while True:
        lines = notes.read_text().splitlines() if notes.exists() else []
        if len(lines) >= count:
            return {int(number): int(started) for number, started in map(str.split, reversed(lines))}
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"{len(lines)} of {count} tasks were started within {PATIENCE:g} s")
        time.sleep(0.05)


def histogram(values: Sequence[float]) -> list[str]:
    """A line per bin of milliseconds that holds any of *values*, and per bin between those."""
    counts: list[int] = []
    for low, high in zip((float("-inf"), *BINS), BINS, strict=False):
        counts.append(sum(low < value <= high for value in values))
    shown = [index for index, count in enumerate(counts) if count]
    return [
        f"{_edge(BINS[index])}  {'█' * round(WIDTH * counts[index] / max(counts)):{WIDTH}}  {counts[index]:,}"
        for index in range(shown[0], shown[-1] + 1)
    ]


def _edge(milliseconds: float) -> str:
    return f"{'more':>9}" if milliseconds == float("inf") else f"≤ {milliseconds:>4g} ms"
