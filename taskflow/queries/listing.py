"""Find tasks by what they have in common. What a look costs is bounded, whatever it looks for.

Tasks are read in the order of their ids, which is that of their creation, and at most BUDGET of them at a look: a look
that ends before its page is full says from where to go on. Where few tasks have the wanted status, the small index of
that status tells them all.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from psycopg.rows import dict_row

from taskflow.database import Connection
from taskflow.filters import Cursor, Sort, TaskFilter
from taskflow.model import Priority, Status, Time

LARGEST_ID: Final = 2**63 - 1

BUDGET: Final = 10_000
"""Tasks that one look reads at most."""

FEW: Final = 3_000
"""Up to so many tasks of a status are read from its index and sorted."""

DEARER: Final = 4
"""So many times as much it costs to read a task when its gates are looked up as well."""

INDEXED: Final = frozenset({Status.QUEUED, Status.RUNNING, Status.FAILED, Status.CANCELLED})
"""Statuses that have a small index."""


class TaskSummary(Struct, frozen=True, kw_only=True):
    """A task in a list: without its payload and result, and with the first line of its error."""

    id: int
    name: str
    type: str
    priority: Priority
    status: Status
    attempt: int
    max_attempts: int
    error: str | None
    worker: str | None
    created_at: Time
    updated_at: Time
    scheduled_at: Time
    started_at: Time | None
    finished_at: Time | None


class Found(Struct, frozen=True):
    """Ids in the wanted order; ``next`` is where to go on, or None if that is all. Without ``is_full``, the look ended
    because it had read enough, and there may be more.
    """

    ids: list[int]
    next: Cursor | None
    is_full: bool


# Ids are drawn in the order of created_at, but for transactions that enqueue long after their begin: up to a minute.
RANGE = """
SELECT greatest(%(first)s, taskflow.first_id_since(%(created_after)s::timestamptz - interval '1 minute')),
       least(%(last)s, taskflow.first_id_since(%(created_before)s::timestamptz + interval '1 minute') - 1)
"""

# What the filter asks of a row of `tasks`. OFFSET 0 has the gates of each row looked up: else all gates might be read.
_matches: Final = """
status = ANY (%(statuses)s::taskflow.status[]) AND priority = ANY (%(priorities)s::taskflow.priority[])
AND (%(type)s::text IS NULL OR type = %(type)s)
AND (%(name)s::text IS NULL OR strpos(lower(name), lower(%(name)s)) > 0)
AND created_at >= coalesce(%(created_after)s::timestamptz, '-infinity')
AND created_at < coalesce(%(created_before)s::timestamptz, 'infinity')
AND (%(tenants)s::text[] IS NULL OR EXISTS (
    SELECT FROM taskflow.holds WHERE task_id = tasks.id AND gate = ANY (%(tenants)s::text[]) OFFSET 0))
AND (%(key)s::text IS NULL OR (unique_key = %(key)s AND status IN ('queued', 'running')) OR EXISTS (
    SELECT FROM taskflow.holds WHERE task_id = tasks.id AND gate = %(order)s OFFSET 0))
"""

# The last row that was read is told although it may not match.
_walk: Final = """
SELECT id, matches, position = %(budget)s
FROM (
    SELECT id, row_number() OVER (ORDER BY {order}) AS position, {matches} AS matches
    FROM taskflow.tasks
    WHERE id BETWEEN %(first)s AND %(last)s
    ORDER BY {order}
    LIMIT %(budget)s
) AS seen
WHERE matches OR position = %(budget)s
LIMIT %(limit)s
"""

NEWEST_FIRST = _walk.format(order="id DESC", matches=_matches)
OLDEST_FIRST = _walk.format(order="id", matches=_matches)

# Whether few are all there are, and only then those that match.
_all: Final = """
WITH few AS MATERIALIZED (SELECT * FROM ({few}) AS read LIMIT %(few)s)
SELECT (SELECT count(*) FROM few) < %(few)s,
       ARRAY(
           SELECT id
           FROM {rows}
           WHERE (SELECT count(*) FROM few) < %(few)s AND id BETWEEN %(first)s AND %(last)s AND {matches}
           ORDER BY CASE WHEN %(newest_first)s THEN -id ELSE id END
           LIMIT %(limit)s
       )
