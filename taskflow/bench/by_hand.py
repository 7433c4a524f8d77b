"""The limit: the writes of a drain as plain SQL, on the very schema, with nothing around them."""

import asyncio
from typing import Final, LiteralString

from taskflow.database import Connection, array, connect

AHEAD: Final = 4
"""Claimed batches that may wait to be finished."""

NOT_WAITED_FOR: Final = {"synchronous_commit": "off"}  # as a claim of Taskflow's

CLAIM: Final[LiteralString] = """
UPDATE taskflow.tasks
SET status = 'running', attempt = attempt + 1, worker_id = 0, started_at = now(), updated_at = now()
WHERE id = ANY (ARRAY(
    SELECT id
    FROM taskflow.tasks
    WHERE status = 'queued' AND NOT held AND priority = 'normal' AND scheduled_at <= now()
    ORDER BY priority, scheduled_at, id
    LIMIT %(batch)s
    FOR UPDATE SKIP LOCKED
))
RETURNING id
"""

FINISH: Final[LiteralString] = """
UPDATE taskflow.tasks
SET status = 'succeeded', finished_at = now(), updated_at = now(), error = NULL
WHERE id = ANY (%(ids)s::bigint[])
"""

Claimed = asyncio.Queue[list[int]]


async def drain_by_hand(dsn: str, batch: int) -> None:
    """Claim on one connection and finish on another until nothing is queued."""
    claimed = Claimed(AHEAD)
    async with (
        await connect(dsn, "taskflow bench", settings=NOT_WAITED_FOR) as claims,
        await connect(dsn, "taskflow bench") as finishes,
    ):
        await asyncio.gather(_claim_all(claims, batch, claimed), _finish_all(finishes, claimed))


async def _claim_all(conn: Connection, batch: int, claimed: Claimed) -> None:
    """Ends with an empty batch."""
    ids = [0]
    while ids:
        ids = [id for (id,) in await (await conn.execute(CLAIM, {"batch": batch})).fetchall()]
        await claimed.put(ids)


async def _finish_all(conn: Connection, claimed: Claimed) -> None:
    while ids := await claimed.get():
        await conn.execute(FINISH, {"ids": array(ids)})
