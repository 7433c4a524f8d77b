"""Whether something has changed that nobody tells: tasks enqueued by SQL, workers, schedules, limits, pauses."""

from typing import Any

from taskflow.database import Connection

# A row that is written anew has another xmin; those of workers would change with each heartbeat.
STIR = """
SELECT (SELECT max(id) FROM taskflow.tasks),
       (SELECT ARRAY[count(*), sum(id), count(draining_at)] FROM taskflow.workers WHERE stopped_at IS NULL),
       (SELECT ARRAY[count(*), sum(xmin::text::bigint)] FROM taskflow.schedules),
       (SELECT ARRAY[count(*), sum(xmin::text::bigint)] FROM taskflow.limits),
       (SELECT ARRAY[count(*), sum(xmin::text::bigint)] FROM taskflow.pauses)
"""


async def find_stir(conn: Connection) -> tuple[Any, ...]:
    """Something that is the same as before where nothing has changed."""
    (stir,) = await (await conn.execute(STIR)).fetchall()
    return stir
