"""What a session that is idle in transaction and holds a snapshot does to a drain."""

from collections.abc import Generator
from contextlib import contextmanager
from statistics import median
from typing import Final

from taskflow.bench.backlogs import fill
from taskflow.bench.drain import Drained, drain_once
from taskflow.bench.report import Figure, Result
from taskflow.bench.stage import Stage

RATIO_BAR: Final = 0.9
FLAT_BAR: Final = 0.9


@contextmanager
def pin(stage: Stage) -> Generator[None]:
    """Hold a snapshot in another session: until it ends, no dead row that it might see is removed."""
    with stage.connect() as conn:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        conn.execute("SELECT pg_current_snapshot()")
        yield
        conn.execute("ROLLBACK")


def run(stage: Stage, tasks: int, concurrency: int, rounds: int) -> Result:
    """Drain without and with a pinned snapshot in turns; medians of the rounds."""
    free: list[Drained] = []
    pinned: list[Drained] = []
    with stage.connect() as conn:
        for _ in range(rounds):
            fill(stage, conn, tasks)
            free.append(drain_once(stage, conn, tasks, 1, concurrency))
            fill(stage, conn, tasks)
            with pin(stage):
                pinned.append(drain_once(stage, conn, tasks, 1, concurrency))
    rate, limit = median(run.rate for run in pinned), median(run.rate for run in free)
    tenths = _medians([run.tenths for run in pinned])
    return Result(
        benchmark="pinned",
        parameters={"tasks": tasks, "concurrency": concurrency, "rounds": rounds},
        figures=[
            Figure("free_tasks_per_second", "without the snapshot", limit, "tasks/s"),
            Figure("tasks_per_second", "with the snapshot", rate, "tasks/s"),
            Figure("ratio", "with / without", rate / limit, at_least=RATIO_BAR),
            Figure("first_tenth_tasks_per_second", "with: first tenth", tenths[0], "tasks/s"),
            Figure("last_tenth_tasks_per_second", "with: last tenth", tenths[-1], "tasks/s"),
            Figure("flatness", "last / first tenth", tenths[-1] / tenths[0], at_least=FLAT_BAR),
        ],
        samples={
            "free_tenths_tasks_per_second": _medians([run.tenths for run in free]),
            "tenths_tasks_per_second": tenths,
            "free_seconds_to_each_hundredth": _medians([run.ends for run in free]),
            "seconds_to_each_hundredth": _medians([run.ends for run in pinned]),
        },
    )


def _medians(rounds: list[list[float]]) -> list[float]:
    """Place by place."""
    return [median(values) for values in zip(*rounds, strict=True)]
