"""Cancel: a queued or running task becomes ``cancelled``."""

from collections.abc import Sequence

from taskflow.database import Connection

CANCEL = "SELECT id FROM taskflow.cancel(%(ids)s::bigint[], %(reason)s) AS id"


async def cancel(conn: Connection, ids: Sequence[int], reason: str | None = None) -> set[int]:
    """Cancel *ids*; those missing from the answer were final already.

    The worker of a running one is told to interrupt its attempt, whose later outcome is dropped in any case.
    """
    cursor = await conn.execute(CANCEL, {"ids": list(ids), "reason": reason})
    return {id for (id,) in await cursor.fetchall()}
