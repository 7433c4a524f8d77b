"""Presence: what tells the others that this worker lives, and what wakes it.

A thread of its own beats and listens, so that a handler that blocks the event loop does not make its worker look gone.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import psycopg
import structlog
from msgspec import Struct
from psycopg.rows import TupleRow

from taskflow.database import TROUBLE, with_defaults
from taskflow.errors import PresenceLost, WorkerIdTaken
from taskflow.logs import without_detail
from taskflow.model import Priority

log = structlog.get_logger(__name__)


class Session(psycopg.Connection[TupleRow]):
    """A connection on which psycopg.OperationalError is raised if no answer comes within ``patience`` seconds."""

    patience: float | None = None

    def wait(self, *arguments: Any, **options: Any) -> Any:
        """Every statement passes here."""
        return super().wait(*arguments, **{"timeout": self.patience, **options})


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

# A heartbeat waits neither for the disk nor for a standby: a server that forgets one will have the next.
BEAT = """
UPDATE taskflow.workers SET heartbeat_at = now()
WHERE id = %(id)s AND stopped_at IS NULL AND set_config('synchronous_commit', 'off', true) = 'off'
RETURNING date_part('epoch', clock_timestamp()), draining_at IS NOT NULL
"""

LEAVE = "UPDATE taskflow.workers SET stopped_at = now() WHERE id = %(id)s AND stopped_at IS NULL"

NAME_PATIENCE: Final = 1.0
"""Seconds in which the session of a worker that was just killed may still hold its name."""


class Registration(Struct, frozen=True):
    """This worker's row, and the rows of former workers of its name, whose tasks are to be rescued."""

    worker: int
    former: list[int]


