"""Slots run attempts within their time limits, report each once, and are free again only when a handler has ended."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar

import pytest
from support import claimed, eventually, record_log

from taskflow.logs import current_task
from taskflow.model import ClaimedTask, Failed, Outcome, Released, Retry, Succeeded
from taskflow.registry import Registry
from taskflow.worker import slots as slots_module
from taskflow.worker.slots import OBEDIENCE, SHARE, Slots

LIMIT = 15.0
"""The worker's own time limit in these tests, on a clock that stands still unless a test moves it."""


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(slots_module, "time", clock)
    return clock


class Ground:
    """Slots whose reports are kept, and handlers that run until they are told to end."""

    def __init__(self, size: int = 10) -> None:
        self.registry = Registry()
        self.reports: list[tuple[int, Outcome]] = []
        self.may_end = threading.Event()
        self.began: list[str] = []
        self.slots = Slots(size, self.registry, LIMIT, self._report)

        async def in_loop() -> None:
            self.began.append("in_loop")
            await eventually(self.may_end.is_set)

        async def stubborn() -> None:
            self.began.append("stubborn")
            while not self.may_end.is_set():
                try:
                    await asyncio.sleep(0.005)
                except asyncio.CancelledError:
                    continue

        def in_thread() -> None:
            self.began.append("in_thread")
            self.may_end.wait(60)

        async def cleans_up_badly() -> None:
            self.began.append("cleans_up_badly")
            try:
                await asyncio.sleep(600)
            finally:
                raise ValueError("the cleanup failed as well")

        for handler in (in_loop, stubborn, in_thread, cleans_up_badly):
            self.registry.task(handler.__name__)(handler)
        self.registry.task("patient", timeout=60)(in_loop)
        self.registry.task("hasty", timeout=2)(in_loop)

    def _report(self, task: ClaimedTask, outcome: Outcome) -> None:
        self.reports.append((task.id, outcome))

    async def start(self, *types: str, attempt: int = 1) -> None:
        """Start tasks of these types with the ids 1, 2, …; returns once their handlers have begun."""
        begun = len(self.began)
        self.slots.start([claimed(id, type=type, attempt=attempt) for id, type in enumerate(types, 1)])
        await eventually(lambda: len(self.began) == begun + len(types))

    @property
    def outcomes(self) -> dict[int, Outcome]:
        """The reports, none of which came twice."""
        assert len(dict(self.reports)) == len(self.reports), self.reports
        return dict(self.reports)


@pytest.fixture
async def ground(clock: Clock) -> AsyncIterator[Ground]:
    ground = Ground()
    yield ground
    ground.may_end.set()
    assert await ground.slots.wait_for_all(30)
    assert ground.slots.close()


async def test_each_attempt_is_reported_once_and_frees_its_slot(ground: Ground):
    await ground.start("in_loop", "in_thread")
    assert (ground.slots.running, ground.slots.free) == (2, 8)
    assert ground.reports == []
    ground.may_end.set()
    assert await ground.slots.wait_for_all(30)
    assert ground.outcomes == {1: Succeeded(), 2: Succeeded()}
    assert (ground.slots.running, ground.slots.free) == (0, 10)


async def test_an_unknown_type_takes_no_slot_for_long(ground: Ground):
    ground.slots.start([claimed(1, type="never heard of")])
    assert await ground.slots.wait_for_all(30)
    assert isinstance(ground.outcomes[1], Failed)


async def test_a_slot_can_be_waited_for(clock: Clock):
    ground = Ground(size=1)
    await ground.start("in_thread")
    waiting = asyncio.create_task(ground.slots.wait_for_free())
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    ground.may_end.set()
    await asyncio.wait_for(waiting, 30)
    assert ground.slots.free == 1
    assert ground.slots.close()


async def test_waiting_for_all_gives_up_after_its_seconds(ground: Ground):
    await ground.start("in_loop")
    assert not await ground.slots.wait_for_all(0.01)


