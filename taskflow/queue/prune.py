"""Prune: tasks that ended long ago are gone, with all that belongs to them."""

from typing import Final, LiteralString

from msgspec import Struct

from taskflow.database import Connection
from taskflow.model import Status

BATCH: Final = 1000

# SKIP LOCKED waits all the same where a row was changed twice since the statement began. So rows are locked in the
# order of their ids, as everybody does who locks several, but for claims and admissions, which give in: nobody waits
# for one who waits for him. What a row must be is asked again when it is locked: it may have failed anew meanwhile.

# Ids grow with time, so the old tasks are at the start of the primary key: no index on finished ones is needed.
PRUNE_SUCCEEDED = """
WITH page AS MATERIALIZED (
    SELECT id, status, created_at, finished_at
    FROM taskflow.tasks
    WHERE id > %(after)s
    ORDER BY id
    LIMIT %(limit)s
), deleted AS MATERIALIZED (
    SELECT count(*) AS count
    FROM taskflow.delete_final(ARRAY(
        SELECT id
        FROM taskflow.tasks
        WHERE id = ANY (ARRAY(
                SELECT id FROM page
                WHERE status = 'succeeded' AND finished_at <= now() - make_interval(secs => %(age)s)))
          AND status = 'succeeded' AND finished_at <= now() - make_interval(secs => %(age)s)
        ORDER BY id
        FOR UPDATE SKIP LOCKED))
)
SELECT (SELECT count FROM deleted),
       CASE WHEN bool_or(created_at <= now() - make_interval(secs => %(age)s)) THEN max(id) END
FROM page
"""

PRUNE_FAILED = """
SELECT count(*), CASE WHEN count(*) > 0 THEN %(after)s::bigint END
FROM taskflow.delete_final(ARRAY(
    SELECT id
    FROM taskflow.tasks
    WHERE status = 'failed' AND updated_at <= now() - make_interval(secs => %(age)s)
      AND finished_at <= now() - make_interval(secs => %(age)s)
      AND id = ANY (ARRAY(
            SELECT id
            FROM taskflow.tasks
            WHERE status = 'failed' AND updated_at <= now() - make_interval(secs => %(age)s)
              AND finished_at <= now() - make_interval(secs => %(age)s)
            ORDER BY updated_at, id
            LIMIT %(limit)s))
    ORDER BY id
    FOR UPDATE SKIP LOCKED))
"""

# Not a parameter: only a status that the planner sees leads to the index of its tasks.
PRUNE_CANCELLED = PRUNE_FAILED.replace("'failed'", "'cancelled'")

STATEMENTS: Final[dict[Status, LiteralString]] = {
    Status.SUCCEEDED: PRUNE_SUCCEEDED,
    Status.FAILED: PRUNE_FAILED,
    Status.CANCELLED: PRUNE_CANCELLED,
}


class Batch(Struct, frozen=True):
    """How many tasks a statement has deleted, and where the next one goes on; None: nothing old is left."""

    deleted: int
    next: int | None


async def prune(conn: Connection, status: Status, age: float, after: int = 0, limit: int = BATCH) -> Batch:
    """Delete some of the *status* tasks that ended *age* seconds ago or earlier, beginning behind the id *after*.

    At most *limit* are looked at. What someone else is changing at this moment, as by a retry, is passed over; a retry
    that comes later finds no such task.
    """
    cursor = await conn.execute(STATEMENTS[status], {"age": age, "after": after, "limit": limit})
    deleted, next = await cursor.fetchone() or (0, None)
    return Batch(deleted, next)


COUNT = """
SELECT count(*)
FROM taskflow.tasks
WHERE status = %(status)s::taskflow.status AND finished_at <= now() - make_interval(secs => %(age)s)
"""


async def count_old(conn: Connection, status: Status, age: float) -> int:
    """How many *status* tasks ended *age* seconds ago or earlier. Reads the whole table."""
    row = await (await conn.execute(COUNT, {"status": status.value, "age": age})).fetchone()
    return 0 if row is None else row[0]


PRUNE_WORKERS = "SELECT taskflow.prune_workers()"


async def prune_workers(conn: Connection) -> None:
    """Forget workers that stopped 90 days ago or earlier."""
    await conn.execute(PRUNE_WORKERS)


PRUNE_GROUPS = "SELECT taskflow.prune_groups(%(after)s::bigint, %(at_most)s::integer)"


async def prune_groups(conn: Connection, after: int, at_most: int) -> int | None:
    """Forget groups that are a day old and of which neither a task nor the callback is left.

    At most so many are looked at, from beyond the id *after* on; where the next call goes on, or None: that was all.
    """
    row = await (await conn.execute(PRUNE_GROUPS, {"after": after, "at_most": at_most})).fetchone()
    return None if row is None else row[0]


TAKE_TURN = """
INSERT INTO taskflow.turns AS turn (chore, next_at)
VALUES (%(chore)s, now() + make_interval(secs => %(seconds)s))
ON CONFLICT (chore) DO UPDATE SET next_at = excluded.next_at WHERE turn.next_at <= now()
"""

PUT_OFF_TURN = """
UPDATE taskflow.turns SET next_at = now() + make_interval(secs => %(seconds)s) WHERE chore = %(chore)s
"""


async def take_turn(conn: Connection, chore: str, seconds: float) -> bool:
    """Whether it is time for *chore*, and nobody else does it: then the next turn is in *seconds*."""
    return (await conn.execute(TAKE_TURN, {"chore": chore, "seconds": seconds})).rowcount == 1


async def put_off_turn(conn: Connection, chore: str, seconds: float) -> None:
    """Let the next turn be in *seconds*: by who has the turn, to keep it or to say when it is time again."""
    await conn.execute(PUT_OFF_TURN, {"chore": chore, "seconds": seconds})
