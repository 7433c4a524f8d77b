"""Enqueue: from nothing to ``queued``."""

from collections.abc import Mapping, Sequence
from typing import LiteralString

import msgspec
from msgspec import Struct
from psycopg.errors import UniqueViolation

from taskflow.database import Connection
from taskflow.errors import KeyTaken
from taskflow.model import NewTask
from taskflow.queue.trace import keep_traces

# One JSON document instead of an array per column: a tenth of the client's work, and Postgres's stays the same.
ENQUEUE = """
INSERT INTO taskflow.tasks (name, type, payload, priority, max_attempts, scheduled_at)
SELECT name, type, payload, coalesce(priority, 'normal'), coalesce(max_attempts, 5),
       coalesce(scheduled_at, now() + make_interval(secs => delay), now())
FROM ROWS FROM (
        jsonb_to_recordset(%(tasks)s::jsonb)
        AS (name text, type text, payload jsonb, priority taskflow.priority, max_attempts integer,
            scheduled_at timestamptz, delay double precision)
     ) WITH ORDINALITY AS given (name, type, payload, priority, max_attempts, scheduled_at, delay, position)
ORDER BY position
RETURNING id
"""

ENQUEUE_HELD = "SELECT taskflow.enqueue_held(%(tasks)s::jsonb)"

_encoder = msgspec.json.Encoder()


async def enqueue_many(conn: Connection, tasks: Sequence[NewTask]) -> list[int]:
    """Store *tasks* in one statement; their ids come in the order of *tasks*. All or nothing.

    Raises psycopg.DataError or psycopg.IntegrityError if one of them cannot be stored, waits for a task that does not
    exist, or has the unique_key of a live one. A thousand tasks a statement are as fast as it gets.
    """
    is_plain = not any(task.has_gates or task.unique_key is not None for task in tasks)
    statement = ENQUEUE if is_plain else ENQUEUE_HELD
    values = {"tasks": _encoder.encode(tasks).decode()}
    if any(task.traceparent for task in tasks):
        async with conn.transaction():
            ids = await _ids(conn, statement, values)
            await keep_traces(conn, [(id, task.traceparent) for id, task in zip(ids, tasks, strict=True)])
        return ids
    return await _ids(conn, statement, values)


async def _ids(conn: Connection, statement: LiteralString, values: Mapping[str, str]) -> list[int]:
    # Ids are drawn in the order of the rows, but RETURNING promises none.
    return sorted(id for (id,) in await (await conn.execute(statement, values)).fetchall())


class Stored(Struct, frozen=True):
    """A task, and what became of the enqueue: ``added``, or because of its key ``existing`` or ``replaced``."""

    id: int
    outcome: str


ENQUEUE_UNIQUE = "SELECT id, outcome FROM taskflow.enqueue_unique(%(task)s::jsonb, %(on_conflict)s)"


async def enqueue_unique(conn: Connection, task: NewTask) -> Stored:
    """Store *task*, unless a live one has its unique_key: then do as its ``on_conflict`` says.

    Raises KeyTaken, or as enqueue_many does.
    """
    values = {"task": _encoder.encode(task).decode(), "on_conflict": task.on_conflict.value}
    try:
        if task.traceparent is None:
            return await _store_unique(conn, values)
        async with conn.transaction():
            stored = await _store_unique(conn, values)
            await keep_traces(conn, [(stored.id, task.traceparent)])
            return stored
    except UniqueViolation as error:
        raise KeyTaken(error.diag.message_primary or str(error)) from error


async def _store_unique(conn: Connection, values: Mapping[str, str]) -> Stored:
    ((id, outcome),) = await (await conn.execute(ENQUEUE_UNIQUE, values)).fetchall()
    return Stored(id, outcome)
