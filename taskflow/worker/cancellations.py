"""Cancellations: attempts that run here although their task is cancelled."""

import asyncio
from typing import Final

import structlog

from taskflow.database import TROUBLE, Connection, Database, connect
from taskflow.logs import without_detail
from taskflow.queries import find_running
from taskflow.worker.slots import Slots

log = structlog.get_logger(__name__)

PATIENCE: Final = 5.0
"""Seconds; what takes longer is left to maintenance."""


class Cancellations:
    """Interrupts attempts whose task this worker does not run any more, as Postgres knows.

    ``taskflow.cancel`` notifies; *told* is set then. As a notification may be lost, maintenance looks as well.
    """

    def __init__(self, worker: int, slots: Slots) -> None:
        self._worker = worker
        self._slots = slots
        self.told = asyncio.Event()

    def hear(self, worker: str) -> None:
        """Look soon, if it is this *worker* that was told; "" means anyone."""
        if worker in {"", str(self._worker)}:
            self.told.set()

    async def look_when_told(self, database: Database, name: str) -> None:
        """Interrupt what was cancelled as soon as a notification tells, over a connection of its own."""
        while True:
            await self.told.wait()
            self.told.clear()
            try:
                application = f"taskflow cancel {name}"
                async with await connect(
                    database.dsn, application, patience=PATIENCE, pooled=database.is_pooled
                ) as conn:
                    await self.interrupt(conn)
            except TROUBLE as error:
                reason = without_detail(error).strip()
                log.warning("cancellation.delayed", reason=reason, note="maintenance looks as well")

    async def look(self, conn: Connection) -> None:
        """The chore of maintenance: interrupt what was cancelled."""
        await self.interrupt(conn)

    async def interrupt(self, conn: Connection) -> int:
        """Interrupt what runs here, but not according to Postgres; how many attempts it were.

        Besides being cancelled, a task may have been deleted, or its claim lost with a crash of Postgres. In any case
        there is nothing left to record.
        """
        here = self._slots.claims  # before Postgres is asked: what is claimed meanwhile is not in question
        return self._slots.cancel(here - await find_running(conn, self._worker))
