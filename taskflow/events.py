"""What happens to tasks, told to those who watch; nothing is written while nobody does.

Events are hints to look, kept for some minutes; the record is ``taskflow.task_history``.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from taskflow.database import Connection, array
from taskflow.model import Priority, Status, Time

CHANNEL: Final = "taskflow_events"
"""Each notification on it is the id of a row of ``taskflow.events``."""

KEPT: Final = 100_000
"""Changes that are kept, at most and about."""


class Change(Struct, kw_only=True):
    """A task stands otherwise than before; ``at`` is when watchers were told."""

    task_id: int
    name: str
    type: str
    priority: Priority
    status: Status
    attempt: int
    at: Time | None = None


class Batch(Struct, frozen=True):
    """Changes that were told together; none: before this, nobody had watched."""

    id: int
    at: Time
    changes: list[Change]


# In turns: ids then grow in the order of commits, and who resumes after an id has missed none. A crash of Postgres may
# forget events.
TELL = """
WITH turn AS MATERIALIZED (
    SELECT set_config('synchronous_commit', 'off', true) AS is_off, pg_advisory_xact_lock(1952543595, 2)::text AS mine
)
SELECT taskflow.tell(%(ids)s::bigint[]) FROM turn WHERE turn.is_off = 'off' AND turn.mine IS NOT NULL
"""


async def tell(conn: Connection, ids: Sequence[int]) -> bool:
    """Tell watchers how *ids* stand now, in a transaction of its own; whether there are any watchers."""
    row = await (await conn.execute(TELL, {"ids": array(ids)})).fetchone()
    return row is not None and row[0]


TELL_WITHIN = "SELECT taskflow.tell(%(ids)s::bigint[])"


async def tell_within(conn: Connection, ids: Sequence[int]) -> None:
    """Tell watchers how *ids* stand, as soon as the caller's transaction commits."""
    await conn.execute(TELL_WITHIN, {"ids": array(ids)})


WATCHED = "SELECT taskflow.is_watched()"


async def is_watched(conn: Connection) -> bool:
    """Whether somebody watches."""
    row = await (await conn.execute(WATCHED)).fetchone()
    return row is None or row[0]


# A session does not exclude itself, so its try succeeds if nobody else watches; in turns, for two who begin at the same
# time would each take the other for an earlier one.
WATCH = """
WITH turn AS MATERIALIZED (
    SELECT pg_advisory_xact_lock(1952543595, 2)::text AS mine
), held AS MATERIALIZED (
    SELECT pg_advisory_lock_shared(1952543595, 1)::text AS held FROM turn WHERE mine IS NOT NULL
), alone AS MATERIALIZED (
    SELECT CASE WHEN pg_try_advisory_lock(1952543595, 1) THEN pg_advisory_unlock(1952543595, 1) ELSE false END AS alone
    FROM held WHERE held IS NOT NULL
), gap AS (
    INSERT INTO taskflow.events (count, changes) SELECT 0, '[]' FROM alone WHERE alone
)
SELECT taskflow.notify('taskflow', 'watch:') FROM alone
"""


async def watch(conn: Connection) -> None:
    """Have changes told on this session from now on, until it ends: ``LISTEN taskflow_events`` comes before."""
    await conn.execute(WATCH)


LATEST = "SELECT coalesce(max(id), 0) FROM taskflow.events"


async def find_latest(conn: Connection) -> int:
    """The id of the latest batch, or 0."""
    row = await (await conn.execute(LATEST)).fetchone()
    return 0 if row is None else row[0]


SOME = "SELECT id, at, changes::text FROM taskflow.events WHERE id = ANY (%(ids)s::bigint[])"


async def find_some(conn: Connection, ids: Sequence[int]) -> list[Batch]:
    """The batches of *ids*, in this order, as far as they are kept."""
    rows = await (await conn.execute(SOME, {"ids": array(ids)})).fetchall()
    batches = {row[0]: _batch(row) for row in rows}
    return [batches[id] for id in ids if id in batches]


# The one to resume after is read as well: if it is gone, so may be others.
SINCE = "SELECT id, at, changes::text FROM taskflow.events WHERE id >= %(id)s ORDER BY id LIMIT 1000"


async def find_since(conn: Connection, id: int) -> list[Batch] | None:
    """The batch of *id* and all after it; None if some are gone, nobody had watched between, or they are 1,000."""
    batches = [_batch(row) for row in await (await conn.execute(SINCE, {"id": id})).fetchall()]
    if not batches or batches[0].id != id or len(batches) == 1000 or any(not batch.changes for batch in batches[1:]):
        return None
    return batches


_decoder = msgspec.json.Decoder(list[Change])


def _batch(row: tuple[int, Time, str]) -> Batch:
    id, at, changes = row
    batch = Batch(id, at, _decoder.decode(changes))
    for change in batch.changes:
        change.at = at
    return batch


# The latest one stays: who is up to date resumes after it.
PRUNE = """
DELETE FROM taskflow.events
WHERE id <= (
        SELECT max(id)
        FROM (SELECT id, at, sum(count) OVER (ORDER BY id DESC) - count AS later FROM taskflow.events) AS told
        WHERE later >= %(kept)s OR at < now() - interval '5 minutes'
    )
    AND id < (SELECT max(id) FROM taskflow.events)
"""


async def prune(conn: Connection, kept: int = KEPT) -> int:
    """Delete what is older than five minutes, or has *kept* changes after it; how many batches it were."""
    return (await conn.execute(PRUNE, {"kept": kept})).rowcount
