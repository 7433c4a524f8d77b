"""What attempts have told of themselves."""

from collections.abc import Sequence

from taskflow.database import Connection, array

CHECKPOINTS = """
SELECT task_id, checkpoint::text
FROM taskflow.progress
WHERE task_id = ANY (%(ids)s::bigint[]) AND checkpoint IS NOT NULL
"""


async def find_checkpoints(conn: Connection, ids: Sequence[int]) -> dict[int, bytes]:
    """The checkpoints of those of *ids* that have one, as JSON."""
    rows = await (await conn.execute(CHECKPOINTS, {"ids": array(ids)})).fetchall()
    return {id: checkpoint.encode() for id, checkpoint in rows}
