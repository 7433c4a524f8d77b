"""Recover: the operator re-queues old tasks by hand; the retry by hand of single tasks is its smaller form."""

from collections.abc import Sequence

from taskflow.database import Connection
from taskflow.model import Status

RECOVER = "SELECT taskflow.recover(%(status)s::taskflow.status, %(past_seconds)s::integer, %(limit)s::integer)"

RECOVERABLE = (Status.QUEUED, Status.FAILED)


async def recover(conn: Connection, status: Status, past_seconds: int, limit: int) -> int:
    """Re-queue at most *limit* tasks that are *status* and unchanged for *past_seconds*; how many it were.

    A failed task becomes due at once with a fresh budget of attempts. A queued one that is due keeps its place; its
    workers are woken. Tasks that someone else is changing at this moment are passed over. Raises ValueError for any
    other status: running and succeeded tasks are not to be re-queued.
    """
    if status not in RECOVERABLE:
        raise ValueError(f"only queued and failed tasks can be recovered, not {status.value}")
    cursor = await conn.execute(RECOVER, {"status": status.value, "past_seconds": past_seconds, "limit": limit})
    ((recovered,),) = await cursor.fetchall()
    return recovered


RETRY_BY_HAND = "SELECT id FROM taskflow.retry(%(ids)s::bigint[]) AS id"


async def retry_by_hand(conn: Connection, ids: Sequence[int]) -> set[int]:
    """Queue the failed or cancelled tasks *ids* again with a fresh budget; others are left alone, and not answered."""
    cursor = await conn.execute(RETRY_BY_HAND, {"ids": list(ids)})
    return {id for (id,) in await cursor.fetchall()}