async def test_an_async_handler_that_reaches_its_limit_is_stopped_and_will_be_retried(ground: Ground, clock: Clock):
    await ground.start("in_loop")
    clock.now += LIMIT - 0.001
    ground.slots.sweep()
    assert not await ground.slots.wait_for_all(0.01)
    clock.now += 0.001
    ground.slots.sweep()
    assert await ground.slots.wait_for_all(30)
    outcome = ground.outcomes[1]
    assert isinstance(outcome, Retry)
    assert outcome.error == "TimeoutError: the attempt took longer than its 15 s"


async def test_the_last_attempt_that_reaches_its_limit_has_failed(ground: Ground, clock: Clock):
    await ground.start("in_loop", "in_thread", attempt=5)
    clock.now += LIMIT
    ground.slots.sweep()
    await eventually(lambda: len(ground.reports) == 2)
    error = Failed("TimeoutError: the attempt took longer than its 15 s")
    assert ground.outcomes == {1: error, 2: error}


async def test_the_limit_of_the_type_wins_over_the_workers(ground: Ground, clock: Clock):
    await ground.start("hasty", "in_loop", "patient")
    limits = {1: 2, 2: 15, 3: 60}
    for id, limit in limits.items():
        clock.now = Clock.now + limit
        ground.slots.sweep()
        await eventually(lambda expected=id: len(ground.reports) == expected)
        outcome = ground.outcomes[id]
        assert isinstance(outcome, Retry)
        assert outcome.error == f"TimeoutError: the attempt took longer than its {limit} s"


