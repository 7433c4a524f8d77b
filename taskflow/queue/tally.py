"""Tally: what was finished in each minute, and how the queues stood, for charts."""

import time
from collections import Counter
from collections.abc import Container, Iterable
from typing import Final

from taskflow.database import Connection
from taskflow.model import Failed, Outcome, Retry, Succeeded
from taskflow.queue.record import Ended

FLUSH: Final = 5.0
"""Seconds for which outcomes are added up before the sum is written."""

SAMPLE: Final = 60.0
"""Seconds from one look at the queues to the next."""

COUNTED: Final = 10_000
"""So many waiting tasks of a priority are counted."""

KINDS: Final[dict[type[Outcome], str]] = {Succeeded: "succeeded", Failed: "failed", Retry: "retried"}

# A sum that a crash of Postgres forgets is missed by nobody: this waits neither for the disk nor for a standby.
ADD = """
INSERT INTO taskflow.minutes AS minute (at, priority, succeeded, failed, retried)
SELECT date_trunc('minute', now()), given.*
FROM unnest(%(priorities)s::taskflow.priority[], %(succeeded)s::bigint[], %(failed)s::bigint[], %(retried)s::bigint[])
     AS given (priority, succeeded, failed, retried)
WHERE set_config('synchronous_commit', 'off', true) = 'off'
ORDER BY given.priority
ON CONFLICT (at, priority) DO UPDATE
SET succeeded = minute.succeeded + excluded.succeeded, failed = minute.failed + excluded.failed,
    retried = minute.retried + excluded.retried
"""


class Tally:
    """Outcomes that this process has recorded, and not yet written: with it, they die to the charts."""

    def __init__(self) -> None:
        self._counts = Counter[tuple[str, str]]()
        self._flushed_at = time.monotonic()

    def add(self, batch: Iterable[Ended], recorded: Container[int]) -> None:
        """Count those of *batch* that were *recorded*."""
        for task, outcome in batch:
            if task.id in recorded and (kind := KINDS.get(type(outcome))):
                self._counts[task.priority, kind] += 1

    def add_succeeded(self, batch: Iterable[Ended]) -> None:
        """Count *batch*, of which all have succeeded and were recorded."""
        for priority, count in Counter([task.priority for task, _ in batch]).items():
            self._counts[priority, "succeeded"] += count

    async def flush(self, conn: Connection) -> None:
        """Add the sums to this minute's; they are kept if that fails."""
        self._flushed_at = time.monotonic()
        given = Counter(self._counts)
        priorities = sorted({priority for priority, _ in given})
        if not priorities:
            return
        counts = {kind: [given[priority, kind] for priority in priorities] for kind in KINDS.values()}
        await conn.execute(ADD, {"priorities": priorities, **counts})
        self._counts -= given

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
