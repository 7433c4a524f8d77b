"""Tally: what was finished in each minute, and how the queues stood, for charts."""

import time
from collections.abc import Container, Iterable
from typing import Final

from taskflow.database import Connection
from taskflow.model import Failed, Retry, Succeeded
from taskflow.queue.record import Ended

FLUSH: Final = 5.0
"""Seconds for which outcomes are added up before the sum is written."""

SAMPLE: Final = 60.0
"""Seconds from one look at the queues to the next."""

COUNTED: Final = 10_000
"""So many waiting tasks of a priority are counted."""

# A sum that a crash of Postgres forgets is missed by nobody: this waits neither for the disk nor for a standby.
ADD = """
INSERT INTO taskflow.minutes AS minute (at, succeeded, failed, retried)
SELECT date_trunc('minute', now()), %(succeeded)s::bigint, %(failed)s::bigint, %(retried)s::bigint
WHERE set_config('synchronous_commit', 'off', true) = 'off'
ON CONFLICT (at) DO UPDATE
SET succeeded = minute.succeeded + excluded.succeeded, failed = minute.failed + excluded.failed,
    retried = minute.retried + excluded.retried
"""


class Tally:
    """Outcomes that this process has recorded, and not yet written: with it, they die to the charts."""

    def __init__(self) -> None:
        self.succeeded: int = 0
        self.failed: int = 0
        self.retried: int = 0
        self._flushed_at = time.monotonic()

    def add(self, batch: Iterable[Ended], recorded: Container[int]) -> None:
        """Count those of *batch* that were *recorded*."""
        for task, outcome in batch:
            if task.id in recorded:
                self.succeeded += isinstance(outcome, Succeeded)
                self.failed += isinstance(outcome, Failed)
                self.retried += isinstance(outcome, Retry)

    async def flush(self, conn: Connection) -> None:
        """Add the sums to this minute's; they are kept if that fails."""
        self._flushed_at = time.monotonic()
        given = {"succeeded": self.succeeded, "failed": self.failed, "retried": self.retried}
        if not any(given.values()):
            return
        await conn.execute(ADD, given)
        self.succeeded -= given["succeeded"]
        self.failed -= given["failed"]
        self.retried -= given["retried"]

    async def look(self, conn: Connection) -> None:
        """Flush if it is time: for who has no loop of his own."""
        if time.monotonic() >= self._flushed_at + FLUSH:
            await self.flush(conn)


# The order keeps the planner on the ready index.
NOTE_DEPTHS = """
INSERT INTO taskflow.depths (at, priority, waiting, oldest_seconds)
SELECT date_trunc('minute', now()), wanted.priority, least(due.count, %(counted)s),
       greatest(extract(epoch FROM now() - due.oldest), 0)
FROM unnest(enum_range(NULL::taskflow.priority)) AS wanted (priority)
CROSS JOIN LATERAL (
    SELECT count(*), min(scheduled_at) AS oldest FROM (
        SELECT scheduled_at FROM taskflow.tasks
        WHERE status = 'queued' AND NOT held AND priority = wanted.priority AND scheduled_at <= now()
        ORDER BY scheduled_at, id
        LIMIT %(counted)s
    ) AS first
) AS due
WHERE due.count > 0
ON CONFLICT (at, priority) DO NOTHING
"""


async def note_depths(conn: Connection) -> None:
    """Write down what waits now in each priority, unless somebody did so in this minute; nothing where none does."""
    await conn.execute(NOTE_DEPTHS, {"counted": COUNTED})


FORGET_MINUTES = "DELETE FROM taskflow.minutes WHERE at < now() - interval '2 days'"
FORGET_DEPTHS = "DELETE FROM taskflow.depths WHERE at < now() - interval '2 days'"


async def forget(conn: Connection) -> None:
    """Delete what no chart shows any more."""
    await conn.execute(FORGET_MINUTES)
    await conn.execute(FORGET_DEPTHS)
