"""Reprioritise: a queued task goes to another queue."""

from collections.abc import Sequence

from taskflow.database import Connection
from taskflow.model import Priority

REPRIORITISE = "SELECT id FROM taskflow.reprioritise(%(ids)s::bigint[], %(priority)s::taskflow.priority) AS id"


async def reprioritise(conn: Connection, ids: Sequence[int], priority: Priority) -> set[int]:
    """Give the queued tasks *ids* this priority; those that have it, or are not queued, are not answered."""
    cursor = await conn.execute(REPRIORITISE, {"ids": list(ids), "priority": priority.value})
    return {id for (id,) in await cursor.fetchall()}
