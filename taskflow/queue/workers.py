"""The rows of workers: those that work over HTTP, and what operators do to any.

A worker over HTTP has pid 0. It holds no session, so its heartbeat alone says that it lives.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from taskflow.database import Connection
from taskflow.errors import WorkerIdTaken
from taskflow.model import Priority

# The lock that a worker with a session holds for its whole life; here it only keeps two from registering at once.
TAKE_NAME = "SELECT pg_try_advisory_xact_lock(hashtextextended('taskflow.worker:' || %(name)s, 0))"

# In a statement of its own, which sees what was committed before the lock was taken.
HOLDER = """
SELECT host, pid, started_at
FROM taskflow.workers
WHERE name = %(name)s AND stopped_at IS NULL
  AND (%(is_held)s OR heartbeat_at > now() - make_interval(secs => %(lease)s))
ORDER BY id DESC
LIMIT 1
"""

TAKE_OVER = "UPDATE taskflow.workers SET stopped_at = now() WHERE name = %(name)s AND stopped_at IS NULL"

REGISTER = """
INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency)
VALUES (%(name)s, %(host)s, 0, %(version)s, %(priorities)s::taskflow.priority[], %(concurrency)s)
RETURNING id
"""


async def register(
    conn: Connection,
    name: str,
    address: str,
    version: str,
    priorities: Sequence[Priority],
    concurrency: int,
    lease: float,
) -> int:
    """The id of a new worker over HTTP; tasks of silent ones of its name are left to the rescue.

    Raises WorkerIdTaken if a worker of this *name* lives: its heartbeat is younger than *lease* seconds, or it has a
    session.
    """
    row = {"name": name, "host": address, "version": version, "concurrency": concurrency, "lease": lease}
    async with conn.transaction():
        (is_free,) = await (await conn.execute(TAKE_NAME, row)).fetchone() or (False,)
        holder = await (await conn.execute(HOLDER, row | {"is_held": not is_free})).fetchone()
        if holder is not None or not is_free:  # its holder may have no row yet
            host, pid, since = holder or ("a host that registers just now", 0, datetime.now(UTC))
            raise WorkerIdTaken(name, host, pid, since)
        await conn.execute(TAKE_OVER, row)
        cursor = await conn.execute(REGISTER, row | {"priorities": [priority.value for priority in priorities]})
        (id,) = await cursor.fetchone() or (0,)
    return id


class Beaten(NamedTuple):
    """What a worker is told at each beat."""

    priorities: list[Priority]
    is_draining: bool


BEAT = """
UPDATE taskflow.workers
SET heartbeat_at = now()
WHERE id = %(worker)s AND stopped_at IS NULL AND pid = 0
RETURNING priorities::text[], draining_at IS NOT NULL
"""


async def beat(conn: Connection, worker: int) -> Beaten | None:
    """Note that *worker*, one over HTTP, lives; None if it has stopped or was taken for gone, or never was."""
    row = await (await conn.execute(BEAT, {"worker": worker})).fetchone()
    return None if row is None else Beaten([Priority(name) for name in row[0]], row[1])


STRAYS = """
SELECT id, attempt
FROM taskflow.tasks
WHERE worker_id = %(worker)s AND status = 'running' AND NOT id = ANY (%(known)s::bigint[])
  AND started_at < now() - make_interval(secs => %(seconds)s)
"""


async def find_strays(conn: Connection, worker: int, known: Sequence[int], seconds: float) -> list[tuple[int, int]]:
    """Id and attempt of tasks that *worker* claimed more than *seconds* ago, but does not know: an answer was lost."""
    return await (await conn.execute(STRAYS, {"worker": worker, "known": list(known), "seconds": seconds})).fetchall()


LEFT = """
SELECT id, attempt, max_attempts, type, priority::text
FROM taskflow.tasks
WHERE id = ANY (%(ids)s::bigint[]) AND worker_id = %(worker)s AND status = 'running'
"""


async def find_left(conn: Connection, worker: int, ids: Sequence[int]) -> dict[int, tuple[int, int, str, str]]:
    """Attempt, largest attempt, type and priority of those of *ids* that *worker* runs."""
    rows = await (await conn.execute(LEFT, {"worker": worker, "ids": list(ids)})).fetchall()
    return {id: (attempt, most, type, priority) for id, attempt, most, type, priority in rows}


DRAIN = """
UPDATE taskflow.workers
SET draining_at = coalesce(draining_at, now())
WHERE id = %(worker)s AND stopped_at IS NULL
RETURNING name
"""


async def drain(conn: Connection, worker: int) -> str | None:
    """Have *worker* claim nothing more, end what it runs, and stop; its name, or None if it has stopped.

    It learns of it at its next heartbeat.
    """
    row = await (await conn.execute(DRAIN, {"worker": worker})).fetchone()
    return None if row is None else row[0]


STOP = """
UPDATE taskflow.workers
SET stopped_at = coalesce(stopped_at, now())
WHERE id = %(worker)s
RETURNING name
"""


async def stop(conn: Connection, worker: int) -> str | None:
    """From now on *worker* counts as gone: it claims nothing, and its heartbeat tells it so; its name, if it was."""
    row = await (await conn.execute(STOP, {"worker": worker})).fetchone()
    return None if row is None else row[0]
