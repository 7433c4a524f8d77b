"""What charts are drawn from: the minutes that workers have written down, in steps over a span."""

from datetime import datetime, timedelta
from typing import Final, NamedTuple, Self

import msgspec
from msgspec import Struct
from psycopg.rows import dict_row

from taskflow.database import Connection
from taskflow.model import Priority


class Span(NamedTuple):
    """How far back a chart goes, and what one step of it stands for; *step* divides an hour."""

    length: timedelta
    step: timedelta


HOUR: Final = Span(timedelta(hours=1), timedelta(minutes=1))
DAY: Final = Span(timedelta(days=1), timedelta(minutes=15))


class Done(Struct, frozen=True, kw_only=True):
    """How many attempts ended so; ``failed`` is for good, ``retried`` failed with attempts left."""

    succeeded: int = 0
    failed: int = 0
    retried: int = 0

    @property
    def ended(self) -> int:
        """All of them."""
        return self.succeeded + self.failed + self.retried


class Step(Done, frozen=True, kw_only=True):
    """What was done from *at* on, in all and by priority.

    ``waiting`` and ``oldest``: the most of what waited, and for how many seconds.
    """

    at: datetime
    done: dict[Priority, Done] = {}
    waiting: dict[Priority, int] = {}
    oldest: dict[Priority, float] = {}

    def of(self, priority: Priority) -> Self:
        """This step with what was done of *priority* alone."""
        done = self.done.get(priority, Done())
        return msgspec.structs.replace(self, succeeded=done.succeeded, failed=done.failed, retried=done.retried)


# Two small tables, of a row for each minute and priority; the last step is the one that has not ended.
STEPS = """
WITH step AS (
    SELECT generate_series(date_bin(%(step)s::interval, now(), 'epoch') - %(length)s::interval + %(step)s::interval,
                           date_bin(%(step)s::interval, now(), 'epoch'), %(step)s::interval) AS at
), ended AS (
    SELECT date_bin(%(step)s::interval, at, 'epoch') AS at, priority, sum(succeeded)::bigint AS succeeded,
           sum(failed)::bigint AS failed, sum(retried)::bigint AS retried
    FROM taskflow.minutes
    WHERE at > now() - %(length)s::interval
    GROUP BY 1, 2
), done AS (
    SELECT at, sum(succeeded)::bigint AS succeeded, sum(failed)::bigint AS failed, sum(retried)::bigint AS retried,
           json_object_agg(priority, json_build_object(
               'succeeded', succeeded, 'failed', failed, 'retried', retried)) AS done
    FROM ended
    GROUP BY at
), deepest AS (
    SELECT date_bin(%(step)s::interval, at, 'epoch') AS at, priority, max(waiting) AS waiting,
           max(oldest_seconds) AS oldest
    FROM taskflow.depths
    WHERE at > now() - %(length)s::interval
    GROUP BY 1, 2
), depth AS (
    SELECT at, json_object_agg(priority, waiting) AS waiting, json_object_agg(priority, oldest) AS oldest
    FROM deepest
    GROUP BY at
)
SELECT step.at, coalesce(succeeded, 0) AS succeeded, coalesce(failed, 0) AS failed, coalesce(retried, 0) AS retried,
       coalesce(done, '{}') AS done, coalesce(waiting, '{}') AS waiting, coalesce(oldest, '{}') AS oldest
FROM step
LEFT JOIN done USING (at)
LEFT JOIN depth USING (at)
ORDER BY step.at
"""


async def find_steps(conn: Connection, span: Span) -> list[Step]:
    """Every step of *span*, the latest last."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(STEPS, {"length": span.length, "step": span.step})).fetchall()
    return msgspec.convert(rows, list[Step])
