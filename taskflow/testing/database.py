"""A database for tests: what was enqueued there, and running it."""

from typing import Any, Final

import msgspec
import psycopg
from msgspec import Struct
from psycopg.rows import dict_row

from taskflow.model import Priority, Time
from taskflow.testing.drain import drain
from taskflow.testing.run import TIME_OUT, Ran, at_once, check

LIMIT: Final = 1_000
"""Attempts of one drain, unless it is told otherwise."""


class Enqueued(Struct, frozen=True, kw_only=True):
    """A task that waits."""

    id: int
    name: str
    type: str
    priority: Priority
    payload: dict[str, Any]
    max_attempts: int
    scheduled_at: Time

    def __str__(self) -> str:
        return f"{self.type} {msgspec.json.encode(self.payload).decode()}"


QUEUED: Final = """
SELECT id, name, type, priority::text, payload, max_attempts, scheduled_at
FROM taskflow.tasks
WHERE status = 'queued'
ORDER BY id
"""

# Only in a database for tests.
CLEAR: Final = """
DO $$
DECLARE name text;
BEGIN
    FOR name IN SELECT relid::regclass::text FROM pg_stat_user_tables
                WHERE schemaname = 'taskflow' AND relname !~ '^_?yoyo' LOOP
        EXECUTE format('DELETE FROM %s', name);
    END LOOP;
END $$
"""


class TaskflowDatabase:
    """The database *dsn*, which has Taskflow's schema and is for tests alone. It sees what is committed."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection in autocommit mode."""
        return psycopg.connect(self.dsn, autocommit=True)

    def clear(self) -> None:
        """Delete all tasks, and whatever else Taskflow keeps."""
        with self.connect() as conn:
            conn.execute(CLEAR)

    def enqueued(self, type: str | None = None) -> list[Enqueued]:
        """The tasks that wait, due or not, by id; those of *type*, or all."""
        with self.connect() as conn:
            rows = conn.cursor(row_factory=dict_row).execute(QUEUED).fetchall()
        return [task for task in msgspec.convert(rows, list[Enqueued]) if type in {None, task.type}]

    def assert_enqueued(self, type: str, /, **payload: Any) -> Enqueued:
        """The oldest waiting task of *type* with these fields in its payload; AssertionError if there is none."""
        if found := self._find(type, payload):
            return found[0]
        waiting = "".join(f"\n  {task}" for task in self.enqueued()) or " nothing"
        raise AssertionError(f"no {type} with {payload} is enqueued; what waits:{waiting}")

    def assert_not_enqueued(self, type: str, /, **payload: Any) -> None:
        """Raise AssertionError if a task of *type* with these fields waits."""
        if found := self._find(type, payload):
            raise AssertionError(f"{found[0]} is enqueued (id {found[0].id})")

    def _find(self, type: str, payload: dict[str, Any]) -> list[Enqueued]:
        fields = msgspec.json.decode(msgspec.json.encode(payload)).items()
        return [task for task in self.enqueued(type) if fields <= task.payload.items()]

    def drain(
        self, *, limit: int = LIMIT, succeed: bool = True, scheduled: bool = False, time_out: float = TIME_OUT
    ) -> list[Ran]:
        """Run in this process, one after the other, all tasks that are due and those that they enqueue; what was run.

        With *scheduled* also what is due later, retries among them. *time_out* is of an attempt, in seconds. Raises
        TaskNotSucceeded for the first attempt that does not, at the end, unless *succeed* is false; StillDue after
        *limit* attempts.
        """
        return at_once(lambda: self.drain_async(limit=limit, succeed=succeed, scheduled=scheduled, time_out=time_out))

    async def drain_async(
        self, *, limit: int = LIMIT, succeed: bool = True, scheduled: bool = False, time_out: float = TIME_OUT
    ) -> list[Ran]:
        """The same in the event loop that runs here."""
        ran = await drain(self.dsn, limit=limit, scheduled=scheduled, time_out=time_out)
        if succeed:
            check(ran)
        return ran
