"""Lets tasks pass their gates, and knows what is paused. While nobody uses either, one look a second is all it does."""

import asyncio
import time
from collections.abc import Sequence
from itertools import islice
from typing import Final

import structlog
from psycopg.errors import LockNotAvailable

from taskflow.database import TROUBLE, Connection
from taskflow.queue.age import age
from taskflow.queue.gates import admit, adopt, find_gates, find_left_over, find_newcomers, settle
from taskflow.queue.policy import Policy, declare_limits, find_policy
from taskflow.registry import Registry
from taskflow.worker.link import Link

log = structlog.get_logger(__name__)

WALK: Final = 0.25
"""Seconds between two walks along gates at which nothing is known to have happened."""

BUSY: Final = 0.02
"""Seconds after which is tried again what another worker was at."""

BATCH: Final = 1000
GATES: Final = 200
"""Gates of one walk."""

WINDOW: Final = 0.1
SLOW: Final = 1.0
"""Seconds after which the pace is told anew: the latter where fewer attempts than there are slots have ended."""

UNKNOWN: Final = 0.5
"""Tenants' tasks that stand ready for each slot, until the pace is known."""


def stock(pace: float) -> float:
    """How many tasks of tenants stand ready for each slot, in which *pace* attempts end a second.

    The more there are, the less a worker starves between two steps, and the longer a tenant waits that comes anew: for
    a tenth of a second, or, where attempts take longer than that, for two of them or 0.4 s.
    """
    return max(0.1 * pace, min(2.0, 0.4 * pace))


class Pace:
    """How fast attempts end in a worker with so many *slots*."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._stock = UNKNOWN
        self._ended = 0
        self._since = time.monotonic()

    def count(self, ended: int) -> None:
        """Count attempts that *ended*."""
        self._ended += ended
        seconds = time.monotonic() - self._since
        if seconds >= (WINDOW if self._ended >= self._slots else SLOW):
            self._stock = stock(self._ended / seconds / self._slots)
            self._ended = 0
            self._since += seconds

    @property
    def ahead(self) -> float:
        """Tasks that shall stand ready for each slot; ever fewer while nothing ends."""
        seconds = time.monotonic() - self._since
        if seconds < SLOW:
            return self._stock
        return min(self._stock, stock(self._ended / seconds / self._slots))


class Gatekeeper:
    """Three ways lead to a gate: a task that ended gave room there, a task came newly to it, or the walk along all
    gates reached it. The first two are quick; the third makes sure. *woken* is set when tasks may be claimed.
    """

    def __init__(self, link: Link, woken: asyncio.Event, registry: Registry, slots: int, aging: float | None) -> None:
        self.policy = Policy()
        self.knows_policy = asyncio.Event()
        self._link = link
        self._claimer_woken = woken
        self._aging = aging
        self._pace = Pace(slots)
        self._undeclared = {task_type.name: task_type.limit for task_type in registry}
        self._woken = asyncio.Event()
        self._must_look = False
        self._next_walk = 0.0
        self._open: dict[str, None] = {}  # the gates to try next, the longest known first
        self._newest = 0
        self._walked_to = ""
        self._left_over_from = ("", 0)

    def hear(self, _argument: str) -> None:
        """Look at once: something happened to gates, limits or pauses."""
        self._must_look = True
        self._woken.set()

    async def follow_up(self, conn: Connection, ids: Sequence[int]) -> None:
        """Give the places of tasks that have ended to others."""
        if self.policy.uses_gates:
            self._pace.count(len(ids))
            if gates := await settle(conn, ids):
                self._open |= dict.fromkeys(gates)
                self._woken.set()

    async def look(self, conn: Connection) -> None:
        """See what is in force, and what was missed."""
        if self._undeclared:
            await declare_limits(conn, self._undeclared)
            self._undeclared = {}
        policy = await find_policy(conn)
        if policy != self.policy:
            if (policy.paused, policy.excluded) != (self.policy.paused, self.policy.excluded):
                log.info("policy.changed", paused=sorted(policy.paused), types=list(policy.excluded))
            self.policy = policy
            self._claimer_woken.set()
            self._woken.set()
        self.knows_policy.set()
        if not policy.is_adopted:
            await self._adopt(conn)
        if self._aging is not None and (aged := await age(conn, self._aging)):
            log.info("tasks.aged", raised=aged)
            self._claimer_woken.set()
        if policy.uses_gates:
            left_over, end = await find_left_over(conn, self._left_over_from, BATCH)
            self._left_over_from = end or ("", 0)
            if left_over:
                self._open |= dict.fromkeys(await settle(conn, left_over))

    async def _adopt(self, conn: Connection) -> None:
        try:
            while not await adopt(conn):
                pass
        except LockNotAvailable as error:
            log.warning("gates.not_adopted", reason=str(error).strip(), note="trying again in a second")
        self.hear("")

    async def run(self) -> None:
        """Keep the gates until cancelled."""
        while True:
            if not self.policy.uses_gates and not self._must_look:
                await self._woken.wait()
            self._woken.clear()
            conn = await self._link.get()
            try:
                pause = await self._step(conn)
                self._link.works()
            except TROUBLE as error:
                await self._link.lost(error)
                continue
            if pause:
                await self._wait(pause)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass

    async def _step(self, conn: Connection) -> float:
        """Let pass what may; the seconds to wait until the next step."""
        if self._must_look:
            self._must_look = False
            await self.look(conn)
        if not self.policy.uses_gates:
            return 0.0
        newcomers, self._newest, are_all = await find_newcomers(conn, self._newest, BATCH)
        self._open |= dict.fromkeys(newcomers)
        if (now := time.monotonic()) >= self._next_walk:
            self._next_walk = now + WALK
            gates = await find_gates(conn, self._walked_to, GATES)
            self._walked_to = gates[-1] if len(gates) == GATES else ""
            self._open |= dict.fromkeys(gates)
        if not self._open:
            return WALK
        gates = list(islice(self._open, BATCH))
        for gate in gates:
            del self._open[gate]
        admission = await admit(conn, gates, BATCH, self._pace.ahead)
        self._open |= dict.fromkeys(admission.more)
        if admission.admitted is None:
            return BUSY
        if admission.admitted:
            self._claimer_woken.set()
        if admission.admitted or not are_all or len(gates) == BATCH:
            return 0.0
        return WALK if admission.seconds_to_token is None else min(WALK, max(admission.seconds_to_token, 0.001))
