"""What belongs to a task: its attempts, its group, and the tasks that it waits for or that wait for it."""

from typing import Final

import msgspec
from msgspec import Struct
from psycopg.rows import dict_row

from taskflow.database import Connection
from taskflow.model import Status, Time

LISTED: Final = 100
"""Attempts, steps and tasks that are told, at most."""


class AttemptView(Struct, frozen=True, kw_only=True):
    """One attempt. ``outcome`` is running, succeeded, failed, released, lost or cancelled.

    Without ``started_at``, the task was cancelled while it was queued; without ``ended_at``, it goes on. ``reason``
    says why the task was queued again after it, ``requeued_at`` when, unless it was at its end.
    """

    attempt: int
    worker: str | None
    started_at: Time | None
    ended_at: Time | None
    requeued_at: Time | None
    seconds: float | None
    outcome: str
    error: str | None
    reason: str | None


# The current attempt is told by the task's own row: see taskflow.task_history.
ATTEMPTS = """
SELECT attempt, (SELECT name FROM taskflow.workers WHERE id = worker_id) AS worker, started_at, ended_at,
       requeued_at, extract(epoch FROM coalesce(ended_at, now()) - started_at)::float8 AS seconds, outcome,
       error, reason
FROM (
    (SELECT 9223372036854775807 AS position, attempt, worker_id, started_at, finished_at AS ended_at,
            NULL::timestamptz AS requeued_at, status::text AS outcome,
            CASE WHEN status IN ('failed', 'cancelled') THEN error END AS error, NULL AS reason
     FROM taskflow.tasks
     WHERE id = %(id)s AND status <> 'queued')
    UNION ALL
    (SELECT id, attempt, worker_id, started_at, ended_at, requeued_at, outcome::text, error, reason
     FROM taskflow.attempts
     WHERE task_id = %(id)s
     ORDER BY id DESC
     LIMIT %(listed)s)
) AS attempts
ORDER BY position DESC
LIMIT %(listed)s
"""


async def find_attempts(conn: Connection, id: int) -> list[AttemptView]:
    """The latest LISTED attempts of the task, the latest first."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(ATTEMPTS, {"id": id, "listed": LISTED})).fetchall()
    return msgspec.convert(rows, list[AttemptView])


class Neighbour(Struct, frozen=True, kw_only=True):
    """Another task, in a line; ``status`` None: it is gone."""

    id: int
    name: str | None
    status: Status | None


class Links(Struct, frozen=True, kw_only=True):
    """What ties a task to others. ``group`` is the one it belongs to, ``ends`` the one whose callback it is; there may
    be more than LISTED tasks that it waits for, or that wait for it.
    """

    unique_key: str | None
    tenant: str | None
    order_key: str | None
    limit_key: str | None
    group: int | None
    ends: int | None
    waits_for: list[Neighbour]
    awaited_by: list[Neighbour]


# The parts of a gate's name: see taskflow.holds.
LINKS = """
SELECT task.unique_key,
       (SELECT regexp_replace(gate, '^tenant:[a-z]+:', '') FROM taskflow.holds
        WHERE task_id = task.id AND gate LIKE 'tenant:%%') AS tenant,
       (SELECT substr(gate, 7) FROM taskflow.holds WHERE task_id = task.id AND gate LIKE 'order:%%') AS order_key,
       (SELECT substr(gate, 5)::jsonb ->> 1 FROM taskflow.holds
        WHERE task_id = task.id AND gate LIKE 'key:%%') AS limit_key,
       (SELECT group_id FROM taskflow.members WHERE task_id = task.id) AS group,
       (SELECT id FROM taskflow.groups WHERE callback_id = task.id LIMIT 1) AS ends,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('id', before.id, 'name', other.name, 'status', other.status)
                                  ORDER BY before.id), '[]')
        FROM (SELECT substr(gate, 6)::bigint AS id FROM taskflow.holds
              WHERE task_id = task.id AND gate LIKE 'task:%%' AND state = 'waiting'
              ORDER BY gate LIMIT %(listed)s) AS before
        LEFT JOIN taskflow.tasks AS other ON other.id = before.id) AS waits_for,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('id', other.id, 'name', other.name, 'status', other.status)
                                  ORDER BY other.id), '[]')
        FROM (SELECT task_id FROM taskflow.holds
              WHERE gate = 'task:' || task.id AND state = 'waiting'
              ORDER BY priority, scheduled_at, task_id LIMIT %(listed)s) AS after
        JOIN taskflow.tasks AS other ON other.id = after.task_id) AS awaited_by
FROM taskflow.tasks AS task
WHERE task.id = %(id)s
"""


async def find_links(conn: Connection, id: int) -> Links | None:
    """What ties the task to others, or None if there is no such task."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        row = await (await cursor.execute(LINKS, {"id": id, "listed": LISTED})).fetchone()
    return None if row is None else msgspec.convert(row, Links)
