"""Delete: a final task is gone, with its history."""

from collections.abc import Sequence

from taskflow.database import Connection

DELETE_FINAL = "SELECT id FROM taskflow.delete_final(%(ids)s::bigint[]) AS id"


async def delete_final(conn: Connection, ids: Sequence[int]) -> set[int]:
    """Delete *ids* and the attempts that they have left behind; those that are not final are left, and not answered."""
    cursor = await conn.execute(DELETE_FINAL, {"ids": list(ids)})
    return {id for (id,) in await cursor.fetchall()}
