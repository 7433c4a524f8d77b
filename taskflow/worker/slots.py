"""The slots of a worker: which attempts run now, and when they have to end."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from typing import Final

import structlog

from taskflow.logs import current_task
from taskflow.model import Cancelled, ClaimedTask, Outcome, Released
from taskflow.registry import Registry
from taskflow.worker.attempt import Attempt, Interruption, run_attempt
from taskflow.worker.burst import LATE, Burst
from taskflow.worker.meter import Meter
from taskflow.worker.runner import Runner

log = structlog.get_logger(__name__)

OBEDIENCE: Final = 5.0
"""Seconds in which a cancelled handler is expected to end."""

SHARE: Final = 0.001
"""Seconds for which a lane runs handlers that never wait before Postgres's answers are looked at again: until then its
sessions have nothing to do.
"""

NO_SLOT: Final = "no slot was free for it"

Report = Callable[[ClaimedTask, Outcome], None]


class Slots:
    """Runs at most *size* attempts at once and reports each one's outcome once.

    Attempts run in lanes, which are asyncio tasks: handlers that never wait share one, for it would cost more than they
    do. No attempt waits for another that waits: it has a lane of its own. While handlers do not wait, more tasks
    than *size* may be claimed; what turns out to have no slot after all is given back.

    An attempt keeps its slot until its handler has really ended, also where its outcome had to be reported before:
    a thread cannot be stopped.
    """

    def __init__(
        self,
        size: int,
        registry: Registry,
        time_out: float,
        report: Report,
        meter: Meter | None = None,
        runner: Runner | None = None,
    ) -> None:
        self.size = size
        self._registry = registry
        self._time_out = time_out
        self._report = report
        self._meter = meter
        self._runner = runner or Runner(registry.middlewares)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="handler")
        self._waiting: deque[ClaimedTask] = deque()
        self._running: set[Attempt] = set()
        self._changed = asyncio.Event()
        self._awaited = 0  # how many wait for that event; setting it for nobody costs as much as a short handler
        self._turn = 0
        self._burst = Burst(size)
        self._started = 0.0
        self._was_late = False
        self._is_stopped = False
        self._context = copy_context()
        self._context.run(current_task.set, None)

    @property
    def free(self) -> int:
        """How many more tasks may be claimed now."""
        return max(self._burst.size - self.running, 0)

    @property
    def capacity(self) -> int:
        """How many tasks may be held at once."""
        return self._burst.size

    @property
    def running(self) -> int:
        """How many attempts run now, or are about to."""
        return len(self._running) + len(self._waiting)

    @property
    def claims(self) -> set[tuple[int, int]]:
        """Id and attempt of each task that runs now."""
        return {(task.id, task.attempt) for task in (*self._waiting, *(attempt.task for attempt in self._running))}

    def start(self, tasks: Sequence[ClaimedTask]) -> None:
        """Run *tasks*, each in a slot of its own; give back those that find none within milliseconds."""
        self._waiting.extend(tasks)
        if self._is_stopped:
            self.stop()
            return
        self._started = time.monotonic()
        self._was_late = False
        self._add_lanes(min(len(tasks), 1))

    def _add_lanes(self, count: int) -> None:
        """Make *count* lanes; then, when each of them had its turn, as many as there are attempts left over."""
        loop = asyncio.get_running_loop()
        self._turn += 1
        for _ in range(count):
            loop.create_task(self._run_lane(), context=self._context.copy())  # noqa: RUF006 – its attempt keeps it
        if count:
            loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        if self._running:
            self._burst.waited()
        free = self.size - len(self._running)
        is_late = time.monotonic() - self._started > LATE
        if not free or (is_late and self._was_late):
            while len(self._waiting) > free:
                self._report(self._waiting.pop(), Released(NO_SLOT))
        elif is_late:  # once may be the machine's fault
            self._was_late = True
            self._started = time.monotonic()
            free = min(free, 1)
        if not self._running:  # who does not wait needs no more
            free = min(free, 1)
        self._add_lanes(min(len(self._waiting), free))

    def stop(self) -> None:
        """Begin nothing more: what has not begun is given back, and so is what is started from now on."""
        self._is_stopped = True
        while self._waiting:
            self._report(self._waiting.popleft(), Released(Interruption.RELEASED.value))

    async def _run_lane(self) -> None:
        """Run attempts until one waits, is cancelled, or leaves another context behind than it found."""
        lane, turn, ended = asyncio.current_task(), self._turn, 0
        assert lane is not None
        began = now = time.monotonic()
        while self._waiting and self._turn == turn and len(self._running) < self.size:
            if now - began > SHARE:
                break
            task = self._waiting.popleft()
            task_type = self._registry.find(task.type)
            limit = (task_type.timeout if task_type is not None else None) or self._time_out
            attempt = Attempt(task, task_type, limit, now, job=lane)
            self._running.add(attempt)
            current_task.set(task)
            found = copy_context()
            outcome = await run_attempt(attempt, self._threads, self._runner)
            now = time.monotonic()
            self._running.discard(attempt)
            self._tell(attempt, outcome, now)
            if self._awaited:
                self._changed.set()
            ended += 1
            if lane.cancelling() or not _is_as(found):
                break
        if ended and self._turn == turn:
            self._burst.ran(ended, now - began)

    def _tell(self, attempt: Attempt, outcome: Outcome, now: float) -> None:
        if not attempt.reported:
            attempt.reported = True
            # To look up an enum's member costs more than to find that there was no interruption.
            if attempt.interruption is not None and attempt.interruption is Interruption.CANCELLED:
                outcome = Cancelled()  # a sync handler may have ended in any way
            if self._meter is not None:
                self._meter.ended(attempt.task, outcome, now - attempt.began)
            self._report(attempt.task, outcome)

    def cancel(self, claims: set[tuple[int, int]]) -> int:
        """Interrupt the attempts of *claims* (id and attempt), and begin none of them; how many it were."""
        if not claims:
            return 0
        why, cancelled = Interruption.CANCELLED, 0
        waiting, self._waiting = self._waiting, deque()
        for task in waiting:
            if (task.id, task.attempt) in claims:
                self._report(task, Cancelled())
                cancelled += 1
            else:
                self._waiting.append(task)
        for attempt in self._running:
            task = attempt.task
            if (task.id, task.attempt) in claims and attempt.interruption is None:
                attempt.interrupt(why)
                cancelled += 1
                log.info("attempt.interrupted", task_id=task.id, attempt=task.attempt, type=task.type, reason=why.value)
        if self._awaited:
            self._changed.set()
        return cancelled

    async def _change(self) -> None:
        """Return once an attempt has ended."""
        self._changed.clear()
        self._awaited += 1
        try:
            await self._changed.wait()
        finally:
            self._awaited -= 1

    async def wait_for_free(self) -> None:
        """Return once a slot is free."""
        while not self.free:
            await self._change()

    async def wait_for_all(self, seconds: float) -> bool:
        """Wait until all attempts have ended, at most *seconds*; whether they have."""
        try:
            async with asyncio.timeout(seconds):
                while self.running:
                    await self._change()
        except TimeoutError:
            return False
        return True

    def sweep(self) -> None:
        """Interrupt attempts that ran into their time limit; report those that do not end even then."""
        now = time.monotonic()
        for attempt in [attempt for attempt in self._running if now >= attempt.deadline]:
            if attempt.interruption is None:
                attempt.interrupt(Interruption.TIMED_OUT)
            if not attempt.reported and (not attempt.can_be_stopped or now >= attempt.deadline + OBEDIENCE):
                self._tell(attempt, attempt.interrupted(), now)
                log.warning(
                    "attempt.overran",
                    task_id=attempt.task.id,
                    attempt=attempt.task.attempt,
                    type=attempt.task.type,
                    limit=attempt.limit,
                    note="its handler still runs and keeps its slot; it cannot be stopped",
                )

    async def release_all(self) -> None:
        """Interrupt what still runs and report it as released; a handler that does not end is left to the process."""
        self.stop()
        for attempt in self._running:
            attempt.interrupt(Interruption.RELEASED)
        has_ended = await self.wait_for_all(1.0)
        if not has_ended:
            for attempt in self._running:
                self._tell(attempt, attempt.interrupted(), time.monotonic())

    def close(self) -> bool:
        """Let idle threads go; whether every handler has ended, so that the process can end in the usual way."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        return not self._running


def _is_as(found: Context) -> bool:
    """Whether the context variables are still as they were *found*; quick where none was set."""
    try:
        return copy_context() == found
    except Exception:  # noqa: BLE001 – the values' own comparison
        return False