async def test_a_sync_handler_that_overruns_is_reported_once_and_keeps_its_slot_until_it_ends(
    ground: Ground, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    lines = record_log(monkeypatch, slots_module)
    await ground.start("in_thread")
    clock.now += LIMIT
    for _ in range(3):
        ground.slots.sweep()
    assert isinstance(ground.outcomes[1], Retry)
    assert [(line["event"], line["task_id"], line["attempt"], line["type"]) for line in lines] == [
        ("attempt.overran", 1, 1, "in_thread")
    ]
    assert ground.slots.running == 1
    assert not ground.slots.close()  # the process could not end in the usual way

    ground.may_end.set()
    assert await ground.slots.wait_for_all(30)
    assert isinstance(ground.outcomes[1], Retry)  # and no late success beside it
    assert ground.slots.free == 10


async def test_an_async_handler_that_swallows_its_cancellation_is_reported_after_a_while_and_keeps_its_slot(
    ground: Ground, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    lines = record_log(monkeypatch, slots_module)
    await ground.start("stubborn")
    clock.now += LIMIT
    ground.slots.sweep()
    clock.now += OBEDIENCE - 0.001
    ground.slots.sweep()
    assert ground.reports == []
    clock.now += 0.001
    for _ in range(3):
        ground.slots.sweep()
    assert isinstance(ground.outcomes[1], Retry)
    assert [line["event"] for line in lines] == ["attempt.overran"]
    assert ground.slots.running == 1


async def test_a_release_gives_back_what_still_runs(ground: Ground):
    await ground.start("in_loop", "cleans_up_badly")
    await ground.slots.release_all()
    assert ground.outcomes == {1: Released("its worker stops"), 2: Released("its worker stops")}
    assert ground.slots.close()


async def test_a_release_does_not_wait_for_a_handler_that_does_not_end(ground: Ground):
    await ground.start("in_thread", "stubborn", "in_loop")
    await ground.slots.release_all()
    assert ground.outcomes == dict.fromkeys((1, 2, 3), Released("its worker stops"))
    assert ground.slots.running == 2
    assert not ground.slots.close()

    ground.may_end.set()
    assert await ground.slots.wait_for_all(30)
    assert len(ground.outcomes) == 3  # what they did in the end is not reported


async def test_a_sync_handler_that_ends_while_it_is_released_has_its_own_outcome(ground: Ground):
    await ground.start("in_thread")
    released = asyncio.create_task(ground.slots.release_all())
    await asyncio.sleep(0)
    ground.may_end.set()
    await released
    assert ground.outcomes == {1: Succeeded()}


async def test_a_release_after_the_limit_was_reported_reports_nothing_more(ground: Ground, clock: Clock):
    await ground.start("in_thread")
    clock.now += LIMIT
    ground.slots.sweep()
    await ground.slots.release_all()
    assert isinstance(ground.outcomes[1], Retry)


async def test_more_sync_handlers_than_the_loops_own_threads_run_at_once(clock: Clock):
    ground = Ground(size=64)
    await ground.start(*["in_thread"] * 64)
    assert ground.slots.free == 0
    ground.may_end.set()
    assert await ground.slots.wait_for_all(30)
    assert len(ground.outcomes) == 64
    assert ground.slots.close()


async def test_attempts_that_follow_each_other_in_a_lane_do_not_see_each_others_context(ground: Ground):
    seen: list[tuple[str, int | None]] = []
    variable: ContextVar[str] = ContextVar("variable", default="unset")

    @ground.registry.task("leaves_a_trace")
    async def leaves_a_trace() -> None:
        task = current_task.get()
        seen.append((variable.get(), task and task.id))
        variable.set("set by another attempt")

    ground.slots.start([claimed(id, type="leaves_a_trace") for id in range(1, 6)])
    assert await ground.slots.wait_for_all(30)
    assert seen == [("unset", id) for id in range(1, 6)]


async def test_a_handler_that_waits_holds_up_none_of_its_batch(ground: Ground):
    @ground.registry.task("instant")
    async def instant() -> None: ...

    types = ["instant", "in_loop", "instant", "in_loop", "in_thread", "instant"]
    ground.slots.start([claimed(id, type=type) for id, type in enumerate(types, 1)])
    await eventually(lambda: len(ground.reports) == 3)
    assert set(ground.outcomes) == {1, 3, 6}
    await eventually(lambda: len(ground.began) == 3)
    ground.may_end.set()
    assert await ground.slots.wait_for_all(30)
    assert len(ground.outcomes) == 6


async def test_an_answer_is_read_while_handlers_that_never_wait_are_still_running(ground: Ground, clock: Clock):
    postgres, worker = socket.socketpair()
    ran_when_read: list[int] = []

    @ground.registry.task("busy")
    async def busy() -> None:
        if not ground.reports:
            postgres.send(b"!")
        clock.now += 2 * SHARE

    def read() -> None:
        asyncio.get_running_loop().remove_reader(worker)
        ran_when_read.append(len(ground.reports))

    with postgres, worker:
        asyncio.get_running_loop().add_reader(worker, read)
        ground.slots.start([claimed(id, type="busy") for id in range(1, 21)])
        assert await ground.slots.wait_for_all(30)
    assert 1 <= ran_when_read[0] <= 3
    assert len(ground.outcomes) == 20


async def test_handlers_that_never_wait_run_many_in_a_row(ground: Ground, clock: Clock):
    """Each turn of the event loop between them costs several times what they do."""
    lanes: list[object] = []

    @ground.registry.task("instant")
    async def instant() -> None:
        lanes.append(asyncio.current_task())
        clock.now += SHARE / 100

    ground.slots.start([claimed(id, type="instant") for id in range(1, 1001)])
    assert await ground.slots.wait_for_all(30)
    assert len(lanes) == 1000
    assert 9 <= len(set(lanes)) <= 11


async def test_a_handler_that_cancels_itself_or_waits_leaves_its_lane_to_nobody(ground: Ground):
    lanes: list[asyncio.Task[object] | None] = []

    @ground.registry.task("cancels_itself")
    async def cancels_itself() -> None:
        lane = asyncio.current_task()
        assert lane is not None
        assert not lane.cancelling()
        lane.cancel()
        lanes.append(lane)

    @ground.registry.task("waits")
    async def waits() -> None:
        await asyncio.sleep(0)
        lanes.append(asyncio.current_task())

    ground.slots.start([claimed(id, type=type) for id, type in enumerate(["cancels_itself", "waits"] * 3, 1)])
    assert await ground.slots.wait_for_all(30)
    assert ground.outcomes == dict.fromkeys(range(1, 7), Succeeded())
    assert len(set(lanes)) == 6


async def test_what_was_claimed_but_has_not_begun_is_released_too(ground: Ground):
    ground.slots.start([claimed(id, type="in_loop") for id in range(1, 4)])
    await ground.slots.release_all()
    assert ground.began == []
    assert ground.outcomes == dict.fromkeys((1, 2, 3), Released("its worker stops"))
