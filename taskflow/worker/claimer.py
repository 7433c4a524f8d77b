"""Claims for idle slots only, in the order of priority; sleeps while there is nothing to claim."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from taskflow.database import TROUBLE, Connection
from taskflow.model import ClaimedTask, Priority
from taskflow.queue.claim import Mark, be_busy, be_idle, claim, seconds_until_due
from taskflow.queue.policy import Policy
from taskflow.worker.finisher import Finisher, FollowUp
from taskflow.worker.link import Link
from taskflow.worker.presence import Presence
from taskflow.worker.slots import Slots

ECHO: Final = 0.002
"""First pause, in seconds, after which a worker that just became idle looks again; it doubles from look to look.

An enqueue that saw this worker busy may commit just after its last look. No notification tells of it, so the looks
follow the commit at a distance of at most its own duration.
"""

PACE: Final = 0.005
"""Seconds from a look that found one task, though more slots were free, to the next; up to three times that if it
found several.

Where tasks come in faster they are claimed in batches: looking for each would take more from enqueuers and handlers
than it brings.
"""

SMALLEST_BATCH: Final = 100
"""A claim takes half of the slots at most, so that Postgres claims for one half while the handlers of the other run;
but a claim for fewer tasks than this is not worth its statement.
"""

PAYLOADS: Final = 262_144
"""Characters of payloads that a claim is to find, about, as those of the last one tell. Postgres keeps what it claimed
locked until it has sent all of it, and a worker whose handlers block reads only a piece between two of them.
"""


class Watermark:
    """Where claims continue, so that they never read again the index entries of what was claimed before.

    A full look, from the start, finds what came in behind the marks: late commits, retries, earlier ``scheduled_at``.
    It is taken once a second; an idle worker takes it at each look, unless it has become slow (an old snapshot keeps
    dead entries in the index): its cost is held to a twentieth of the time.
    """

    MARGIN: Final = 0.25
    """Seconds by which an idle look starts before the marks, for enqueues that overtook each other."""

    def __init__(self) -> None:
        self._marks: dict[Priority, Mark] = {}
        self._full_at = 0.0
        self._full_took = 0.0

    def next(self, now: float, *, idle: bool) -> tuple[bool, dict[Priority, Mark]]:
        """Whether the next look is a full one, and the marks that it starts from."""
        since = now - self._full_at
        if since >= max(20 * self._full_took, 0.0 if idle else 1.0):
            return True, {}
        if idle:
            return False, {priority: Mark(mark.scheduled_at - self.MARGIN, 0) for priority, mark in self._marks.items()}
        return False, dict(self._marks)

    def looked(self, full: bool, marks: dict[Priority, Mark], began: float, now: float) -> None:
        """Remember where a look ended."""
        if full:
            self._full_at = now
            self._full_took = now - began
        self._marks |= marks


class Claimer:
    """The loop that keeps a worker's slots busy. *woken* is set when something may have become due.

    *on_claim* is told of each claim that found something, and *follow_up* awaited before its tasks start.
    *presence* asks for wake-ups; None: the link does, which has a session of its own.
    """

    def __init__(
        self,
        link: Link,
        worker: int,
        priorities: Sequence[Priority],
        slots: Slots,
        finisher: Finisher,
        woken: asyncio.Event,
        *,
        poll: float,
        on_claim: Callable[[list[ClaimedTask]], None] | None = None,
        policy: Callable[[], Policy] = Policy,
        follow_up: FollowUp | None = None,
        presence: Presence | None = None,
    ) -> None:
        self._link = link
        self._worker = worker
        self._priorities = priorities
        self._slots = slots
        self._finisher = finisher
        self._poll = poll
        self._on_claim = on_claim
        self._policy = policy
        self._follow_up = follow_up
        self._presence = presence
        self._watermark = Watermark()
        self._woken = woken
        self._next_look = 0.0
        self._fit = PAYLOADS  # so many tasks like those of the last claim have PAYLOADS
        self._is_idle = False
        self._is_claiming = False
        self._is_stopped = False
        self._job: asyncio.Task[None] | None = None

    def start(self, after: asyncio.Event) -> asyncio.Task[None]:
        """Claim in the background, from *after* until ``stop``."""
        self._job = asyncio.create_task(self._run(after))
        return self._job

    def stop(self) -> None:
        """Claim nothing more. A claim that is under way is not cut off: its tasks would run with nobody."""
        self._is_stopped = True
        if self._job is not None and not self._is_claiming:
            self._job.cancel()

    async def _run(self, after: asyncio.Event) -> None:
        await after.wait()
        while not self._is_stopped:
            await self._finisher.wait_for_room()
            await self._slots.wait_for_free()
            conn = await self._link.get()
            try:
                if not await self._look(conn):
                    await self._idle(conn)
            except TROUBLE as error:
                self._is_idle = False
                await self._link.lost(error)

    async def _look(self, conn: Connection) -> int:
        """Claim once for the free slots and start what was claimed; how many tasks it were."""
        if (wait := self._next_look - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        began = time.monotonic()
        full, marks = self._watermark.next(began, idle=self._is_idle)
        wanted = min(self._slots.free, max(SMALLEST_BATCH, min(self._slots.capacity // 2, self._fit)))
        policy = self._policy()
        self._is_claiming = True
        try:
            tasks = await claim(conn, self._worker, policy.active(self._priorities), wanted, marks, policy.excluded)
            try:
                if tasks and self._follow_up is not None:
                    await self._follow_up(conn, [task.id for task in tasks])
            finally:
                self._slots.start(tasks)
        finally:
            self._is_claiming = False
        if tasks:
            self._fit = PAYLOADS * len(tasks) // max(1, sum(len(task.payload) for task in tasks))
            if self._on_claim is not None:
                self._on_claim(tasks)
        now = time.monotonic()
        self._link.works()
        self._watermark.looked(full, marks, began, now)
        self._next_look = now + PACE * min(len(tasks), 3) if len(tasks) < wanted else now
        return len(tasks)

    async def _idle(self, conn: Connection) -> None:
        """Ask to be woken and look again and again, ever more rarely, until there is work for more than one slot.

        A single task does not end the idleness: where they come one by one, asking anew would cost more than a
        notification each.
        """
        if self._presence is None:
            await be_idle(conn, self._priorities)
        else:
            await self._presence.be_idle()
        self._is_idle = True
        pause = ECHO
        while not self._is_stopped:
            self._woken.clear()
            found = await self._look(conn)
            if found > 1 or not self._slots.free:
                break
            if found:
                pause = ECHO
                continue
            due = await seconds_until_due(conn, self._policy().active(self._priorities))
            pause = min(pause, self._poll)
            if await self._wait_for_wake(pause if due is None else min(pause, max(due, 0.0))):
                pause = ECHO
            else:
                pause *= 2
        self._is_idle = False
        if self._presence is None:
            await be_busy(conn, self._priorities)
        else:
            self._presence.be_busy()

    async def _wait_for_wake(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._woken.wait()
        except TimeoutError:
            return False
