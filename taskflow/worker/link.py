"""A connection that one loop of the worker owns, and opens anew when it is lost."""

import asyncio
from functools import partial
from typing import Final

import structlog

from taskflow.database import AWAY, TROUBLE, Connection, connect
from taskflow.logs import without_detail

log = structlog.get_logger(__name__)

LONGEST_PAUSE: Final = 2.0

SLACK: Final = 3.0
"""Seconds by which Postgres's own limit of a statement comes before ours."""

# By an index, tasks are locked in the order of ids, as all do who lock several and do not give in. A scan of a small
# table has another order, and two who lock the same tasks could wait for each other.
LIMITS: Final = {"lock_timeout": "5s", "jit": "off", "enable_seqscan": "off", "enable_bitmapscan": "off"}

# The worker's statements have one good plan each. Planned anew for each batch, they cost 1 µs a task more; compiled,
# because a plan for any limit looks expensive in a long queue, they would cost as much as a thousand tasks.
# The keepalives are Postgres's: it shall notice soon that a worker was cut off.
OWN_SESSION: Final = {
    "plan_cache_mode": "force_generic_plan",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
"""What makes sense for a session of one's own only."""


class Link:
    """One connection at a time, in autocommit mode. *purpose* names it in pg_stat_activity and in the log.

    *statement_timeout* is in seconds; *pooled* is as in Database.is_pooled.
    """

    def __init__(self, dsn: str, purpose: str, *, statement_timeout: float, pooled: bool = False) -> None:
        milliseconds = str(int(statement_timeout * 1000))
        settings = {"statement_timeout": milliseconds, "idle_in_transaction_session_timeout": milliseconds, **LIMITS}
        self._connect = partial(
            connect,
            dsn,
            purpose,
            patience=statement_timeout + SLACK,
            settings=settings if pooled else settings | OWN_SESSION,
            pooled=pooled,
        )
        self._purpose = purpose
        self._conn: Connection | None = None
        self._pause = 0.0

    async def get(self) -> Connection:
        """The open connection, or a new one, however long Postgres is away."""
        while self._conn is None:
            try:
                self._conn = await self._connect()
            except TROUBLE as error:
                await self.lost(error)
        return self._conn

    @property
    def is_up(self) -> bool:
        """Whether the latest statement went through, as far as was told by ``works`` and ``lost``."""
        return self._pause == 0.0

    async def lost(self, error: BaseException) -> None:
        """Give the connection up after *error*, and pause a little longer each time in a row.

        What Postgres refuses, though it is there, is for an operator to mend: the worker waits for that as well.
        """
        if self._pause == 0.0:
            reason = without_detail(error).strip()
            if isinstance(error, AWAY):
                log.warning("database.away", purpose=self._purpose, reason=reason)
            else:
                log.error("database.refused", purpose=self._purpose, reason=reason)
        await self.close()
        await asyncio.sleep(self._pause)
        self._pause = min(max(2 * self._pause, 0.05), LONGEST_PAUSE)

    def works(self) -> None:
        """A statement went through: the next loss is retried at once."""
        if self._pause:
            self._pause = 0.0
            log.info("database.back", purpose=self._purpose)

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._conn is not None:
            conn, self._conn = self._conn, None
            await conn.close()
