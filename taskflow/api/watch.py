"""One connection that hears what happens to tasks, for all streams and waiting requests of this process."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import Final

import msgspec
import psycopg
import structlog
from litestar.exceptions import ServiceUnavailableException

from taskflow import events, queries
from taskflow.api.inbox import Inbox
from taskflow.database import AWAY, Connection, connect
from taskflow.errors import DatabaseUnavailable
from taskflow.events import Batch, Change

log = structlog.get_logger(__name__)

MOST: Final = 5_000
"""Streams and waiting requests of one process, at most."""

LARGEST: Final = 1_000_000
"""Bytes that wait for a stream whose client reads slowly; after that it misses something."""

LONGEST: Final = 100
"""Changes of one task that wait for whoever follows it."""

CHECK: Final = 1.0
"""Seconds between two looks at tasks that are waited for: a worker may not know yet that somebody watches."""

LINGER: Final = 15.0
"""Seconds for which changes are still heard after the last one left: he may come back and resume."""

ASK: Final = 1.0
"""Seconds between two looks whether another server watches."""

PRUNE: Final = 10.0
"""Seconds between two prunings of old events."""

STUCK: Final = 60.0
"""Seconds after which a stream that nobody empties is ended."""

PATIENCE: Final = 3.0
"""Seconds in which a stream must have begun."""

SETTINGS: Final = "SELECT set_config('statement_timeout', '5s', false), set_config('lock_timeout', '5s', false)"

Told = tuple[int, bytes]
"""A batch's id, and its changes as a stream sends them."""

TaskTold = tuple[str, Change]
"""A change, and its id as a stream sends it."""


class TooManyWatch(ServiceUnavailableException):
    """This process has no room for another stream or waiting request."""

    detail = f"{MOST:,} requests watch already; try again later"


def render(id: str, change: Change) -> bytes:
    """*change* as a server-sent event."""
    return b"id: %b\nevent: task\ndata: %b\n\n" % (id.encode(), msgspec.json.encode(change))


def render_all(batch: Batch, after: int = -1) -> bytes:
    """The changes of *batch* as server-sent events, from the one behind index *after* on."""
    return b"".join(
        render(f"{batch.id}.{index}", change) for index, change in enumerate(batch.changes) if index > after
    )


