"""What waking workers costs those who enqueue: single-row inserts by many connections at once."""

from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from statistics import median
from typing import Final, LiteralString

from taskflow.bench.backlogs import clear, fill
from taskflow.bench.inserts import insert_by_pgbench, insert_by_python
from taskflow.bench.report import Figure, Result
from taskflow.bench.stage import Session, Stage, settle
from taskflow.bench.workers import IDLE, await_count, run_workers
from taskflow.cli.context import run_async

BUSY_SLOTS: Final = 10
BUSY_BAR: Final = 0.85
IDLE_BAR: Final = 0.7

BUSY: Final[LiteralString] = """
SELECT count(*) FROM taskflow.tasks WHERE status = 'running' AND NOT taskflow.somebody_is_idle('normal')
"""


@contextmanager
def no_trigger(_stage: Stage, conn: Session) -> Generator[None]:
    """Nobody is told of new tasks."""
    conn.execute("ALTER TABLE taskflow.tasks DISABLE TRIGGER wake_an_idle_worker")
    yield
    conn.execute("ALTER TABLE taskflow.tasks ENABLE TRIGGER wake_an_idle_worker")


@contextmanager
def busy_worker(stage: Stage, conn: Session) -> Generator[None]:
    """A worker listens, and all its slots are taken."""
    fill(stage, conn, BUSY_SLOTS, "block")
    with run_workers(stage, 1, BUSY_SLOTS, WORKER_GRACE_IN_SECONDS="0.1") as workers:
        await_count(conn, BUSY, BUSY_SLOTS, workers)
        yield


@contextmanager
def idle_worker(stage: Stage, conn: Session) -> Generator[None]:
    """A worker waits, wakes, and runs what comes."""
    with run_workers(stage, 1, 100) as workers:
        await_count(conn, IDLE, 1, workers)
        yield


WAYS: Final = {"no_trigger": no_trigger, "busy_worker": busy_worker, "idle_worker": idle_worker}


def run(stage: Stage, clients: int, seconds: int, rounds: int, pgbench: str | None) -> Result:
    """Insert in the three ways in turns; medians of the rounds."""
    rates: defaultdict[str, list[float]] = defaultdict(list)
    with stage.connect() as conn:
        for _ in range(rounds):
            for name, way in WAYS.items():
                clear(conn)
                settle(conn)
                with way(stage, conn), stage.step(f"inserting, {name.replace('_', ' ')}"):
                    rates[name].append(_insert(stage, clients, seconds, pgbench))
    limit, busy, idle = (median(rates[name]) for name in WAYS)
    return Result(
        benchmark="enqueue",
        parameters={
            "clients": clients,
            "seconds": seconds,
            "rounds": rounds,
            "driver": "python" if pgbench is None else "pgbench",
        },
        figures=[
            Figure("no_trigger_per_second", "without the trigger", limit, "inserts/s"),
            Figure("busy_worker_per_second", "a busy worker", busy, "inserts/s"),
            Figure("busy_ratio", "busy / without", busy / limit, at_least=BUSY_BAR),
            Figure("idle_worker_per_second", "an idle worker that wakes", idle, "inserts/s"),
            Figure("idle_ratio", "idle / without", idle / limit, at_least=IDLE_BAR),
        ],
        samples={f"{name}_per_second": values for name, values in rates.items()},
    )


def _insert(stage: Stage, clients: int, seconds: int, pgbench: str | None) -> float:
    if pgbench is None:
        return run_async(insert_by_python(stage.dsn, clients, seconds))
    return insert_by_pgbench(pgbench, stage.dsn, clients, seconds, stage.folder)
