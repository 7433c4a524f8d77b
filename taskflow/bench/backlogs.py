"""Tasks to work on: filled in by SQL, and watched until the last of them is final."""

import time
from collections.abc import Callable
from typing import Final, LiteralString

from taskflow.bench.stage import BenchmarkFailed, Session, Stage, one, settle

CHUNK: Final = 10_000
LOOK: Final = 0.2  # seconds between two looks, which cost what is measured: at 0.05, a fiftieth of its processors
PROBES: Final = 200
PATIENCE: Final = 60.0
"""Seconds without any progress after which a benchmark gives up."""

FILL: Final[LiteralString] = """
INSERT INTO taskflow.tasks (name, type, payload)
SELECT 'bench', %(type)s, jsonb_build_object('i', number)
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number
"""


# Half of the tasks are normal, the others high and low.
FILL_MIXED: Final[LiteralString] = """
INSERT INTO taskflow.tasks (name, type, payload, priority)
SELECT 'bench', %(type)s, jsonb_build_object('i', number),
       ('{normal,high,normal,low}'::taskflow.priority[])[1 + number %% 4]
FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS number
"""


def clear(conn: Session) -> None:
    """Remove all tasks."""
    conn.execute("TRUNCATE taskflow.tasks, taskflow.attempts")


def add(stage: Stage, conn: Session, tasks: int, type: str = "noop", statement: LiteralString = FILL) -> None:
    """Enqueue *tasks* tasks, numbered from 0, by FILL or FILL_MIXED."""
    with stage.step(f"enqueueing {tasks:,} tasks", tasks) as done:
        for first in range(0, tasks, CHUNK):
            last = min(first + CHUNK, tasks) - 1
            conn.execute(statement, {"type": type, "first": first, "last": last})
            done(last + 1)


def fill(stage: Stage, conn: Session, tasks: int, type: str = "noop") -> None:
    """Replace all tasks by *tasks* queued ones, and settle the database."""
    clear(conn)
    add(stage, conn, tasks, type)
    settle(conn)


# A sample of the rows by their primary key: counting all of them again and again would slow what is measured.
COUNT_PROBES: Final[LiteralString] = """
SELECT count(*) FROM taskflow.tasks WHERE id = ANY (%(probes)s::bigint[]) AND finished_at IS NOT NULL
"""

COUNT_UNFINISHED: Final[LiteralString] = "SELECT count(*) FROM taskflow.tasks WHERE finished_at IS NULL"


def choose_probes(conn: Session) -> list[int]:
    """Ids all over the table, the last one among them; they must have no gaps."""
    first, last = one(conn, "SELECT coalesce(min(id), 0), coalesce(max(id), 0) FROM taskflow.tasks")
    return sorted({last - (last - first) * probe // PROBES for probe in range(PROBES)})


def await_all_final(conn: Session, check: Callable[[], object], done: Callable[[float], None]) -> None:
    """Return once every task is final; *done* gets the share from 0 to 1, and *check* raises if waiting is in vain."""
    probes = choose_probes(conn)
    seen, moved_at = -1, time.monotonic()
    while True:
        (final,) = one(conn, COUNT_PROBES, {"probes": probes})
        if final == len(probes) and one(conn, COUNT_UNFINISHED) == (0,):
            return
        if final != seen:
            seen, moved_at = final, time.monotonic()
            done(final / len(probes))
        if time.monotonic() - moved_at > PATIENCE:
            raise BenchmarkFailed(f"no task was finished for {PATIENCE:g} s; see the load of the server and try again")
        check()
        time.sleep(LOOK)


VERIFY: Final[LiteralString] = """
SELECT count(*), count(*) FILTER (WHERE task.status = 'succeeded' AND task.attempt = 1 + given_back.count)
FROM taskflow.tasks AS task
CROSS JOIN LATERAL (SELECT count(*) FROM taskflow.attempts AS attempt
                    WHERE attempt.task_id = task.id AND attempt.outcome = 'released') AS given_back
"""


def verify_each_ran_once(conn: Session) -> None:
    """Raise BenchmarkFailed unless every task succeeded in its first attempt, but for what was given back unbegun."""
    tasks, once = one(conn, VERIFY)
    if tasks != once:
        raise BenchmarkFailed(f"{tasks - once} of {tasks} tasks did not succeed in their first attempt")