class Presence:
    """Holds a worker's name and row. *on_wake* is called, in the presence's thread, for each wake-up, and after each
    reconnection; *on_lost* once, if the others took this worker for gone; *on_drain* at each beat, once it shall stop.
    """

    def __init__(
        self,
        dsn: str,
        name: str,
        priorities: tuple[Priority, ...],
        concurrency: int,
        *,
        lease: float,
        on_wake: Callable[[str], None],
        on_lost: Callable[[PresenceLost], None],
        on_drain: Callable[[], None] = lambda: None,
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._row = {
            "name": name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version("taskflow-pg"),
            "priorities": [priority.value for priority in priorities],
            "concurrency": concurrency,
        }
        self._lease = lease
        self._beat = lease / 5
        self._on_wake = on_wake
        self._on_lost = on_lost
        self._on_drain = on_drain
        self._registration: Future[Registration] = Future()
        self._stop_read, self._stop_write = os.pipe()
        self._last_beat = 0.0
        self._beaten_at = 0.0
        self._steady_since = float("-inf")
        self._holds_name = False
        self.clock_ahead = 0.0
        """Seconds by which Postgres' clock is ahead of ours, give or take a round trip."""
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> Future[Registration]:
        """Take the name and register, in the background; the answer raises WorkerIdTaken if the name is held."""
        self._thread.start()
        return self._registration

    def stop(self) -> None:
        """Mark this worker as stopped and free its name. Blocks for one statement."""
        os.write(self._stop_write, b"x")
        self._thread.join()
        os.close(self._stop_read)
        os.close(self._stop_write)

    @property
    def is_fresh(self) -> bool:
        """Whether the database knew within the last two beats that this worker lives."""
        return time.monotonic() - self._last_beat < 2 * self._beat

    @property
    def is_steady(self) -> bool:
        """Whether heartbeats came through all the last lease long: only then is the silence of others their own.

        In an outage of the database nobody is heard, and whoever came back first would take all others for gone.
        """
        return self.is_fresh and time.monotonic() - self._steady_since > self._lease

    def _run(self) -> None:
        conn: Session | None = None
        try:
            conn = self._connect()
            registration = self._register(conn)
        except BaseException as error:  # noqa: BLE001 – it is raised where the registration is awaited
            if conn is not None:
                conn.close()
            self._registration.set_exception(error)
            return
        self._last_beat = self._beaten_at = time.monotonic()
        self._registration.set_result(registration)
        while True:
            try:
                self._listen(conn, registration.worker)
                conn.execute(LEAVE, {"id": registration.worker})
                return
            except PresenceLost as lost:
                self._on_lost(lost)
                return
            except TROUBLE as error:
                self._last_beat = 0.0
                log.warning("presence.interrupted", worker=self._name, reason=without_detail(error).strip())
            except Exception as error:  # noqa: BLE001 – a worker without presence must not go on in silence
                self._on_lost(PresenceLost(self._name, f"its presence failed with {type(error).__name__}: {error}"))
                return
            finally:
                conn.close()
            again = self._reconnect()
            if again is None:
                return
            conn = again

    def _connect(self) -> Session:
        conn = Session.connect(with_defaults(self._dsn, f"taskflow worker {self._name}"), autocommit=True)
        conn.patience = self._beat + 1
        try:
            conn.execute("LISTEN taskflow")
            # A statement that hangs shall not pass for a heartbeat; a server that lost us shall free the name soon.
            conn.execute("SELECT set_config('statement_timeout', %s, false)", [str(int(self._beat * 1000))])
            for setting, value in (("idle", 5), ("interval", 2), ("count", 3)):
                conn.execute("SELECT set_config('tcp_keepalives_' || %s, %s, false)", [setting, str(value)])
        except BaseException:
            conn.close()
            raise
        return conn

    def _register(self, conn: Session) -> Registration:
        deadline = time.monotonic() + NAME_PATIENCE
        while not self._take_name(conn):
            if time.monotonic() > deadline:
                raise self._taken(conn)
            time.sleep(0.05)
        former = [id for (id,) in conn.execute(TAKE_OVER, self._row)]
        (worker,) = conn.execute(REGISTER, self._row).fetchone() or (0,)
        return Registration(worker, former)

    def _take_name(self, conn: Session) -> bool:
        row = conn.execute(TAKE_NAME, self._row).fetchone()
        self._holds_name = row is not None and row[0]
        return self._holds_name

    def _taken(self, conn: Session) -> WorkerIdTaken:
        holder = conn.execute(HOLDER, self._row).fetchone()
        # The holder has the name for an instant before it has a row.
        host, pid, since = holder or ("a host that registers just now", 0, datetime.now(UTC))
        return WorkerIdTaken(self._name, host, pid, since)

    def _listen(self, conn: Session, worker: int) -> None:
        """Beat and pass on wake-ups until told to stop; raises PresenceLost, or one of AWAY."""
        next_beat = 0.0
        waits = select.poll()  # select.select knows no descriptor beyond 1023
        waits.register(conn.fileno(), select.POLLIN)
        waits.register(self._stop_read, select.POLLIN)
        while True:
            if (now := time.monotonic()) >= next_beat:
                if not self._holds_name:
                    self._take_name(conn)
                row = conn.execute(BEAT, {"id": worker}).fetchone()
                if row is None:
                    raise PresenceLost(
                        self._name, f"it was silent for so long that it was taken for gone (row {worker})"
                    )
                self.clock_ahead = row[0] - time.time()
                if row[1]:
                    self._on_drain()
                if now - self._beaten_at > 2 * self._beat:
                    self._steady_since = time.monotonic()
                self._last_beat = self._beaten_at = now
                next_beat = now + self._beat
            for notify in conn.notifies(timeout=0):
                self._on_wake(notify.payload)
            ready = waits.poll(1000 * max(next_beat - time.monotonic(), 0.0))
            if self._stop_read in dict(ready):
                return

    def _reconnect(self) -> Session | None:
        """A new session, however long it takes; None if told to stop meanwhile."""
        pause = 0.05
        stop = select.poll()
        stop.register(self._stop_read, select.POLLIN)
        while not stop.poll(1000 * pause):
            try:
                conn = self._connect()
            except TROUBLE:
                pause = min(2 * pause, 1.0)
                continue
            # The server may still keep the name for our old session, so each beat tries to take it. If another worker
            # has it, it has also ended our row, and the beat tells.
            self._holds_name = False
            log.info("presence.restored", worker=self._name)
            self._on_wake("")
            return conn
        return None
