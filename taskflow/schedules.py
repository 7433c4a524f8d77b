"""Schedules as rows: declared by code or made through the API, looked at, changed, paused and resumed.

Their ticks are in ``taskflow.queue.tick``.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct, structs
from psycopg import errors
from psycopg.rows import dict_row

from taskflow.database import Connection
from taskflow.errors import InvalidSchedule, TaskflowError
from taskflow.model import Missed, NewSchedule, Priority, Status, Time
from taskflow.recurrence import parse_rule

PREVIEWED: Final = 5
"""Ticks that are told ahead."""


class ScheduleNameTaken(TaskflowError):
    """There is a schedule of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a schedule {name!r} already; change it, or choose another name")
        self.name = name


class NoSuchSchedule(TaskflowError):
    """No schedule has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no schedule has the name {name!r}")
        self.name = name


class DeclaredInCode(TaskflowError):
    """A schedule that code declares is changed there."""

    def __init__(self, name: str) -> None:
        super().__init__(f"schedule {name!r} is declared in code: change it there; it can be paused, resumed and run")
        self.name = name


class ScheduleView(Struct, frozen=True, kw_only=True):
    """A schedule as it stands."""

    name: str
    rule: str
    description: Annotated[str, Meta(description="the rule in plain English")]
    time_zone: str
    type: str
    payload: Raw
    priority: Priority
    max_attempts: int
    missed: Missed
    tick_field: str | None
    is_declared: Annotated[bool, Meta(description="in code; otherwise it was made through the API")]
    is_kept: Annotated[bool, Meta(description="false: it is declared by the code of no worker that runs")]
    paused_at: Time | None
    pause_reason: str | None
    next_ticks: Annotated[list[Time], Meta(description=f"the next {PREVIEWED}; none while it is paused")]
    last_tick: Time | None
    last_task_id: Annotated[int | None, Meta(description="of its last tick, or of the last time it was run by hand")]
    last_status: Annotated[Status | None, Meta(description="of that task; null if it was pruned")]
    created_at: Time
    updated_at: Time


LIST = """
SELECT schedule.name, rule, time_zone, schedule.type, schedule.payload::text, schedule.priority::text,
       schedule.max_attempts, missed::text, tick_field, declared_at IS NOT NULL AS is_declared,
       coalesce(declared_at > now() - interval '3 minutes', true) AS is_kept,
       paused_at, pause_reason, next_tick, last_tick, last_task_id, task.status::text AS last_status,
       schedule.created_at, schedule.updated_at, now()
FROM taskflow.schedules AS schedule
LEFT JOIN taskflow.tasks AS task ON task.id = last_task_id
WHERE (%(name)s::text IS NULL OR schedule.name = %(name)s) AND schedule.name > %(after)s
ORDER BY schedule.name
LIMIT %(limit)s
"""


async def find_schedules(conn: Connection, after: str = "", limit: int = 1000) -> list[ScheduleView]:
    """Schedules by name, *limit* at most, behind the name *after*."""
    return await _find(conn, {"name": None, "after": after, "limit": limit})


async def find_schedule(conn: Connection, name: str) -> ScheduleView:
    """The schedule of this name; raises NoSuchSchedule."""
    for schedule in await _find(conn, {"name": name, "after": "", "limit": 1}):
        return schedule
    raise NoSuchSchedule(name)


async def _find(conn: Connection, given: dict[str, Any]) -> list[ScheduleView]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        return [_view(row) for row in await (await cursor.execute(LIST, given)).fetchall()]


def _view(row: dict[str, Any]) -> ScheduleView:
    now, next_tick = row.pop("now"), row.pop("next_tick")
    row["payload"] = Raw(row["payload"].encode())
    try:
        rule = parse_rule(row["rule"], row["time_zone"])
    except InvalidSchedule as error:  # written by SQL
        return msgspec.convert(row | {"description": str(error), "next_ticks": []}, ScheduleView)
    ahead = [next_tick, *islice(rule.ticks(max(now, next_tick)), PREVIEWED - 1)] if row["paused_at"] is None else []
    return msgspec.convert(row | {"description": rule.describe(), "next_ticks": ahead}, ScheduleView)


CREATE = """
INSERT INTO taskflow.schedules
    (name, rule, time_zone, type, payload, priority, max_attempts, missed, tick_field, next_tick)
VALUES (%(name)s, %(rule)s, %(time_zone)s, %(type)s, %(payload)s::jsonb, %(priority)s::taskflow.priority,
        %(max_attempts)s, %(missed)s::taskflow.missed, %(tick_field)s, %(next_tick)s)
"""


async def create(conn: Connection, schedule: NewSchedule) -> None:
    """Keep *schedule* from now on; raises ScheduleNameTaken, InvalidSchedule, or psycopg.DataError for its payload."""
    try:
        await conn.execute(CREATE, await _columns(conn, schedule))
    except errors.UniqueViolation:
        raise ScheduleNameTaken(schedule.name) from None


# One that was made through the API is left alone. Only another rule moves the next tick.
DECLARE = """
INSERT INTO taskflow.schedules AS known
    (name, rule, time_zone, type, payload, priority, max_attempts, missed, tick_field, next_tick, declared_at)
