"""Tick: a schedule's moment has come, and its task is enqueued."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from taskflow.database import Connection
from taskflow.errors import InvalidSchedule
from taskflow.model import Missed
from taskflow.queue.trace import trace_enqueued
from taskflow.recurrence import parse_rule

# What code declared is left to workers whose code still does.
DUE = """
SELECT name, rule, time_zone, missed::text, next_tick, now()
FROM taskflow.schedules
WHERE paused_at IS NULL AND next_tick <= now() AND (declared_at IS NULL OR name = ANY (%(declared)s::text[]))
ORDER BY next_tick
LIMIT 100
FOR UPDATE SKIP LOCKED
"""

TICK = """
WITH enqueued AS (
    INSERT INTO taskflow.tasks (name, type, payload, priority, max_attempts, scheduled_at)
    SELECT name, type,
           CASE WHEN tick_field IS NULL THEN payload
                ELSE payload || jsonb_build_object(
                         tick_field, to_char(tick.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) END,
           priority, max_attempts, tick.at
    FROM unnest(%(names)s::text[], %(ticks)s::timestamptz[]) AS tick (name, at)
    JOIN taskflow.schedules USING (name)
    ORDER BY tick.at
    RETURNING name, type, id, scheduled_at
), moved AS (
    UPDATE taskflow.schedules AS schedule
    SET next_tick = following.next_tick,
        last_tick = coalesce((SELECT max(scheduled_at) FROM enqueued WHERE enqueued.name = schedule.name), last_tick),
        last_task_id = coalesce((SELECT max(id) FROM enqueued WHERE enqueued.name = schedule.name), last_task_id)
    FROM unnest(%(schedules)s::text[], %(next_ticks)s::timestamptz[]) AS following (name, next_tick)
    WHERE schedule.name = following.name
)
SELECT type, array_agg(id) FROM enqueued GROUP BY name, type
"""

BREAK_OFF = """
UPDATE taskflow.schedules
SET paused_at = now(), pause_reason = %(reason)s, updated_at = now()
WHERE name = %(name)s
"""


class Ticked(Struct, frozen=True):
    """What came of a schedule that was due: *tasks* for its ticks since *first*; *error*: why it is paused instead."""

    name: str
    missed: Missed
    first: datetime
    now: datetime
    tasks: int
    error: str | None = None


async def tick(conn: Connection, declared: Sequence[str]) -> list[Ticked]:
    """Enqueue the tasks of schedules that are due, each tick exactly once however many workers do this.

    Schedules from code are looked at if they are among *declared*. One that another worker is looking at is passed
    over; one whose rule cannot be read, for it was written by SQL, is paused.
    """
    ticked: list[Ticked] = []
    ticks: list[tuple[str, datetime]] = []
    next_ticks: list[tuple[str, datetime]] = []
    async with conn.transaction():
        rows = await (await conn.execute(DUE, {"declared": list(declared)})).fetchall()
        for name, rule, time_zone, missed, first, now in rows:
            try:
                parsed = parse_rule(rule, time_zone)
            except InvalidSchedule as error:
                await conn.execute(BREAK_OFF, {"name": name, "reason": str(error)})
                ticked.append(Ticked(name, Missed(missed), first, now, 0, str(error)))
                continue
            due = parsed.due(Missed(missed), first, now)
            ticks += [(name, at) for at in due]
            next_ticks.append((name, parsed.next_after(now)))
            ticked.append(Ticked(name, Missed(missed), first, now, len(due)))
        if next_ticks:
            cursor = await conn.execute(
                TICK,
                {
                    "names": [name for name, _ in ticks],
                    "ticks": [at for _, at in ticks],
                    "schedules": [name for name, _ in next_ticks],
                    "next_ticks": [at for _, at in next_ticks],
                },
            )
            for type, ids in await cursor.fetchall():
                await trace_enqueued(conn, type, ids)
    return ticked


NEXT = """
SELECT extract(epoch FROM min(next_tick) - clock_timestamp())::float8
FROM taskflow.schedules
WHERE paused_at IS NULL AND (declared_at IS NULL OR name = ANY (%(declared)s::text[]))
"""


async def seconds_until_tick(conn: Connection, declared: Sequence[str]) -> float | None:
    """Seconds until the next tick, negative if it is overdue; None if there is no schedule for this worker."""
    row = await (await conn.execute(NEXT, {"declared": list(declared)})).fetchone()
    return None if row is None else row[0]


RUN = """
WITH enqueued AS (
    INSERT INTO taskflow.tasks (name, type, payload, priority, max_attempts)
    SELECT name, type,
           CASE WHEN tick_field IS NULL THEN payload
                ELSE payload || jsonb_build_object(
                         tick_field, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')) END,
           priority, max_attempts
    FROM taskflow.schedules
    WHERE name = %(name)s
    RETURNING id, type
)
UPDATE taskflow.schedules
SET last_task_id = enqueued.id
FROM enqueued
WHERE name = %(name)s
RETURNING enqueued.id, enqueued.type
"""


async def run_now(conn: Connection, name: str, headers: Mapping[str, str] | None = None) -> int | None:
    """Enqueue a task of the schedule *name*, paused or not, beside its ticks; the task's id, None: no such schedule.

    *headers* are of the request that asks for it; they may carry a trace.
    """
    async with conn.transaction():
        row = await (await conn.execute(RUN, {"name": name})).fetchone()
        if row is None:
            return None
        id, type = row
        await trace_enqueued(conn, type, [id], headers)
    return id
