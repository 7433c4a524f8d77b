"""Notices for all browsers of this process what nobody tells, by one small look at the database."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, Final

from psycopg_pool import PoolTimeout

from taskflow.api.inbox import Inbox
from taskflow.api.watch import Told
from taskflow.database import TROUBLE, Pool
from taskflow.queries.stir import find_stir

BEAT: Final = 0.25
"""Seconds between two looks; with the half second of live.js, a page shows a change within one."""

STIRRED: Final[Told] = (0, b"")


class Pulse:
    """Looks while somebody feels it."""

    def __init__(self) -> None:
        self._inboxes: set[Inbox[Told]] = set()
        self._beating: asyncio.Task[None] | None = None

    @contextmanager
    def felt(self, pool: Pool, inbox: Inbox[Told]) -> Generator[None]:
        """Put something into *inbox* whenever something has changed, until this context ends."""
        self._inboxes.add(inbox)
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat(pool))
        try:
            yield
        finally:
            self._inboxes.discard(inbox)
            if not self._inboxes:
                self._stop()

    def _stop(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None

    async def _beat(self, pool: Pool) -> None:
        last: tuple[Any, ...] | None = None
        while True:
            with suppress(*TROUBLE, PoolTimeout):  # a page tells it
                async with pool.connection() as conn:
                    stir = await find_stir(conn)
                if last not in (None, stir):
                    for inbox in self._inboxes:
                        inbox.put(STIRRED)
                last = stir
            await asyncio.sleep(BEAT)
