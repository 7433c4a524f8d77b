"""Failed tasks, grouped by their type and what their errors have in common.

The newest failures are read first and only so many at a look, whatever their number.
"""

from typing import Final, NamedTuple

import msgspec
from msgspec import Struct
from psycopg.rows import dict_row

from taskflow.database import Connection
from taskflow.model import Time

SEEN: Final = 2_000
"""Failures that are grouped, at most."""

KINDS: Final = 100
"""Groups that are told, at most."""

COUNTED: Final = 10_000
"""Failures are counted up to here."""


class FailureGroup(Struct, frozen=True, kw_only=True):
    """Failures of one type whose errors are of one *kind*: their first line, with # for numbers and ids.

    ``error`` is the latest one's first line, ``ids`` are the latest.
    """

    type: str
    kind: str
    count: int
    error: str
    first_at: Time
    last_at: Time
    ids: list[int]


class Failures(Struct, frozen=True, kw_only=True):
    """The failures of a window: ``total`` ends at COUNTED + 1; the newest ``seen`` of them are grouped."""

    groups: list[FailureGroup]
    seen: int
    total: int


FAILURES = """
WITH seen AS MATERIALIZED (
    SELECT id, type, updated_at, taskflow.error_kind(error) AS kind
    FROM taskflow.tasks
    WHERE status = 'failed' AND updated_at >= now() - make_interval(secs => %(seconds)s)
    ORDER BY updated_at DESC, id DESC
    LIMIT %(seen)s
), groups AS (
    SELECT type, kind, count(*), min(updated_at) AS first_at, max(updated_at) AS last_at,
           (array_agg(id ORDER BY updated_at DESC, id DESC))[1:3] AS ids
    FROM seen
    GROUP BY type, kind
    ORDER BY count(*) DESC, max(updated_at) DESC
    LIMIT %(kinds)s
)
SELECT type, kind, count, first_at, last_at, ids,
       (SELECT left(split_part(left(task.error, 300), E'\n', 1), 300)
        FROM taskflow.tasks AS task WHERE task.id = ids[1]) AS error,
       (SELECT count(*) FROM seen) AS seen
FROM groups
ORDER BY count DESC, last_at DESC
"""

TOTAL = """
SELECT count(*)
FROM (
    SELECT FROM taskflow.tasks
    WHERE status = 'failed' AND updated_at >= now() - make_interval(secs => %(seconds)s)
    ORDER BY updated_at DESC, id DESC
    LIMIT %(counted)s
) AS failed
"""


async def find_failures(conn: Connection, seconds: float) -> Failures:
    """The failures of the last *seconds*, the most frequent kinds first."""
    values = {"seconds": seconds, "seen": SEEN, "kinds": KINDS, "counted": COUNTED + 1}
    async with conn.cursor(row_factory=dict_row) as cursor:
        rows = await (await cursor.execute(FAILURES, values)).fetchall()
    seen = total = rows[0]["seen"] if rows else 0
    if seen == SEEN:
        ((total,),) = await (await conn.execute(TOTAL, values)).fetchall()
    return Failures(groups=msgspec.convert(rows, list[FailureGroup]), seen=seen, total=total)


class Place(NamedTuple):
    """Where a walk over failures, newest first, goes on."""

    updated_at: Time
    id: int


class SomeFailures(Struct, frozen=True):
    """Ids of a group, the newest first; ``next`` is where to go on, None if that is all."""

    ids: list[int]
    next: Place | None


# The last one that was read is told although it may not be of the group.
OF_GROUP = """
SELECT id, updated_at, matches, position
FROM (
    SELECT id, updated_at, type = %(type)s AND taskflow.error_kind(error) = %(kind)s AS matches,
           row_number() OVER (ORDER BY updated_at DESC, id DESC) AS position
    FROM taskflow.tasks
    WHERE status = 'failed' AND updated_at >= %(since)s AND (updated_at, id) < (%(until)s, %(before)s)
    ORDER BY updated_at DESC, id DESC
    LIMIT %(seen)s
) AS seen
WHERE matches OR position = %(seen)s
ORDER BY position
LIMIT %(limit)s
"""


async def find_of_group(
    conn: Connection, type: str, kind: str, since: Time, behind: Place, limit: int, seen: int = SEEN
) -> SomeFailures:
    """At most *limit* failures of a group that are not older than *since*, the newest behind a place first.

    At most *seen* failures are read.
    """
    values = {"type": type, "kind": kind, "since": since, "until": behind.updated_at, "before": behind.id}
    rows = await (await conn.execute(OF_GROUP, values | {"seen": seen, "limit": limit})).fetchall()
    ids = [id for id, _, matches, _ in rows if matches]
    if rows and (len(rows) == limit or rows[-1][3] == seen):
        return SomeFailures(ids, Place(rows[-1][1], rows[-1][0]))
    return SomeFailures(ids, None)