VALUES (%(name)s, %(rule)s, %(time_zone)s, %(type)s, %(payload)s::jsonb, %(priority)s::taskflow.priority,
        %(max_attempts)s, %(missed)s::taskflow.missed, %(tick_field)s, %(next_tick)s, now())
ON CONFLICT (name) DO UPDATE
SET rule = excluded.rule, time_zone = excluded.time_zone, type = excluded.type, payload = excluded.payload,
    priority = excluded.priority, max_attempts = excluded.max_attempts, missed = excluded.missed,
    tick_field = excluded.tick_field, declared_at = now(), updated_at = now(),
    next_tick = CASE WHEN (known.rule, known.time_zone) = (excluded.rule, excluded.time_zone) THEN known.next_tick
                     ELSE excluded.next_tick END
WHERE known.declared_at IS NOT NULL
"""


async def declare(conn: Connection, schedule: NewSchedule) -> bool:
    """Keep *schedule* as code says it; False if the API made one of this name, which stays as it is."""
    return (await conn.execute(DECLARE, await _columns(conn, schedule))).rowcount == 1


STILL_DECLARED = """
UPDATE taskflow.schedules
SET declared_at = now()
WHERE name = ANY (%(names)s::text[]) AND declared_at < now() - interval '30 seconds'
"""


async def declare_still(conn: Connection, names: Sequence[str]) -> None:
    """Note that a worker whose code declares *names* lives."""
    await conn.execute(STILL_DECLARED, {"names": list(names)})


LOCK = "SELECT declared_at IS NOT NULL FROM taskflow.schedules WHERE name = %(name)s FOR UPDATE"

CHANGE = """
UPDATE taskflow.schedules AS known
SET rule = %(rule)s, time_zone = %(time_zone)s, type = %(type)s, payload = %(payload)s::jsonb,
    priority = %(priority)s::taskflow.priority, max_attempts = %(max_attempts)s,
    missed = %(missed)s::taskflow.missed, tick_field = %(tick_field)s, updated_at = now(),
    next_tick = CASE WHEN (known.rule, known.time_zone) = (%(rule)s, %(time_zone)s) THEN next_tick
                     ELSE %(next_tick)s END
WHERE name = %(name)s
"""


async def lock_for_change(conn: Connection, name: str) -> ScheduleView:
    """The schedule, locked until the caller's transaction ends; raises NoSuchSchedule or DeclaredInCode."""
    row = await (await conn.execute(LOCK, {"name": name})).fetchone()
    if row is None:
        raise NoSuchSchedule(name)
    if row[0]:
        raise DeclaredInCode(name)
    return await find_schedule(conn, name)


async def change(conn: Connection, schedule: NewSchedule) -> None:
    """Keep the schedule of this name as *schedule* says; another rule or time zone counts from now on."""
    await conn.execute(CHANGE, await _columns(conn, schedule))


NOW = "SELECT now()"


async def _columns(conn: Connection, schedule: NewSchedule) -> dict[str, Any]:
    (now,) = await (await conn.execute(NOW)).fetchone() or (None,)
    assert now is not None
    rule = parse_rule(schedule.rule, schedule.time_zone)
    return structs.asdict(schedule) | {
        "rule": rule.text,
        "payload": bytes(schedule.payload).decode(),
        "priority": schedule.priority.value,
        "missed": schedule.missed.value,
        "next_tick": rule.next_after(now),
    }


PAUSE = """
UPDATE taskflow.schedules
SET paused_at = coalesce(paused_at, now()), pause_reason = %(reason)s, updated_at = now()
WHERE name = %(name)s
"""


async def pause(conn: Connection, name: str, reason: str | None) -> None:
    """Let *name* tick no more until it is resumed; raises NoSuchSchedule. Paused already: the new reason counts."""
    if (await conn.execute(PAUSE, {"name": name, "reason": reason})).rowcount == 0:
        raise NoSuchSchedule(name)


PAUSED = "SELECT rule, time_zone, now() FROM taskflow.schedules WHERE name = %(name)s FOR UPDATE"

RESUME = """
UPDATE taskflow.schedules
SET paused_at = NULL, pause_reason = NULL, updated_at = now(),
    next_tick = CASE WHEN paused_at IS NULL THEN next_tick ELSE %(next_tick)s END
WHERE name = %(name)s
"""


async def resume(conn: Connection, name: str) -> None:
    """Let *name* tick again: ticks of the pause were not missed. Raises NoSuchSchedule, or InvalidSchedule."""
    async with conn.transaction():
        row = await (await conn.execute(PAUSED, {"name": name})).fetchone()
        if row is None:
            raise NoSuchSchedule(name)
        rule, time_zone, now = row
        next_tick: datetime = parse_rule(rule, time_zone).next_after(now)
        await conn.execute(RESUME, {"name": name, "next_tick": next_tick})


REMOVE = "DELETE FROM taskflow.schedules WHERE name = %(name)s"


async def remove(conn: Connection, name: str) -> None:
    """Forget the schedule, not its tasks; one that code declares comes back with the next worker that starts."""
    if (await conn.execute(REMOVE, {"name": name})).rowcount == 0:
        raise NoSuchSchedule(name)