class Watch:
    """Hears changes while somebody wants to know them. *position* is the id of the latest batch that was heard.

    *pooled*: there is only a pooler in transaction mode. Nothing is heard; who waits for a task's end learns of it by
    looks.
    """

    def __init__(self, dsn: str, *, pooled: bool = False) -> None:
        self._dsn = dsn
        self._pooled = pooled
        self._streams: set[Inbox[Told]] = set()
        self._followers: dict[int, set[Inbox[TaskTold]]] = {}
        self._wanted = asyncio.Event()
        self._ready = asyncio.Event()
        self._left_at = 0.0
        self._checked_at = 0.0
        self._pruned_at = 0.0
        self._is_closed = False
        self.position = 0

    @property
    def is_on(self) -> bool:
        """Whether this process watches."""
        return self._ready.is_set()

    async def stream(self) -> Inbox[Told]:
        """An inbox for the changes of all tasks, until ``leave``.

        Raises TooManyWatch, or DatabaseUnavailable if nothing can be heard.
        """
        self._admit()
        await self._until_ready()
        inbox = Inbox[Told](LARGEST)
        self._streams.add(inbox)
        return inbox

    def follow(self, id: int) -> Inbox[TaskTold]:
        """An inbox for the changes of task *id*, until ``leave``. It misses something where the end was not told.

        Raises TooManyWatch.
        """
        self._admit()
        inbox = Inbox[TaskTold](LONGEST, id)
        self._followers.setdefault(id, set()).add(inbox)
        return inbox

    def leave(self, inbox: "Inbox[Told] | Inbox[TaskTold]") -> None:
        """Nobody empties *inbox* any more."""
        self._left_at = time.monotonic()
        if inbox.topic is None:
            self._streams.discard(inbox)
        elif followers := self._followers.get(inbox.topic):
            followers.discard(inbox)
            if not followers:
                del self._followers[inbox.topic]

    def _admit(self) -> None:
        if self._is_closed or len(self._inboxes()) >= MOST:
            raise TooManyWatch
        self._left_at = time.monotonic()
        self._wanted.set()

    async def _until_ready(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._ready.wait()
        except TimeoutError:
            raise DatabaseUnavailable("changes cannot be heard") from None

    def close(self) -> None:
        """End all streams and all waiting: the server stops."""
        self._is_closed = True
        for inbox in self._inboxes():
            inbox.close()

    def _inboxes(self) -> list[Inbox[Told] | Inbox[TaskTold]]:
        return [*self._streams, *chain.from_iterable(self._followers.values())]

    async def run(self) -> None:
        """Hear changes whenever somebody wants to know them, until cancelled."""
        pause = 0.0
        while True:
            await self._wanted.wait()
            try:
                async with await connect(self._dsn, "taskflow api events", patience=STUCK, pooled=self._pooled) as conn:
                    if not self._pooled:
                        await self._begin(conn)
                    pause = 0.0
                    await self._hear(conn)
            except psycopg.Error as error:
                log.warning("events.interrupted", reason=str(error).strip())
                if not isinstance(error, AWAY):
                    pause = 5.0  # the schema is not there, or not ours
            except DatabaseUnavailable as error:
                log.warning("events.interrupted", reason=str(error))
            finally:
                self._ready.clear()
            await asyncio.sleep(pause)
            pause = min(max(2 * pause, 0.1), 5.0)

    async def _begin(self, conn: Connection) -> None:
        """Watch; who was watching already gets what was told meanwhile."""
        await conn.execute(SETTINGS)
        await conn.execute("LISTEN taskflow_events")
        await events.watch(conn)
        if self._streams or self._followers:
            batches = await events.find_since(conn, self.position)
            for batch in batches[1:] if batches else ():
                self._publish(batch)
            if batches is None:
                for inbox in self._inboxes():
                    inbox.miss()
        self.position = await events.find_latest(conn)
        self._ready.set()

    async def _hear(self, conn: Connection) -> None:
        """Publish what is told, until nobody wanted it for LINGER seconds."""
        while self._streams or self._followers or time.monotonic() < self._left_at + LINGER:
            if self._pooled:
                await asyncio.sleep(CHECK)
                told = []
            else:
                told = [notify.payload async for notify in conn.notifies(timeout=CHECK, stop_after=1)]
            if told:
                told += [notify.payload async for notify in conn.notifies(timeout=0)]
                for batch in await events.find_some(conn, [int(id) for id in told]):
                    self._publish(batch)
            await self._look_after(conn)
        self._wanted.clear()
        self._ready.clear()

    def _publish(self, batch: Batch) -> None:
        self.position = max(self.position, batch.id)
        if not batch.changes:
            return
        if self._streams:
            told = (batch.id, render_all(batch))
            for stream in self._streams:
                stream.put(told, len(told[1]))
        if self._followers:
            for index, change in enumerate(batch.changes):
                for follower in self._followers.get(change.task_id, ()):
                    follower.put((f"{batch.id}.{index}", change))

    async def _look_after(self, conn: Connection) -> None:
        """Now and then: find tasks that ended though nobody told, end stuck streams, prune."""
        now = time.monotonic()
        if now >= self._checked_at + CHECK:
            self._checked_at = now
            if self._followers:
                await self._check(conn, list(self._followers))
            for inbox in self._inboxes():
                if now > inbox.taken_at + STUCK:
                    inbox.close()
                    self.leave(inbox)
        if now >= self._pruned_at + PRUNE:
            self._pruned_at = now
            await events.prune(conn)

    async def _check(self, conn: Connection, ids: Sequence[int]) -> None:
        live = await queries.find_live(conn, ids)
        for id in set(ids) - live:
            for follower in self._followers.get(id, ()):
                follower.miss()


@asynccontextmanager
async def open_watch(dsn: str, *, pooled: bool = False) -> AsyncGenerator[Watch]:
    """A Watch that runs until the block ends."""
    watch = Watch(dsn, pooled=pooled)
    running = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        watch.close()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


class Audience:
    """Whether somebody watches, here or through another server; asked once a second at most."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._asked_at = -math.inf
        self._is_elsewhere = False

    async def is_there(self, conn: Connection) -> bool:
        """Whether changes are to be told."""
        if not self._watch.is_on and (now := time.monotonic()) >= self._asked_at + ASK:
            self._asked_at = now
            self._is_elsewhere = await events.is_watched(conn)
        return self._watch.is_on or self._is_elsewhere
