"""Group: tasks that are enqueued together, and a task that runs when all of them have ended."""

from collections.abc import Sequence

import msgspec

from taskflow.database import Connection
from taskflow.model import NewTask

ENQUEUE_GROUP = "SELECT taskflow.enqueue_group(%(tasks)s::jsonb, %(callback)s::jsonb, %(name)s)"


async def enqueue_group(
    conn: Connection, tasks: Sequence[NewTask], callback: NewTask | None = None, name: str | None = None
) -> int:
    """Store *tasks* as a group, all or nothing; the group's id. *callback* is run when all have ended, however.

    Raises what ``enqueue_many`` raises.
    """
    values = {
        "tasks": msgspec.json.encode(tasks).decode(),
        "callback": None if callback is None else msgspec.json.encode(callback).decode(),
        "name": name,
    }
    row = await (await conn.execute(ENQUEUE_GROUP, values)).fetchone()
    assert row is not None
    return row[0]


MEMBERS = "SELECT task_id FROM taskflow.members WHERE group_id = %(id)s ORDER BY task_id"


async def find_members(conn: Connection, id: int) -> list[int]:
    """The ids of a group's tasks, in the order in which they were given."""
    return [task for (task,) in await (await conn.execute(MEMBERS, {"id": id})).fetchall()]
