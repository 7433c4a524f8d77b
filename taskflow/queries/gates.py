"""What is limited and paused, and how groups stand."""

import msgspec
from msgspec import Struct
from psycopg.rows import dict_row

from taskflow.database import Connection
from taskflow.model import Priority, Time


class QueueView(Struct, frozen=True):
    """A priority; ``paused_at`` None: it is claimed from."""

    priority: Priority
    paused_at: Time | None
    pause_reason: str | None


QUEUES = """
SELECT queue.priority::text, pause.paused_at, pause.reason AS pause_reason
FROM unnest(enum_range(NULL::taskflow.priority)) AS queue (priority)
LEFT JOIN taskflow.pauses AS pause USING (priority)
ORDER BY queue.priority
"""


async def find_queue_views(conn: Connection) -> list[QueueView]:
    """All priorities, in the order of claiming."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        return msgspec.convert(await (await cursor.execute(QUEUES)).fetchall(), list[QueueView])


class LimitView(Struct, frozen=True, kw_only=True):
    """What is asked of all tasks of a type; ``is_declared``: by the code, and set again by its next worker."""

    type: str
    concurrency: int | None
    concurrency_per_key: int | None
    rate: int | None
    rate_per_key: int | None
    rate_seconds: float
    is_declared: bool
    paused_at: Time | None
    pause_reason: str | None


LIMITS = """
SELECT type, concurrency, concurrency_per_key, rate, rate_per_key, rate_seconds, is_declared, paused_at, pause_reason
FROM taskflow.limits
ORDER BY type
"""


async def find_limits(conn: Connection) -> list[LimitView]:
    """The task types that are limited or paused, by name."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        return msgspec.convert(await (await cursor.execute(LIMITS)).fetchall(), list[LimitView])


class GroupView(Struct, frozen=True, kw_only=True):
    """A group of tasks, with how many of them have each status."""

    id: int
    name: str | None
    created_at: Time
    callback_task_id: int | None
    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


GROUP = """
SELECT g.id, g.name, g.created_at, g.callback_id AS callback_task_id, count(task.id) AS total,
       count(*) FILTER (WHERE task.status = 'queued') AS queued,
       count(*) FILTER (WHERE task.status = 'running') AS running,
       count(*) FILTER (WHERE task.status = 'succeeded') AS succeeded,
       count(*) FILTER (WHERE task.status = 'failed') AS failed,
       count(*) FILTER (WHERE task.status = 'cancelled') AS cancelled
FROM taskflow.groups AS g
LEFT JOIN LATERAL (
    SELECT task_id FROM taskflow.members WHERE group_id = g.id LIMIT %(most)s::bigint  -- null: all
) AS member ON true
LEFT JOIN taskflow.tasks AS task ON task.id = member.task_id
WHERE g.id = %(id)s
GROUP BY g.id
"""


async def find_group(conn: Connection, id: int, most: int | None = None) -> GroupView | None:
    """The group of this id, or None; at most *most* tasks are counted. Those that were pruned do not count any more."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        row = await (await cursor.execute(GROUP, {"id": id, "most": most})).fetchone()
    return None if row is None else msgspec.convert(row, GroupView)
