"""A task as it stands, and its history."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct
from psycopg.rows import dict_row

from taskflow.database import Connection, array
from taskflow.model import Priority, Status, Time


class Progress(Struct, frozen=True):
    """What the handler told last; ``checkpoint`` is where the next attempt can go on."""

    attempt: int
    fraction: Annotated[float, Meta(ge=0, le=1)] | None
    message: str | None
    checkpoint: Annotated[Raw | None, Meta(extra_json_schema={"type": ["object", "null"]})]
    updated_at: Time


class TaskView(Struct, frozen=True, kw_only=True):
    """A task as it stands; times are aware, ``error`` is of the latest failed attempt."""

    id: int
    name: str
    type: str
    priority: Priority
    status: Status
    attempt: int
    max_attempts: int
    payload: Raw
    result: Raw | None
    error: str | None
    waits_for: Annotated[
        list[str],
        Meta(description="gates that keep it from being claimed, such as `task:7`", examples=[["task:7", "task:8"]]),
    ]
    worker: str | None
    progress: Progress | None = None
    created_at: Time
    updated_at: Time
    scheduled_at: Time
    started_at: Time | None
    finished_at: Time | None


class Transition(Struct, frozen=True, kw_only=True):
    """One change of a task's status."""

    task_id: int
    old_status: Status
    new_status: Status
    attempt: int
    worker: str | None
    reason: str | None
    created_at: Time


TASK = """
SELECT task.id, task.name, type, priority::text, status::text, task.attempt, max_attempts, payload::text,
       result::text, error, worker.name AS worker, created_at, task.updated_at, scheduled_at,
       task.started_at, finished_at,
       progress.attempt AS told_in, fraction, message, checkpoint::text, progress.updated_at AS told_at,
       ARRAY(SELECT hold.gate FROM taskflow.holds AS hold
             WHERE task.held AND hold.task_id = task.id AND hold.state = 'waiting' ORDER BY hold.gate) AS waits_for
FROM taskflow.tasks AS task
LEFT JOIN taskflow.workers AS worker ON worker.id = task.worker_id
LEFT JOIN taskflow.progress AS progress ON progress.task_id = task.id
WHERE task.id = %(id)s
"""


async def find_task(conn: Connection, id: int) -> TaskView | None:
    """The task of this id, or None."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        row = await (await cursor.execute(TASK, {"id": id})).fetchone()
    if row is None:
        return None
    row["priority"], row["status"] = Priority(row["priority"]), Status(row["status"])
    row["payload"] = Raw(row["payload"].encode())
    row["result"] = None if row["result"] is None else Raw(row["result"].encode())
    told = [row.pop(column) for column in ("told_in", "fraction", "message", "checkpoint", "told_at")]
    return TaskView(**row, progress=None if told[0] is None else _progress(*told))


def _progress(attempt: int, fraction: float | None, message: str | None, checkpoint: str | None, at: Time) -> Progress:
    return Progress(attempt, fraction, message, None if checkpoint is None else Raw(checkpoint.encode()), at)


RUNNING = "SELECT id, attempt FROM taskflow.tasks WHERE worker_id = %(worker)s AND status = 'running'"


async def find_running(conn: Connection, worker: int) -> set[tuple[int, int]]:
    """Id and attempt of each task that *worker* runs, as far as Postgres knows."""
    return set(await (await conn.execute(RUNNING, {"worker": worker})).fetchall())


LIVE = "SELECT id FROM taskflow.tasks WHERE id = ANY (%(ids)s::bigint[]) AND finished_at IS NULL"


async def find_live(conn: Connection, ids: Sequence[int]) -> set[int]:
    """Those of *ids* whose tasks have not ended."""
    return {id for (id,) in await (await conn.execute(LIVE, {"ids": array(ids)})).fetchall()}


HISTORY = """
-- A join could lose the order of the view.
SELECT task_id, old_status::text, new_status::text, attempt,
       (SELECT name FROM taskflow.workers WHERE id = worker_id) AS worker, reason, created_at
FROM taskflow.task_history
WHERE task_id = %(id)s
"""


async def find_history(conn: Connection, id: int) -> list[Transition] | None:
    """The task's transitions, oldest first; None if there is no such task."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(HISTORY, {"id": id})).fetchall()
    if not rows and await find_task(conn, id) is None:
        return None
    return msgspec.convert(rows, list[Transition])


TOUCH = "SELECT FROM taskflow.tasks LIMIT 0"


async def touch_tasks(conn: Connection) -> None:
    """Read no row of the table of tasks: waits while it is locked, raises psycopg.Error if it cannot be read."""
    await conn.execute(TOUCH)
