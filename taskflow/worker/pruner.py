"""Retention: one worker of all deletes what ended long ago, now and then and without haste."""

import asyncio
import time
from typing import Final

import structlog

from taskflow.database import TROUBLE, Connection
from taskflow.model import Retention
from taskflow.queue.once import prune_keys
from taskflow.queue.prune import prune, prune_groups, prune_workers, put_off_turn, take_turn
from taskflow.queue.tally import forget
from taskflow.worker.chores import Chore
from taskflow.worker.link import Link

log = structlog.get_logger(__name__)

CHORE: Final = "prune"
TURN: Final = 60.0
"""Seconds from one pass to the next, at least; and in which a worker that died in a pass is replaced."""

KEYS: Final = 1000
"""Of requests, forgotten in one statement."""

GROUPS: Final = 1000
"""Looked at in one statement."""

SHARE: Final = 4
"""Deleting takes one part in so many of the time of a pass."""

WALK_SHARE: Final = 50
"""Passes take one part in so many of all time, whatever they find."""


class Pruner:
    """*chore* takes the turn; ``run`` makes the passes, over a connection that is there only as long as one lasts."""

    def __init__(self, link: Link, retention: Retention) -> None:
        self._link = link
        self._retention = retention
        self._turn = asyncio.Event()
        self.chore = Chore(TURN / 2, self._look)

    async def _look(self, conn: Connection) -> None:
        if not self._turn.is_set() and await take_turn(conn, CHORE, TURN):
            self._turn.set()

    async def run(self) -> None:
        """Make a pass at each turn, until cancelled; one that is cut off is left to the next turn."""
        while True:
            await self._turn.wait()
            conn = await self._link.get()
            try:
                deleted = await prune_all(conn, self._retention)
            except TROUBLE as error:
                await self._link.lost(error)
            else:
                self._link.works()
                if deleted:
                    log.info("tasks.pruned", tasks=deleted)
                await self._link.close()
            self._turn.clear()


async def prune_all(conn: Connection, retention: Retention) -> int:
    """One pass over all that is older than *retention* says, over yesterday's requests, and over empty groups.

    How many tasks were deleted.
    """
    began = renewed = time.monotonic()
    deleted, worked = 0, 0.0
    for status, age in retention.ages.items():
        position: int | None = 0
        while position is not None:
            start = time.monotonic()
            batch = await prune(conn, status, age, position)
            took = time.monotonic() - start
            deleted, position, worked = deleted + batch.deleted, batch.next, worked + took
            if position is not None:
                await asyncio.sleep((SHARE - 1) * took)
            if time.monotonic() - renewed > TURN / 4:
                renewed = time.monotonic()
                await put_off_turn(conn, CHORE, TURN)
    while await prune_keys(conn, KEYS) == KEYS:
        await put_off_turn(conn, CHORE, TURN)
    group: int | None = 0
    while group is not None:
        group = await prune_groups(conn, group, GROUPS)
        await put_off_turn(conn, CHORE, TURN)
    await prune_workers(conn)
    await forget(conn)
    await put_off_turn(conn, CHORE, max(TURN, WALK_SHARE * worked))
    log.debug("prune.passed", tasks=deleted, seconds=round(time.monotonic() - began, 3))
    return deleted
