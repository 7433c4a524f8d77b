"""Group: tasks that are enqueued together, and a task that runs when all of them have ended."""

from collections.abc import Sequence

import msgspec

from taskflow.database import Connection
from taskflow.model import NewTask
from taskflow.queue.trace import keep_traces

ENQUEUE_GROUP = "SELECT taskflow.enqueue_group(%(tasks)s::jsonb, %(callback)s::jsonb, %(name)s)"


async def enqueue_group(
    conn: Connection, tasks: Sequence[NewTask], callback: NewTask | None = None, name: str | None = None
) -> int:
    """Store *tasks* as a group, all or nothing; the group's id. *callback* is run when all have ended, however.

    Raises what ``enqueue_many`` raises. Call it in a transaction if a task has a ``traceparent``.
    """
    values = {
        "tasks": msgspec.json.encode(tasks).decode(),
        "callback": None if callback is None else msgspec.json.encode(callback).decode(),
        "name": name,
    }
    row = await (await conn.execute(ENQUEUE_GROUP, values)).fetchone()
    assert row is not None
    (id,) = row
    if any(task.traceparent for task in tasks):
        await _keep_traces(conn, id, [*tasks, *([callback] if callback else [])])
    return id


CALLBACK = "SELECT callback_id FROM taskflow.groups WHERE id = %(id)s"


async def _keep_traces(conn: Connection, id: int, tasks: Sequence[NewTask]) -> None:
    ids = await find_members(conn, id)
    ids += [task for (task,) in await (await conn.execute(CALLBACK, {"id": id})).fetchall() if task is not None]
    await keep_traces(conn, [(id, task.traceparent) for id, task in zip(ids, tasks, strict=True)])


MEMBERS = "SELECT task_id FROM taskflow.members WHERE group_id = %(id)s ORDER BY task_id"


async def find_members(conn: Connection, id: int) -> list[int]:
    """The ids of a group's tasks, in the order in which they were given."""
    return [task for (task,) in await (await conn.execute(MEMBERS, {"id": id})).fetchall()]
