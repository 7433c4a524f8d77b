"""Presence: what tells the others that this worker lives, and what wakes it.

A thread of its own beats and listens, so that a handler that blocks the event loop does not make its worker look gone.
"""

import asyncio
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from importlib.metadata import version
from typing import Final

import structlog

from taskflow.database import TROUBLE
from taskflow.errors import PresenceLost
from taskflow.logs import without_detail
from taskflow.model import Priority
from taskflow.queue.claim import BE_BUSY, BE_IDLE
from taskflow.worker.names import BeatenName, LockedName, Name, Registration
from taskflow.worker.session import Session

log = structlog.get_logger(__name__)

COMEBACK: Final = 3.0
"""Seconds in which a worker that can reach Postgres again tells that it lives."""

# A heartbeat waits neither for the disk nor for a standby: a server that forgets one will have the next.
BEAT = """
UPDATE taskflow.workers SET heartbeat_at = now()
WHERE id = %(id)s AND stopped_at IS NULL AND set_config('synchronous_commit', 'off', true) = 'off'
RETURNING date_part('epoch', clock_timestamp()), draining_at IS NOT NULL
"""

LEAVE = "UPDATE taskflow.workers SET stopped_at = now() WHERE id = %(id)s AND stopped_at IS NULL"


class Presence:
    """Holds a worker's name and row. *on_wake* is called, in the presence's thread, for each wake-up, and after each
    reconnection; *on_lost* once, if the others took this worker for gone; *on_drain* at each beat, once it shall stop.

    *pooled*: there is only a pooler in transaction mode, so nothing wakes this worker.
    """

    def __init__(
        self,
        dsn: str,
        name: str,
        priorities: tuple[Priority, ...],
        concurrency: int,
        *,
        lease: float,
        pooled: bool = False,
        on_wake: Callable[[str], None],
        on_lost: Callable[[PresenceLost], None],
        on_drain: Callable[[], None] = lambda: None,
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._pooled = pooled
        self._priorities = {"priorities": [priority.value for priority in priorities]}
        row = self._priorities | {
            "name": name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": version("taskflow-pg"),
            "concurrency": concurrency,
        }
        self._own_name: Name = BeatenName(row, lease) if pooled else LockedName(row)
        self._lease = lease
        self._beat = lease / 5
        self._on_wake = on_wake
        self._on_lost = on_lost
        self._on_drain = on_drain
        self._registration: Future[Registration] = Future()
        self._told_read, self._told_write = os.pipe()
        os.set_blocking(self._told_write, False)
        self._stopping = threading.Event()
        self._idle_wanted = False
        self._is_idle = False
        self._idle_asked: list[Future[None]] = []
        self._last_beat = 0.0
        self._beaten_at = 0.0
        self._steady_since = float("-inf")
        self.clock_ahead = 0.0
        """Seconds by which Postgres' clock is ahead of ours, give or take a round trip."""
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> Future[Registration]:
        """Take the name and register, in the background; the answer raises WorkerIdTaken if the name is held."""
        self._thread.start()
        return self._registration

    def stop(self) -> None:
        """Mark this worker as stopped and free its name. Blocks for one statement."""
        self._stopping.set()
        self._tell()
        self._thread.join()
        os.close(self._told_read)
        os.close(self._told_write)

    async def be_idle(self) -> None:
        """Ask, on this session, for notifications of new tasks, until ``be_busy``.

        Returns when they are sure to come, or the session is not there for the moment; it asks again when it is back.
        """
        if self._pooled:
            return
        self._idle_wanted = True
        if self.is_fresh:
            asked = Future[None]()
            self._idle_asked.append(asked)
            self._tell()
            await asyncio.wait([asyncio.wrap_future(asked)], timeout=self._beat)

    def be_busy(self) -> None:
        """Take ``be_idle`` back, soon."""
        if self._idle_wanted:
            self._idle_wanted = False
            self._tell()

    def _tell(self) -> None:
        with suppress(BlockingIOError):  # enough was told before
            os.write(self._told_write, b"x")

    @property
    def is_fresh(self) -> bool:
        """Whether the database knew within the last two beats that this worker lives."""
        return time.monotonic() - self._last_beat < 2 * self._beat

    @property
    def is_steady(self) -> bool:
        """Whether heartbeats came through all the last lease long, or half of it after the start: only then is the
        silence of others their own.

        In an outage of the database nobody is heard, and whoever came back first, or starts at its end, would take all
        others for gone.
        """
        return self.is_fresh and time.monotonic() - self._steady_since > self._lease

    def _run(self) -> None:
        conn: Session | None = None
        try:
            conn = self._connect()
            registration = self._own_name.register(conn)
        except BaseException as error:  # noqa: BLE001 – it is raised where the registration is awaited
            if conn is not None:
                conn.close()
            self._registration.set_exception(error)
            return
        self._last_beat = self._beaten_at = time.monotonic()
        # Half a lease is enough for others to come back, if this is the end of an outage; whoever is gone is still
        # rescued within a lease of his last beat, if this worker starts in his place.
        self._steady_since = self._beaten_at - max(0.0, self._lease - max(self._lease / 2, COMEBACK))
        self._registration.set_result(registration)
        while True:
            try:
                self._listen(conn, registration.worker)
                conn.run(LEAVE, {"id": registration.worker})
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
                self._is_idle = False
            again = self._reconnect()
            if again is None:
                return
            conn = again

    def _connect(self) -> Session:
        # A statement that hangs shall not pass for a heartbeat.
        return Session.open(self._dsn, f"taskflow worker {self._name}", limit=self._beat, pooled=self._pooled)

    def _settle(self, conn: Session) -> None:
        """Be idle or busy, as was wanted last."""
        asked, self._idle_asked = self._idle_asked, []  # before it is looked what is wanted
        wanted = self._idle_wanted
        try:
            if wanted != self._is_idle:
                conn.execute(BE_IDLE if wanted else BE_BUSY, self._priorities)
                self._is_idle = wanted
        finally:
            for one in asked:
                if one.set_running_or_notify_cancel():
                    one.set_result(None)

    def _listen(self, conn: Session, worker: int) -> None:
        """Beat and pass on wake-ups until told to stop; raises PresenceLost, or one of AWAY."""
        next_beat = 0.0
        waits = select.poll()  # select.select knows no descriptor beyond 1023
        waits.register(conn.fileno(), select.POLLIN)
        waits.register(self._told_read, select.POLLIN)
        while True:
            self._settle(conn)
            if (now := time.monotonic()) >= next_beat:
                self._own_name.hold(conn)
                row = conn.run(BEAT, {"id": worker}).fetchone()
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
            if self._told_read in dict(ready):
                os.read(self._told_read, 1000)
                if self._stopping.is_set():
                    return

    def _reconnect(self) -> Session | None:
        """A new session, however long it takes; None if told to stop meanwhile."""
        pause = 0.05
        while not self._stopping.wait(pause):
            conn = None
            try:
                conn = self._connect()
                self._settle(conn)
            except TROUBLE:
                if conn is not None:
                    conn.close()
                pause = min(2 * pause, 1.0)
                continue
            self._own_name.lose()
            log.info("presence.restored", worker=self._name)
            self._on_wake("")
            return conn
        return None
