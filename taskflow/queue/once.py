"""Once: what a request stored is stored once, however often the request is sent."""

from collections.abc import Sequence

from taskflow.database import Connection
from taskflow.errors import KeyReused

# A second request with the key waits here until the first one's transaction has ended.
TAKE_KEY = """
INSERT INTO taskflow.idempotency_keys AS old (key, request)
VALUES (%(key)s, %(request)s)
ON CONFLICT (key) DO UPDATE
SET request = excluded.request, task_ids = '{}', created_at = now()
WHERE old.created_at < now() - interval '1 day'
RETURNING true
"""

FIND_KEY = "SELECT request, task_ids FROM taskflow.idempotency_keys WHERE key = %(key)s"

KEEP_IDS = "UPDATE taskflow.idempotency_keys SET task_ids = %(ids)s::bigint[] WHERE key = %(key)s"


async def take_key(conn: Connection, key: bytes, request: bytes) -> list[int] | None:
    """The ids that the request with this *key* stored before; None if there was none, and now it is this one.

    *key* and *request* are hashes of 32 bytes. To be followed by keep_ids in the same transaction. Raises KeyReused if
    the request was another one.
    """
    given = {"key": key, "request": request}
    if await (await conn.execute(TAKE_KEY, given)).fetchone():
        return None
    ((earlier, ids),) = await (await conn.execute(FIND_KEY, given)).fetchall()
    if bytes(earlier) != request:
        raise KeyReused
    return ids


async def keep_ids(conn: Connection, key: bytes, ids: Sequence[int]) -> None:
    """Remember that the request with this *key* stored *ids*."""
    await conn.execute(KEEP_IDS, {"key": key, "ids": list(ids)})


PRUNE_KEYS = "SELECT taskflow.prune_keys(%(limit)s::integer)"


async def prune_keys(conn: Connection, limit: int = 1_000) -> int:
    """Forget at most *limit* keys that are older than a day; how many it were."""
    ((count,),) = await (await conn.execute(PRUNE_KEYS, {"limit": limit})).fetchall()
    return count
