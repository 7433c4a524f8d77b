"""How fast workers drain a queue that was filled before, against hand-written SQL of the same writes."""

from collections import defaultdict
from itertools import pairwise
from statistics import median
from typing import Final, LiteralString

from msgspec import Struct

from taskflow.bench.backlogs import await_all_final, fill, verify_each_ran_once
from taskflow.bench.by_hand import drain_by_hand
from taskflow.bench.cpu import Meter, Usage, peak_memory
from taskflow.bench.report import Figure, Result
from taskflow.bench.stage import Session, Stage, one
from taskflow.bench.workers import run_held_back_workers
from taskflow.cli.context import run_async

BATCHES: Final = (500, 1000, 2000)
RATIO_BAR: Final = 0.7
GROWN_FROM: Final = 0.1
"""The share of the tasks after which a worker should need no more memory."""


class Drained(Struct, frozen=True):
    """One drain: tasks per second, the CPU used meanwhile, and the seconds after which each hundredth had ended.

    ``memory`` is the most that a worker had, in MB; ``growth`` tells by which share it grew after a tenth of the tasks.
    """

    rate: float
    seconds: float
    usage: Usage
    ends: list[float]
    memory: float | None
    growth: float | None

    @property
    def tenths(self) -> list[float]:
        """Tasks per second within each tenth of the tasks."""
        tenth = self.rate * self.seconds / 10
        return [tenth / max(end - start, SHORTEST) for start, end in pairwise((0.0, *self.ends[9::10]))]


ENDS: Final[LiteralString] = """
SELECT percentile_disc(ARRAY(SELECT part / 100.0 FROM generate_series(1, 100) AS part))
       WITHIN GROUP (ORDER BY extract(epoch FROM finished_at)::float8)
FROM taskflow.tasks
"""

# From the first claim's start to the last finish's, which is when a worker's drain ends as well.
SECONDS_BY_HAND: Final[LiteralString] = """
SELECT extract(epoch FROM max(finished_at) - min(started_at))::float8 FROM taskflow.tasks
"""

SHORTEST: Final = 0.001
"""Seconds that a tenth of a tiny run is taken to have lasted, where a single finish recorded all of it."""


def drain_once(stage: Stage, conn: Session, tasks: int, workers: int, concurrency: int, **settings: str) -> Drained:
    """Drain the *tasks* queued ones; timed on Postgres's clock from letting the workers go to the last finish."""
    with run_held_back_workers(stage, conn, workers, concurrency, **settings) as (processes, released_at):
        pids = [worker.process.pid for worker in processes]
        meter = Meter(stage.dsn, pids)
        before, memory = meter.read(), list[float | None]()
        with stage.step(f"draining {tasks:,} tasks", 1) as done:

            def note(share: float) -> None:
                done(share)
                if share >= GROWN_FROM and not memory:
                    memory.append(peak_memory(pids))

            await_all_final(conn, lambda: [worker.check() for worker in processes], note)
        usage, most = meter.read().since(before), peak_memory(pids)
    verify_each_ran_once(conn)
    (ends,) = one(conn, ENDS)
    ends = [end - released_at for end in ends]
    growth = most / memory[0] - 1 if most and memory and memory[0] else None
    return Drained(tasks / ends[-1], ends[-1], usage, ends, most, growth)


def run(stage: Stage, tasks: int, workers: int, concurrency: int, rounds: int) -> Result:
    """Drain with workers and by hand in turns; medians of the rounds."""
    drained: list[Drained] = []
    by_hand: defaultdict[int, list[float]] = defaultdict(list)
    with stage.connect() as conn:
        for _ in range(rounds):
            fill(stage, conn, tasks)
            drained.append(drain_once(stage, conn, tasks, workers, concurrency))
            for batch in BATCHES:
                fill(stage, conn, tasks)
                with stage.step(f"draining {tasks:,} tasks by hand, {batch} at a time"):
                    run_async(drain_by_hand(stage.dsn, batch))
                by_hand[batch].append(tasks / one(conn, SECONDS_BY_HAND)[0])
                verify_each_ran_once(conn)
    best = max(by_hand, key=lambda batch: median(by_hand[batch]))
    limit, rate = median(by_hand[best]), median(run.rate for run in drained)
    return Result(
        benchmark="drain",
        parameters={"tasks": tasks, "workers": workers, "concurrency": concurrency, "rounds": rounds},
        figures=[
            Figure("tasks_per_second", "Taskflow", rate, "tasks/s"),
            Figure("by_hand_tasks_per_second", f"SQL by hand, {best} at a time", limit, "tasks/s"),
            Figure("ratio", "Taskflow / by hand", rate / limit, at_least=RATIO_BAR),
            *cpu_figures(drained, tasks),
            Figure(
                "worker_memory_mb",
                "memory of a worker, most",
                _median([run.memory for run in drained]),
                "MB",
                at_most=80,
            ),
            Figure(
                "worker_memory_growth",
                "its growth after a tenth",
                _median([run.growth for run in drained]),
                at_most=0.05,
            ),
        ],
        samples={
            "tasks_per_second": [run.rate for run in drained],
            **{f"by_hand_{batch}_tasks_per_second": rates for batch, rates in by_hand.items()},
        },
    )


def cpu_figures(drained: list[Drained], tasks: int) -> list[Figure]:
    """CPU seconds per 1,000 tasks, medians, and how much of the machine others used."""
    workers = _median([run.usage.workers for run in drained])
    postgres = _median([run.usage.postgres for run in drained])
    others = _median([run.usage.others and run.usage.others / run.usage.seconds for run in drained])
    scale = 1000 / tasks
    return [
        Figure("worker_cpu_seconds_per_1000", "CPU of workers", workers and workers * scale, "s per 1,000 tasks"),
        Figure("postgres_cpu_seconds_per_1000", "CPU of Postgres", postgres and postgres * scale, "s per 1,000 tasks"),
        Figure("other_cores", "cores busy with something else", others),
    ]


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
