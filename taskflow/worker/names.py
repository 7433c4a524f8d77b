"""How a worker's name stays its own: by a lock of its session or, behind a pooler, by its heartbeats alone."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from msgspec import Struct

from taskflow.errors import WorkerIdTaken
from taskflow.worker.session import Session

TAKE_NAME = "SELECT pg_try_advisory_lock(hashtextextended('taskflow.worker:' || %(name)s, 0))"

HOLDER = """
SELECT host, pid, started_at FROM taskflow.workers
WHERE name = %(name)s AND stopped_at IS NULL
ORDER BY id DESC LIMIT 1
"""

# Whoever holds the name's lock knows that the former holders of the name are gone.
TAKE_OVER = "UPDATE taskflow.workers SET stopped_at = now() WHERE name = %(name)s AND stopped_at IS NULL RETURNING id"

REGISTER = """
INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency)
VALUES (%(name)s, %(host)s, %(pid)s, %(version)s, %(priorities)s::taskflow.priority[], %(concurrency)s)
RETURNING id
"""

NAME_PATIENCE: Final = 1.0
"""Seconds in which the session of a worker that was just killed may still hold its name."""

LOCK_NAME = "SELECT pg_advisory_xact_lock(hashtextextended('taskflow.worker:' || %(name)s, 0))"

BEATING = """
SELECT host, pid, started_at, heartbeat_at FROM taskflow.workers
WHERE name = %(name)s AND stopped_at IS NULL AND heartbeat_at > now() - make_interval(secs => %(lease)s)
ORDER BY id DESC LIMIT 1
"""


class Registration(Struct, frozen=True):
    """This worker's row, and the rows of former workers of its name, whose tasks are to be rescued."""

    worker: int
    former: list[int]


class Name(Protocol):
    """The name of one worker; its row has the columns of REGISTER."""

    def register(self, conn: Session) -> Registration:
        """Take the name and make the worker's row; raises WorkerIdTaken if a live worker has the name."""
        ...

    def hold(self, conn: Session) -> None:
        """Take the name again if it was lost with a connection, and is free."""
        ...

    def lose(self) -> None:
        """The connection was lost."""
        ...


class LockedName:
    """Held by an advisory lock, which ends with the session: who takes it knows that former holders are gone."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = row
        self._name = str(row["name"])
        self._is_held = False

    def register(self, conn: Session) -> Registration:
        """Take the name within NAME_PATIENCE."""
        deadline = time.monotonic() + NAME_PATIENCE
        while not self._take(conn):
            if time.monotonic() > deadline:
                # The holder has the name for an instant before it has a row.
                nobody = ("a host that registers just now", 0, datetime.now(UTC))
                host, pid, since = conn.execute(HOLDER, self._row).fetchone() or nobody
                raise WorkerIdTaken(self._name, host, pid, since)
            time.sleep(0.05)
        return _enter(conn, self._row)

    def hold(self, conn: Session) -> None:
        """Take the lock, unless it is held already."""
        if not self._is_held:
            self._take(conn)

    def lose(self) -> None:
        """The lock ended with its session.

        The server may still keep it for that session, so each beat tries to take it. If another worker has it, that has
        also ended our row, and the beat tells.
        """
        self._is_held = False

    def _take(self, conn: Session) -> bool:
        row = conn.execute(TAKE_NAME, self._row).fetchone()
        self._is_held = row is not None and row[0]
        return self._is_held


class BeatenName:
    """Held as long as heartbeats come: a former holder counts as gone when it was silent for *lease* seconds.

    So a worker that was killed can come back under its name only after that; one that stopped, at once.
    """

    def __init__(self, row: Mapping[str, Any], lease: float) -> None:
        self._row = {**row, "lease": lease}
        self._name = str(row["name"])
        self._lease = lease

    def register(self, conn: Session) -> Registration:
        """Wait until the holder's lease is over; if it beats meanwhile, it lives."""
        seen: datetime | None = None
        while True:
            with conn.transaction():
                conn.execute(LOCK_NAME, self._row)
                holder = conn.execute(BEATING, self._row).fetchone()
                if holder is None:
                    return _enter(conn, self._row)
            host, pid, since, beat = holder
            if seen is not None and beat != seen:
                raise WorkerIdTaken(self._name, host, pid, since)
            seen = beat
            time.sleep(min(0.2, self._lease / 10))

    def hold(self, conn: Session) -> None:
        """The beat itself holds the name."""

    def lose(self) -> None:
        """The row is still there."""


def _enter(conn: Session, row: Mapping[str, Any]) -> Registration:
    former = [id for (id,) in conn.execute(TAKE_OVER, row)]
    (worker,) = conn.execute(REGISTER, row).fetchone() or (0,)
    return Registration(worker, former)
