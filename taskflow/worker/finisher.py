"""Records outcomes by natural batching: while one batch commits, the next gathers. No outcome waits for a timer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import psycopg
import structlog

from taskflow.database import AWAY, TROUBLE, Connection
from taskflow.logs import without_detail
from taskflow.model import Cancelled, ClaimedTask, Failed, Outcome, Retry, Succeeded
from taskflow.queue.record import Ended, record
from taskflow.queue.tally import Tally
from taskflow.worker.link import Link

log = structlog.get_logger(__name__)

FollowUp = Callable[[Connection, Sequence[int]], Awaitable[None]]
"""What a feature does after a batch was recorded, given the ids in it; it must come right without, only later."""

Before = Callable[[Connection, Sequence[Ended]], Awaitable[None]]
"""What a feature does before a batch is recorded; the batch is recorded in any case."""

BATCH: Final = 2000
BACKLOG: Final = 2 * BATCH
"""With this many unrecorded outcomes the worker claims nothing more: they would be lost with it."""

NOT_NOW: Final = ("42", "3F")
"""Classes of SQLSTATE that tell of the schema and of rights, not of an outcome: somebody has to mend them."""

TOO_MUCH: Final = (psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)
"""What Postgres refuses although it is not away: trying again would not end."""


class Finisher:
    """Keeps outcomes until Postgres has them, also across lost connections.

    *woken* is set when a retry that was recorded becomes due. *before* is called before each batch is recorded,
    *follow_ups* after; *tally* counts it.
    """

    def __init__(
        self,
        link: Link,
        worker: int,
        woken: asyncio.Event,
        follow_ups: Sequence[FollowUp] = (),
        tally: Tally | None = None,
        before: Before | None = None,
    ) -> None:
        self._link = link
        self._worker = worker
        self._woken = woken
        self._follow_ups = follow_ups
        self._tally = tally or Tally()
        self._before = before
        self._pending: list[Ended] = []
        self._in_flight: list[Ended] = []
        self._wake = asyncio.Event()
        self._recorded = asyncio.Event()

    @property
    def pending(self) -> int:
        """How many outcomes are not recorded yet."""
        return len(self._pending) + len(self._in_flight)

    @property
    def claims(self) -> set[tuple[int, int]]:
        """Id and attempt of each task whose outcome is not recorded yet."""
        return {(task.id, task.attempt) for task, _ in (*self._in_flight, *self._pending)}

    async def wait_for_room(self) -> None:
        """Return once so few outcomes are unrecorded that more may be made."""
        while self.pending >= BACKLOG:
            self._recorded.clear()
            await self._recorded.wait()

    def add(self, task: ClaimedTask, outcome: Outcome) -> None:
        """Have *outcome* recorded soon."""
        if not self._pending:
            self._wake.set()
        self._pending.append((task, outcome))

    async def run(self) -> None:
        """Record outcomes until cancelled."""
        await self._link.get()  # not only when the first outcome waits for it
        self._link.works()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                batch, self._pending = self._pending[:BATCH], self._pending[BATCH:]
                self._in_flight = batch
                await self._record_surely(batch)
                self._in_flight = []
                self._recorded.set()

    async def drain(self, seconds: float) -> bool:
        """Wait until everything is recorded, at most *seconds*; whether it is."""
        try:
            async with asyncio.timeout(seconds):
                while self.pending:
                    self._recorded.clear()
                    await self._recorded.wait()
        except TimeoutError:
            return False
        return True

    async def _record_surely(self, batch: list[Ended]) -> None:
        """Record *batch*, however often the connection is lost on the way."""
        tries = 0
        recorded: set[int] = set()
        while True:
            conn = await self._link.get()
            rest = _split(batch, recorded)[1] if recorded else batch
            try:
                if self._before is not None:
                    await self._prepare(conn, self._before, rest)
                await record(conn, self._worker, rest, recorded)
            except TOO_MUCH as error:
                refusal: psycopg.Error = error
            except TROUBLE as error:
                if isinstance(error, AWAY) or (error.sqlstate or "").startswith(NOT_NOW):
                    tries += 1
                    await self._link.lost(error)
                    continue
                refusal = error
            else:
                await self._settle(conn, batch, recorded, certain=tries == 0)
                return
            done, rest = _split(batch, recorded)
            await self._settle(conn, done, recorded, certain=tries == 0)
            if rest:
                await self._record_one_by_one(rest, refusal)
            return

    async def _settle(self, conn: Connection, batch: list[Ended], recorded: set[int], *, certain: bool) -> None:
        """What comes after *batch* was recorded, as far as it still could be."""
        self._link.works()
        self._tell(batch, recorded, certain=certain)
        if self._follow_ups and batch:
            await self._follow_up(conn, [task.id for task, _ in batch])

    async def _prepare(self, conn: Connection, before: Before, batch: list[Ended]) -> None:
        """Raises what tells that Postgres is away; anything else shall not keep outcomes from being recorded."""
        try:
            await before(conn, batch)
        except psycopg.Error as error:
            if isinstance(error, AWAY):
                raise
            log.warning("notes.refused", reason=without_detail(error).strip())

    async def _follow_up(self, conn: Connection, ids: Sequence[int]) -> None:
        for follow_up in self._follow_ups:
            try:
                await follow_up(conn, ids)
            except psycopg.Error as error:
                log.warning("follow_up.failed", reason=without_detail(error).strip())
                if isinstance(error, AWAY):
                    await self._link.lost(error)
                    return

    async def _record_one_by_one(self, batch: list[Ended], error: psycopg.Error) -> None:
        """Record what Postgres accepts; an outcome that it refuses fails its task with Postgres's words."""
        if len(batch) > 1:
            for ended in batch:
                await self._record_surely([ended])
            return
        ((task, outcome),) = batch
        log.error(
            "outcome.refused",
            task_id=task.id,
            attempt=task.attempt,
            outcome=type(outcome).__name__,
            reason=without_detail(error),
        )
        if not isinstance(outcome, Failed) or not outcome.error.startswith("OutcomeRefused"):
            await self._record_surely([(task, Failed(f"OutcomeRefused: {type(error).__name__}"))])

    def _tell(self, batch: list[Ended], recorded: set[int], *, certain: bool) -> None:
        """Count what was recorded, and log what did not simply succeed."""
        if len(recorded) == len(batch) and {outcome.__class__ for _, outcome in batch} == {Succeeded}:
            self._tally.add_succeeded(batch)
            return
        self._tally.add(batch, recorded)
        for task, outcome in batch:
            if isinstance(outcome, Cancelled):
                continue
            if task.id not in recorded:
                # After a lost connection the first try may have been recorded after all.
                event = "outcome.dropped" if certain else "outcome.unconfirmed"
                log.warning(
                    event,
                    task_id=task.id,
                    attempt=task.attempt,
                    outcome=type(outcome).__name__,
                    reason="the claim was lost",
                )
            elif isinstance(outcome, Retry):
                asyncio.get_running_loop().call_later(outcome.delay.total_seconds(), self._woken.set)
                log.info(
                    "task.retried",
                    task_id=task.id,
                    attempt=task.attempt,
                    type=task.type,
                    delay=round(outcome.delay.total_seconds(), 3),
                    error=outcome.error.partition("\n")[0],
                )
            elif isinstance(outcome, Failed):
                log.error(
                    "task.failed",
                    task_id=task.id,
                    attempt=task.attempt,
                    type=task.type,
                    error=outcome.error.partition("\n")[0],
                )


def _split(batch: list[Ended], recorded: set[int]) -> tuple[list[Ended], list[Ended]]:
    """What of *batch* is recorded, and the rest."""
    done = [ended for ended in batch if ended[0].id in recorded]
    return done, [ended for ended in batch if ended[0].id not in recorded]
