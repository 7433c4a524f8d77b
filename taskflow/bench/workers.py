"""Real worker processes, held back until all of them are ready to claim."""

import os
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, LiteralString

from taskflow.bench.handlers import STARTS
from taskflow.bench.stage import BenchmarkFailed, Session, Stage, one
from taskflow.cli.children import Child, kill, start_child, stop

HANDLERS: Final = "taskflow.bench.handlers"
READY_WITHIN: Final = 60.0
STOPPED_WITHIN: Final = 20.0


@contextmanager
def run_workers(stage: Stage, count: int, concurrency: int, **settings: str) -> Generator[Sequence[Child]]:
    """*count* processes of ``taskflow worker`` until this context ends; *settings* win over those in force."""
    environ = environment(stage, **settings)
    options = ["--app", HANDLERS, "--concurrency", str(concurrency)]
    workers: list[Child] = []
    try:
        for number in range(count):
            name = f"bench-{number}"
            workers.append(start_child(name, ["worker", "--id", name, *options], environ, stage.folder))
        yield workers
        stop((worker.process for worker in workers), STOPPED_WITHIN)
    finally:
        kill(worker.process for worker in workers)


def environment(stage: Stage, **settings: str) -> dict[str, str]:
    """The environment of Taskflow's processes on *stage*: ours, with *settings* in place of the variables."""
    return {
        **os.environ,
        "DATABASE_URL": stage.dsn,
        "LOG_LEVEL": "warning",
        "HEALTH_PORT": "",  # several workers cannot share one
        STARTS: str(stage.folder / "starts"),
        **settings,
    }


IDLE: Final[LiteralString] = "SELECT taskflow.somebody_is_idle('normal')::int"
"""1 while a worker waits for normal tasks."""

# Workers whose claim waits for the lock of run_held_back_workers.
READY: Final[LiteralString] = """
SELECT count(DISTINCT session.application_name)
FROM pg_stat_activity AS session
JOIN pg_locks AS wanted USING (pid)
WHERE session.application_name LIKE 'taskflow claim %' AND session.datname = current_database()
  AND wanted.relation = 'taskflow.tasks'::regclass AND NOT wanted.granted
"""


@contextmanager
def run_held_back_workers(
    stage: Stage, conn: Session, count: int, concurrency: int, **settings: str
) -> Generator[tuple[Sequence[Child], float]]:
    """Workers that have just been let go all at once, and when: in seconds of the epoch on Postgres's clock.

    Until then a lock on the table keeps their first claim waiting, so that neither the start of a process nor a head
    start counts.
    """
    conn.execute("BEGIN")
    conn.execute("LOCK TABLE taskflow.tasks IN ACCESS EXCLUSIVE MODE")
    with stage.connect() as observer, run_workers(stage, count, concurrency, **settings) as workers:
        with stage.step("starting the workers"):
            await_count(observer, READY, count, workers)
        (released_at,) = one(conn, "SELECT extract(epoch FROM clock_timestamp())::float8")
        conn.execute("COMMIT")
        yield workers, released_at


def await_count(conn: Session, statement: LiteralString, count: int, workers: Sequence[Child]) -> None:
    """Return once *statement* gives *count*; raises ChildDied, or BenchmarkFailed after a minute."""
    deadline = time.monotonic() + READY_WITHIN
    while one(conn, statement) < (count,):
        for worker in workers:
            worker.check()
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"the workers were not ready within {READY_WITHIN:g} s; see the load of this host")
        time.sleep(0.01)
