"""Claim: due tasks from ``queued`` to ``running`` for one worker."""

from collections.abc import Sequence
from operator import itemgetter
from typing import Final

from msgspec import Struct

from taskflow.database import Connection, array
from taskflow.model import ClaimedTask, Priority


class Mark(Struct, frozen=True):
    """Where the last claim of one priority ended in ``(scheduled_at, id)``, the order of claiming.

    ``scheduled_at`` is in Unix seconds; a float holds microseconds exactly until the year 2255.
    """

    scheduled_at: float
    id: int


START: Final = Mark(0.0, 0)
"""Before every task."""

# A crash of Postgres that forgets a claim merely re-queues the task, so the claim's commit is not waited for.
# `= ANY(ARRAY(…))`: with IN, the planner may claim more than the limit, or scan the whole table.
# CASE: for `<> ALL` of unknown types, the planner expects that nothing is left, and does not walk the index.
# A worker that was taken for gone claims nothing.
# SKIP LOCKED waits all the same where a row was changed twice since the statement began; as tasks are locked in the
# order of claiming, and others lock them by id, two may wait for each other. The claim gives in, before Postgres looks
# for deadlocks (after a second) and takes it out on somebody else.
# A priority is told by its place among those that were asked for: its name would be looked up and made for each task.
CLAIM = """
UPDATE taskflow.tasks AS task
SET status = 'running', attempt = task.attempt + 1, worker_id = %(worker)s, started_at = now(), updated_at = now()
WHERE task.id = ANY (ARRAY(
        SELECT due.id
        FROM unnest(%(priorities)s::taskflow.priority[], %(scheduled_at)s::float8[], %(ids)s::bigint[])
             AS mark (priority, scheduled_at, id)
        CROSS JOIN LATERAL (
            SELECT ready.id
            FROM taskflow.tasks AS ready
            WHERE ready.status = 'queued' AND NOT ready.held
              AND ready.priority = mark.priority AND ready.scheduled_at <= now()
              AND (ready.scheduled_at, ready.id) > (to_timestamp(mark.scheduled_at), mark.id)
              AND CASE WHEN ready.type = ANY (%(excluded)s::text[]) THEN false ELSE true END
            ORDER BY ready.scheduled_at, ready.id
            LIMIT %(limit)s
            FOR UPDATE SKIP LOCKED
        ) AS due
        LIMIT %(limit)s
    ))
    AND (SELECT set_config('synchronous_commit', 'off', true) = 'off'
                AND set_config('lock_timeout', '500ms', true) = '500ms'
         FROM taskflow.workers
         WHERE id = %(worker)s AND stopped_at IS NULL)
RETURNING task.id, task.attempt, task.max_attempts, task.type, task.payload::text, task.name,
          array_position(%(priorities)s::taskflow.priority[], task.priority) - 1,
          date_part('epoch', task.scheduled_at)
"""


async def claim(
    conn: Connection,
    worker: int,
    priorities: Sequence[Priority],
    limit: int,
    marks: dict[Priority, Mark] | None = None,
    excluded: Sequence[str] = (),
) -> list[ClaimedTask]:
    """Claim at most *limit* due tasks: the highest priority first, then the longest due.

    *priorities* are given in that order. Tasks at or before their priority's mark are passed over; *marks* moves on to
    the last claimed ones; tasks of *excluded* types are left alone. An empty answer means that nothing is due behind
    the marks, or that *worker* was taken for gone.
    """
    marks = {} if marks is None else marks
    starts = [marks.get(priority, START) for priority in priorities]
    cursor = conn.cursor(binary=True)
    await cursor.execute(
        CLAIM,
        {
            "worker": worker,
            "priorities": array(priorities),
            "scheduled_at": array(start.scheduled_at for start in starts),
            "ids": array(start.id for start in starts),
            "limit": limit,
            "excluded": list(excluded) or "{}",
        },
    )
    rows = await cursor.fetchall()
    rows.sort(key=itemgetter(7, 0))  # UPDATE … RETURNING has no order
    last = {row[6]: row for row in rows}
    asked = dict(enumerate(priorities))
    for place, row in last.items():
        marks[asked[place]] = Mark(row[7], row[0])
    if len(last) > 1:
        rows.sort(key=itemgetter(6))
    return [
        ClaimedTask(id, attempt, most, type, payload, name, asked[place], due_since)
        for id, attempt, most, type, payload, name, place, due_since in rows
    ]


# From now on, so that the index entries of what was claimed before are not read; but a task that became due between the
# look that did not find it and this one must not be missed, for nothing else would tell of it.
NEXT_DUE = """
SELECT extract(epoch FROM min(next.scheduled_at) - clock_timestamp())::float8
FROM unnest(%(priorities)s::taskflow.priority[]) AS wanted (priority)
CROSS JOIN LATERAL (
    SELECT later.scheduled_at
    FROM taskflow.tasks AS later
    WHERE later.status = 'queued' AND NOT later.held
      AND later.priority = wanted.priority AND later.scheduled_at > now() - interval '20 ms'
    ORDER BY later.scheduled_at
    LIMIT 1
) AS next
"""


async def seconds_until_due(conn: Connection, priorities: Sequence[Priority]) -> float | None:
    """Seconds until the next task of *priorities* that is not due yet; negative if it just became so; None: none."""
    cursor = await conn.execute(NEXT_DUE, {"priorities": array(priorities)})
    row = await cursor.fetchone()
    return None if row is None else row[0]


# The note that it may take away needs neither the disk nor a standby: after a crash this session is gone as well.
BE_IDLE = """
SELECT taskflow.be_idle(priority)
FROM unnest(%(priorities)s::taskflow.priority[]) AS wanted (priority)
WHERE set_config('synchronous_commit', 'off', true) = 'off'
"""


async def be_idle(conn: Connection, priorities: Sequence[Priority]) -> None:
    """Ask for a notification of new tasks on this session's behalf, until ``be_busy`` or the session's end."""
    await conn.execute(BE_IDLE, {"priorities": array(priorities)})


BE_BUSY = """
SELECT pg_advisory_unlock_shared(1952543595, taskflow.idle_key(priority))
FROM unnest(%(priorities)s::taskflow.priority[]) AS wanted (priority)
"""


async def be_busy(conn: Connection, priorities: Sequence[Priority]) -> None:
    """Take ``be_idle`` back: a busy worker comes to new tasks by itself, and enqueues are cheaper."""
    await conn.execute(BE_BUSY, {"priorities": array(priorities)})
