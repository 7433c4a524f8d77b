"""Whether throughput lasts: for minutes, as many tasks are enqueued as are finished, at half the speed of a drain."""

import time
from collections.abc import Callable
from typing import Final, LiteralString

from msgspec import Struct

from taskflow.bench.backlogs import FILL, await_all_final, clear, fill, verify_each_ran_once
from taskflow.bench.drain import drain_once
from taskflow.bench.report import Figure, Result
from taskflow.bench.stage import Session, Stage, one, settle
from taskflow.bench.workers import IDLE, await_count, run_workers

SHARE: Final = 0.5
SAMPLES: Final = 60
TICK: Final = 0.05
"""Seconds between two enqueues."""

FLAT_BAR: Final = 0.95
DEAD_BAR: Final = 0.2
"""Dead rows for each live one that autovacuum may let gather."""
INDEX_BAR: Final = 0.1
"""Bytes of the working indexes for each byte of the table: what is finished leaves them as vacuum comes by."""


class Sample(Struct, frozen=True):
    """The table at one moment, *seconds* after the start."""

    seconds: float
    queued: int
    dead_tuples: int
    table_bytes: int
    primary_key_bytes: int
    working_index_bytes: int


# Working indexes hold only what is queued or runs: their size should not grow with what was finished.
SIZES: Final[LiteralString] = """
SELECT (SELECT count(*) FROM taskflow.tasks WHERE status = 'queued' AND NOT held),
       pg_stat_get_dead_tuples('taskflow.tasks'::regclass),
       pg_table_size('taskflow.tasks'),
       pg_relation_size('taskflow.tasks_pkey'),
       pg_relation_size('taskflow.tasks_ready') + pg_relation_size('taskflow.tasks_running')
"""

FINISHED: Final[LiteralString] = """
SELECT width_bucket(extract(epoch FROM finished_at)::float8, %(began)s, %(ended)s, %(samples)s), count(*)
FROM taskflow.tasks
GROUP BY 1
"""

NOW: Final[LiteralString] = "SELECT extract(epoch FROM clock_timestamp())::float8"


def run(stage: Stage, minutes: float, tasks: int, concurrency: int) -> Result:
    """Measure the peak by a drain of *tasks*, then enqueue at half of it for *minutes*."""
    length = 60 * minutes
    with stage.connect() as conn:
        fill(stage, conn, tasks)
        peak = drain_once(stage, conn, tasks, 1, concurrency).rate
        clear(conn)
        settle(conn)
        with run_workers(stage, 1, concurrency) as workers:
            await_count(conn, IDLE, 1, workers)
            (began,) = one(conn, NOW)
            with stage.step(f"enqueueing {peak * SHARE:,.0f} tasks a second", length) as done:
                samples = enqueue_at(stage, conn, peak * SHARE, length, done)
            await_all_final(conn, lambda: [worker.check() for worker in workers], lambda _share: None)
        verify_each_ran_once(conn)
        bounds = {"began": began, "ended": began + length, "samples": SAMPLES}
        finished = dict(conn.execute(FINISHED, bounds).fetchall())
    rates = [finished.get(bucket, 0) * SAMPLES / length for bucket in range(1, SAMPLES + 1)]
    return Result(
        benchmark="sustained",
        parameters={"minutes": minutes, "tasks": tasks, "concurrency": concurrency},
        figures=figures(peak, rates, max(1, round(SAMPLES / max(minutes, 2))), samples),
        samples={
            "finished_per_second": rates,
            **{name: [getattr(sample, name) for sample in samples] for name in Sample.__struct_fields__},
        },
    )


def figures(peak: float, rates: list[float], count: int, samples: list[Sample]) -> list[Figure]:
    """*count* of the *rates* make a minute, or half of a run that is shorter than two."""
    first, last = (sum(some) / count for some in (rates[:count], rates[-count:]))
    indexes = samples[-1].working_index_bytes / samples[-1].table_bytes
    live = sum(rates) / len(rates) * samples[-1].seconds
    return [
        Figure("peak_tasks_per_second", "drain before", peak, "tasks/s"),
        Figure("first_tasks_per_second", "finished, first minute", first, "tasks/s"),
        Figure("last_tasks_per_second", "finished, last minute", last, "tasks/s"),
        Figure("flatness", "last / first minute", last / first, at_least=FLAT_BAR),
        Figure("most_queued", "most queued at once", max(sample.queued for sample in samples), "tasks"),
        Figure("dead_share", "dead / live rows, at the end", samples[-1].dead_tuples / live, at_most=DEAD_BAR),
        Figure("table_bytes_per_task", "table", samples[-1].table_bytes / live, "bytes/task"),
        Figure("primary_key_bytes_per_task", "primary key", samples[-1].primary_key_bytes / live, "bytes/task"),
        Figure("working_index_bytes", "working indexes, most", max(s.working_index_bytes for s in samples), "bytes"),
        Figure("working_index_share", "working indexes / table, at the end", indexes, at_most=INDEX_BAR),
    ]


def enqueue_at(stage: Stage, conn: Session, rate: float, seconds: float, done: Callable[[float], None]) -> list[Sample]:
    """Enqueue *rate* tasks a second for so many *seconds*; what the table was like meanwhile."""
    samples: list[Sample] = []
    began, enqueued = time.monotonic(), 0
    with stage.connect() as observer:
        while (passed := time.monotonic() - began) < seconds:
            wanted = int(rate * passed)
            if wanted > enqueued:
                conn.execute(FILL, {"type": "noop", "first": enqueued, "last": wanted - 1})
                enqueued = wanted
            if passed >= seconds * len(samples) / SAMPLES:
                samples.append(Sample(passed, *one(observer, SIZES)))
                done(passed)
            time.sleep(max(0.0, TICK - (time.monotonic() - began - passed)))
        samples.append(Sample(seconds, *one(observer, SIZES)))
    return samples
