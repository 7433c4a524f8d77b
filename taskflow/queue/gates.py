"""Gates: what keeps queued tasks from being claimed although they are due, and how they pass.

``db/migrations`` holds the rules, as functions: whoever enqueues by SQL is bound by them too.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from taskflow.database import Connection, array


async def adopt(conn: Connection) -> bool:
    """Put tasks that were queued before their type was limited before its gate; whether none is left.

    Raises psycopg.errors.LockNotAvailable if the table of tasks cannot be had within a second.
    """
    row = await (await conn.execute("SELECT taskflow.adopt()")).fetchone()
    return row is not None and row[0]


# A crash of Postgres that forgets what passed, or what was taken off, leaves it to be found again.
# The names of gates travel as JSON: as an array, or as rows, they would take psycopg microseconds each.
ADMIT = """
SELECT admitted, array_to_json(more)::text, seconds_to_token
FROM set_config('synchronous_commit', 'off', true),
     taskflow.admit(ARRAY(SELECT json_array_elements_text(%(gates)s::json)), %(most)s, %(ahead)s)
"""


class Admission(Struct, frozen=True):
    """What a call of ``admit`` brought."""

    admitted: int | None
    """How many tasks may be claimed now; None: another session is at it."""
    more: list[str]
    """Gates to try again: they have room for more, or will have with a token, or another session is at it."""
    seconds_to_token: float | None
    """Until a rate lets the next task pass."""


async def admit(conn: Connection, gates: Sequence[str], most: int = 1000, ahead: float = 2.0) -> Admission:
    """Let tasks pass *gates*, in one step about *most*.

    *ahead*: so many tasks of tenants stand ready for each slot of the fleet, beside those that run.
    """
    names = msgspec.json.encode(gates).decode()
    row = await (await conn.execute(ADMIT, {"gates": names, "most": most, "ahead": ahead})).fetchone()
    assert row is not None
    admitted, more, seconds_to_token = row
    return Admission(admitted, _names(more), seconds_to_token)


def _names(gates: str | None) -> list[str]:
    return [] if gates is None else msgspec.json.decode(gates, type=list[str])


SETTLED: Final = 1000
"""Tasks in one statement: twice as many take more than twice as long."""

SETTLE = """
SELECT json_agg(gate)::text
FROM set_config('synchronous_commit', 'off', true), taskflow.settle(%(ids)s::bigint[]) AS gate
"""


async def settle(conn: Connection, ids: Sequence[int]) -> set[str]:
    """Take those of *ids* that have ended off their gates; the gates at which others may pass now.

    Its commit is not waited for: not to be called in a transaction that records something.
    """
    gates: set[str] = set()
    for start in range(0, len(ids), SETTLED):
        row = await (await conn.execute(SETTLE, {"ids": array(ids[start : start + SETTLED])})).fetchone()
        assert row is not None
        gates.update(_names(row[0]))
    return gates


NEWCOMERS = """
SELECT count(*), max(task_id), json_agg(DISTINCT gate)::text
FROM (SELECT task_id, gate
      FROM taskflow.holds
      WHERE task_id > %(after)s AND state = 'waiting'
      ORDER BY task_id
      LIMIT %(limit)s) AS newcomer
"""


async def find_newcomers(conn: Connection, after: int, limit: int) -> tuple[list[str], int, bool]:
    """Gates of those that wait, with ids beyond *after*, of the first *limit*; the last id; whether that is all."""
    row = await (await conn.execute(NEWCOMERS, {"after": after, "limit": limit})).fetchone()
    assert row is not None
    count, last, gates = row
    return _names(gates), after if last is None else last, count < limit


WALK = "SELECT taskflow.gates_after(%(gate)s, %(limit)s)"


async def find_gates(conn: Connection, after: str, limit: int) -> list[str]:
    """Gates with waiting tasks, in the order of their names from beyond *after* on."""
    return [gate for (gate,) in await (await conn.execute(WALK, {"gate": after, "limit": limit})).fetchall()]


# A few at a time, for those that have passed may be many; not those that somebody is about to settle.
LEFT_OVER = """
SELECT passed.gate, passed.task_id, task.id IS NULL OR task.finished_at < now() - interval '1 second'
FROM (SELECT gate, task_id
      FROM taskflow.holds
      WHERE state = 'passed' AND (gate, task_id) > (%(gate)s, %(task)s)
      ORDER BY gate, task_id
      LIMIT %(limit)s) AS passed
LEFT JOIN taskflow.tasks AS task ON task.id = passed.task_id
ORDER BY passed.gate, passed.task_id
"""


async def find_left_over(
    conn: Connection, after: tuple[str, int], limit: int
) -> tuple[list[int], tuple[str, int] | None]:
    """Tasks that count at a gate although they have ended, looked for among *limit* from *after* on; where to go on.

    None: the end was reached.
    """
    gate, task = after
    rows = await (await conn.execute(LEFT_OVER, {"gate": gate, "task": task, "limit": limit})).fetchall()
    end = (rows[-1][0], rows[-1][1]) if len(rows) == limit else None
    return [id for _, id, has_ended in rows if has_ended], end
