"""Notes: what handlers tell of their attempts, and log, written before an attempt's end is recorded at the latest."""

import asyncio
from collections.abc import Iterable
from typing import Final

from taskflow.context import Context
from taskflow.database import TROUBLE, Connection
from taskflow.lines import Tail
from taskflow.model import ClaimedTask, KeptLines
from taskflow.queries import find_checkpoints
from taskflow.queue.keep_lines import keep_lines
from taskflow.queue.progress import tell_progress
from taskflow.queue.record import Ended
from taskflow.worker.link import Link

PAUSE: Final = 1.0
"""Seconds between two writings."""

BATCH: Final = 200
"""Notes of one statement; each may have 64 KiB."""

Claim = tuple[int, int]


class Notes:
    """Makes the contexts of handlers, and writes what they tell. Costs nothing where no handler takes a context."""

    def __init__(self, link: Link, worker: int) -> None:
        self._link = link
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._told: dict[Claim, Context] = {}
        self._tails: dict[Claim, Tail] = {}
        self._asked: dict[Claim, asyncio.Future[bytes | None]] = {}
        self._writing = asyncio.Lock()
        self._write_at = 0.0

    async def context(self, task: ClaimedTask) -> Context:
        """A context for *task*, with the checkpoint of earlier attempts if there were any."""
        checkpoint = None
        if task.attempt > 1:
            answer = self._asked[task.id, task.attempt] = self._loop.create_future()
            self._wake.set()
            checkpoint = await answer
        return Context(task, checkpoint, self._take)

    def tail(self, task: ClaimedTask, most: int) -> Tail:
        """Who hears what the attempt of *task* logs."""
        tail = self._tails[task.id, task.attempt] = Tail(most)
        return tail

    def _take(self, context: Context) -> None:
        """Called in any thread. The context has changed before, and is read after it was taken out again."""
        claim = (context.task.id, context.task.attempt)
        if claim not in self._told:
            self._told[claim] = context
            self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Write, and answer who asks for checkpoints, until cancelled; however long Postgres is away."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            conn = await self._link.get()
            try:
                await self._answer(conn)
                await self._write_in_time(conn)
            except TROUBLE as error:
                self._wake.set()
                await self._link.lost(error)
            else:
                self._link.works()

    async def _answer(self, conn: Connection) -> None:
        if asked := dict(self._asked):
            found = await find_checkpoints(conn, [id for id, _ in asked])
            for claim, answer in asked.items():
                self._asked.pop(claim, None)
                if not answer.done():
                    answer.set_result(found.get(claim[0]))

    async def _write_in_time(self, conn: Connection) -> None:
        if self._told and self._loop.time() < self._write_at:
            self._loop.call_at(self._write_at, self._wake.set)
        elif self._told:
            self._write_at = self._loop.time() + PAUSE
            await self._write(conn, list(self._told))

    async def write_before(self, conn: Connection, batch: Iterable[Ended]) -> None:
        """Write what the attempts of *batch* have told: once their ends are recorded, it would not be taken."""
        if self._told or self._writing.locked():
            await self._write(conn, [(task.id, task.attempt) for task, _ in batch])
        if self._tails:
            await self._keep_lines(conn, [(task.id, task.attempt) for task, _ in batch])

    async def _write(self, conn: Connection, claims: list[Claim]) -> None:
        async with self._writing:
            taken = {claim: context for claim in claims if (context := self._told.pop(claim, None)) is not None}
            notes = [context.note for context in taken.values()]
            try:
                for start in range(0, len(notes), BATCH):
                    await tell_progress(conn, self._worker, notes[start : start + BATCH])
            except BaseException:
                self._told |= taken
                raise

    async def _keep_lines(self, conn: Connection, claims: list[Claim]) -> None:
        mine = [claim for claim in claims if claim in self._tails]
        kept: list[tuple[int, KeptLines]] = []
        for id, attempt in mine:
            lines, left_out = self._tails[id, attempt].kept()
            if lines:
                kept.append((id, KeptLines(attempt, left_out, lines)))
        for start in range(0, len(kept), BATCH):
            await keep_lines(conn, self._worker, kept[start : start + BATCH])
        for claim in mine:
            del self._tails[claim]