"""

# Each branch names its status as its index does; those that are not wanted are not run. The order is the index's own:
# without it, the planner may prefer to walk the table.
OF_FEW = _all.format(
    few="""
    (SELECT id, status, priority, type, name, created_at, unique_key FROM taskflow.tasks
     WHERE 'queued' = ANY (%(statuses)s::taskflow.status[]) AND status = 'queued' AND NOT held
     ORDER BY priority, scheduled_at, id LIMIT %(few)s)
    UNION ALL
    (SELECT id, status, priority, type, name, created_at, unique_key FROM taskflow.tasks
     WHERE 'queued' = ANY (%(statuses)s::taskflow.status[]) AND status = 'queued' AND held
     ORDER BY priority, scheduled_at, id LIMIT %(few)s)
    UNION ALL
    (SELECT id, status, priority, type, name, created_at, unique_key FROM taskflow.tasks
     WHERE 'running' = ANY (%(statuses)s::taskflow.status[]) AND status = 'running'
     ORDER BY worker_id LIMIT %(few)s)
    UNION ALL
    (SELECT id, status, priority, type, name, created_at, unique_key FROM taskflow.tasks
     WHERE 'failed' = ANY (%(statuses)s::taskflow.status[]) AND status = 'failed'
     ORDER BY updated_at, id LIMIT %(few)s)
    UNION ALL
    (SELECT id, status, priority, type, name, created_at, unique_key FROM taskflow.tasks
     WHERE 'cancelled' = ANY (%(statuses)s::taskflow.status[]) AND status = 'cancelled'
     ORDER BY updated_at, id LIMIT %(few)s)
    """,
    rows="few AS tasks",
    matches=_matches,
)

# Tasks of a tenant or a key are told by their gates, and by the index of unique keys. Gate by gate and in the order of
# its index: otherwise the planner may prefer to read all gates.
OF_GATES = _all.format(
    few="""
    (SELECT hold.id
     FROM unnest(%(gates)s::text[]) AS wanted (gate)
     CROSS JOIN LATERAL (SELECT task_id AS id FROM taskflow.holds WHERE gate = wanted.gate AND state = 'waiting'
                         ORDER BY priority, scheduled_at, task_id LIMIT %(few)s) AS hold)
    UNION ALL
    (SELECT hold.id
     FROM unnest(%(gates)s::text[]) AS wanted (gate)
     CROSS JOIN LATERAL (SELECT task_id AS id FROM taskflow.holds WHERE gate = wanted.gate AND state = 'passed'
                         ORDER BY task_id LIMIT %(few)s) AS hold)
    UNION ALL
    (SELECT hold.id
     FROM unnest(%(gates)s::text[]) AS wanted (gate)
     CROSS JOIN LATERAL (SELECT task_id AS id FROM taskflow.holds
                         WHERE gate = wanted.gate AND state IN ('later', 'ended')
                         ORDER BY task_id LIMIT %(few)s) AS hold)
    UNION ALL
    (SELECT id FROM taskflow.tasks WHERE unique_key = %(key)s AND status IN ('queued', 'running'))
    """,
    rows="(SELECT * FROM taskflow.tasks WHERE id = ANY (ARRAY(SELECT id FROM few))) AS tasks",
    matches=_matches,
)


async def find_ids(
    conn: Connection,
    filter: TaskFilter,
    sort: Sort,
    limit: int,
    cursor: Cursor | None = None,
    statuses: Sequence[Status] = tuple(Status),
    *,
    budget: int | None = None,
    goes_on: bool = False,
) -> Found:
    """At most *limit* tasks that meet *filter*, behind *cursor*; of the *statuses* only.

    *budget* is of this look, BUDGET unless given; with *goes_on*, an earlier look found that there are not few.
    """
    wanted = [status for status in statuses if filter.status in {None, status}]
    budget = BUDGET if budget is None else min(budget, BUDGET)
    values = await _values(conn, filter, sort, cursor)
    values |= {"statuses": [status.value for status in wanted], "limit": limit + 1, "few": FEW + 1, "budget": budget}
    if values["gates"] is not None:
        values |= {"few": FEW // DEARER + 1, "budget": max(budget // DEARER, 1)}
    until = cursor.until if cursor else LARGEST_ID
    is_last_read = False
    if goes_on:
        is_all, ids = False, list[int]()
    elif values["gates"] is not None:
        ((is_all, ids),) = await (await conn.execute(OF_GATES, values)).fetchall()
    elif INDEXED.issuperset(wanted):
        ((is_all, ids),) = await (await conn.execute(OF_FEW, values)).fetchall()
    else:
        is_all, ids = False, []
    if not is_all:
        statement = NEWEST_FIRST if sort is Sort.NEWEST else OLDEST_FIRST
        rows = await (await conn.execute(statement, values)).fetchall()
        ids = [id for id, matches, _ in rows if matches]
        is_last_read = bool(rows) and rows[-1][2]
        if is_last_read and len(ids) <= limit:
            return Found(ids, Cursor(rows[-1][0], until), is_full=len(ids) == limit)
    more = len(ids) > limit
    return Found(ids[:limit], Cursor(ids[limit - 1], until) if more else None, is_full=True)


async def _values(conn: Connection, filter: TaskFilter, sort: Sort, cursor: Cursor | None) -> dict[str, Any]:
    """What *filter* and *cursor* say, as the statements want it."""
    first, last = 1, cursor.until if cursor else LARGEST_ID
    if cursor is not None and sort is Sort.OLDEST:
        first = cursor.id + 1
    elif cursor is not None:
        last = min(last, cursor.id - 1)
    values: dict[str, Any] = {
        "first": first,
        "last": last,
        "newest_first": sort is Sort.NEWEST,
        "priorities": list(Priority) if filter.priority is None else [filter.priority],
        "type": filter.type,
        "name": filter.name,
        "key": filter.key,
        "order": f"order:{filter.key}",
        "tenants": None if filter.tenant is None else [f"tenant:{priority}:{filter.tenant}" for priority in Priority],
        "created_after": filter.created_after,
        "created_before": filter.created_before,
    }
    values["gates"] = values["tenants"] if filter.key is None else [values["order"]]
    if filter.created_after is not None or filter.created_before is not None:
        ((values["first"], values["last"]),) = await (await conn.execute(RANGE, values)).fetchall()
    return values


SUMMARIES = """
SELECT task.id, task.name, type, priority::text, status::text, attempt, max_attempts,
       left(split_part(error, E'\n', 1), 300) AS error, worker.name AS worker,
       created_at, updated_at, scheduled_at, task.started_at, finished_at
FROM taskflow.tasks AS task
LEFT JOIN taskflow.workers AS worker ON worker.id = task.worker_id
WHERE task.id = ANY (%(ids)s::bigint[])
"""


async def find_tasks(conn: Connection, ids: Sequence[int]) -> list[TaskSummary]:
    """The tasks *ids* in this order; those that are gone are left out."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(SUMMARIES, {"ids": list(ids)})).fetchall()
    tasks = {task.id: task for task in msgspec.convert(rows, list[TaskSummary])}
    return [tasks[id] for id in ids if id in tasks]


NEWEST = "SELECT coalesce(max(id), 0) FROM taskflow.tasks"


async def find_newest(conn: Connection) -> int:
    """The id of the newest task; 0 if there is none."""
    ((id,),) = await (await conn.execute(NEWEST)).fetchall()
    return id
