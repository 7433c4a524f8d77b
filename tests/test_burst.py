"""More tasks than slots are claimed while handlers do not wait; what has no slot after all is given back."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextvars import ContextVar
from pathlib import Path

import pytest
from commands import until
from support import Workers, claimed, eventually

from taskflow.model import Cancelled, ClaimedTask, Outcome, Released, Succeeded
from taskflow.registry import Registry
from taskflow.worker import slots as slots_module
from taskflow.worker.burst import HELD, LATE, MOST, STREAK, TIMES, Burst
from taskflow.worker.claimer import SMALLEST_BATCH
from taskflow.worker.slots import Slots

SIZE = 10
GIVEN_BACK = Released("no slot was free for it")


MARK: ContextVar[int] = ContextVar("mark", default=0)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Ground:
    """Slots after a streak of handlers that did not wait."""

    def __init__(self, clock: Clock) -> None:
        self.may_end = asyncio.Event()
        self.outcomes: dict[int, Outcome] = {}
        self.running = 0
        registry = Registry()

        @registry.task("instant")
        async def instant() -> None: ...

        @registry.task("slow")
        async def slow() -> None:
            clock.now += LATE * 0.4

        @registry.task("marks")
        async def marks() -> None:
            clock.now += LATE * 0.4
            MARK.set(MARK.get() + 1)

        @registry.task("pause")
        async def pause() -> None:
            clock.now += 10 * LATE

        @registry.task("wait")
        async def wait() -> None:
            self.running += 1
            await self.may_end.wait()
            self.running -= 1

        self.slots = Slots(SIZE, registry, 300.0, self._report)

    def _report(self, task: ClaimedTask, outcome: Outcome) -> None:
        assert task.id not in self.outcomes
        self.outcomes[task.id] = outcome

    def ids(self, outcome: Outcome) -> list[int]:
        return sorted(id for id, its in self.outcomes.items() if its == outcome)

    def start(self, *types: str) -> None:
        """Start tasks of these types with the ids 1, 2, …"""
        self.slots.start([claimed(id, type=type) for id, type in enumerate(types, 1)])


@pytest.fixture
async def ground(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ground]:
    clock = Clock()
    monkeypatch.setattr(slots_module, "time", clock)
    ground = Ground(clock)
    ground.start(*["instant"] * STREAK)
    assert await ground.slots.wait_for_all(30)
    ground.outcomes.clear()
    yield ground
    ground.may_end.set()
    assert await ground.slots.wait_for_all(30)
    assert ground.slots.close()


def test_a_burst_takes_a_streak_and_handlers_that_need_little_time():
    burst = Burst(SIZE)
    burst.ran(STREAK - 1, 0.0)
    assert burst.size == SIZE
    burst.ran(1, 0.0)
    assert burst.size == TIMES * SIZE
    burst.ran(1, HELD / 50)
    assert burst.size == 50
    burst.ran(1, 2 * HELD)
    assert burst.size == SIZE
    burst.ran(1, 0.0)
    burst.waited()
    assert burst.size == SIZE
    burst.ran(STREAK - 1, 0.0)
    assert burst.size == SIZE


@pytest.mark.parametrize(("slots", "most"), [(1, TIMES), (MOST // 2, MOST), (2 * MOST, 2 * MOST)])
def test_a_burst_has_its_bounds(slots: int, most: int):
    burst = Burst(slots)
    burst.ran(STREAK, 0.0)
    assert burst.size == most


async def test_more_tasks_than_slots_are_claimed_until_a_handler_waits(ground: Ground):
    assert (ground.slots.free, ground.slots.size) == (TIMES * SIZE, SIZE)
    ground.start("wait")
    await eventually(lambda: ground.running == 1)
    assert ground.slots.free == SIZE - 1


async def test_a_burst_whose_handlers_wait_fills_the_slots_and_gives_back_the_rest(ground: Ground):
    ground.start(*["wait"] * 100)
    await eventually(lambda: len(ground.outcomes) == 90)
    assert ground.ids(GIVEN_BACK) == list(range(11, 101))
    assert (ground.running, ground.slots.running, ground.slots.free) == (10, 10, 0)
    ground.slots.start([claimed(id, type="wait") for id in range(101, 151)])  # a claim that was on its way
    await eventually(lambda: len(ground.outcomes) == 140)
    assert (ground.running, ground.slots.running) == (10, 10)
    ground.may_end.set()
    await ground.slots.wait_for_all(30)
    assert ground.ids(Succeeded()) == list(range(1, 11))


async def test_a_burst_in_which_some_handlers_wait_goes_on_in_the_other_slots(ground: Ground):
    ground.start(*["wait", "instant", "instant"] * (SIZE - 1))
    await eventually(lambda: len(ground.outcomes) == 2 * (SIZE - 1))
    assert set(ground.outcomes.values()) == {Succeeded()}
    assert ground.running == SIZE - 1


async def test_a_burst_whose_handlers_take_long_gives_back_what_is_beyond_the_slots(ground: Ground):
    ground.start(*["slow"] * 100)
    assert await ground.slots.wait_for_all(30)
    ran = 3 + 3 + SIZE  # three began before it was late, and before it was late again
    assert ground.ids(Succeeded()) == list(range(1, ran + 1))
    assert ground.ids(GIVEN_BACK) == list(range(ran + 1, 101))
    assert ground.slots.free == SIZE


async def test_a_burst_goes_on_after_a_single_pause(ground: Ground):
    ground.start(*["instant"] * 40, "pause", *["instant"] * 59)
    assert await ground.slots.wait_for_all(30)
    assert ground.ids(Succeeded()) == list(range(1, 101))


def test_an_idle_worker_runs_what_another_claimed_for_slots_that_are_taken(workers: Workers, tmp_path: Path):
    db, gate = workers.database, tmp_path / "gate"
    (workers.directory / "instant.py").write_text(
        "from taskflow import task\nfrom tasks_of_the_test import *\n\n\n@task('instant')\nasync def instant(): ...\n"
    )
    db.enqueue_numbered("instant", 2 * STREAK)
    waiting = [db.enqueue("wait_for_file", {"file": str(gate)}) for _ in range(40)]
    narrow = workers.start_ready("--app", "instant", "--concurrency", "4")
    until(lambda: db.one("SELECT count(*) FROM ledger WHERE event = 'began'") == 4)
    wide = workers.start_ready("--app", "instant", "--concurrency", "40")
    until(lambda: db.one("SELECT count(DISTINCT task_id) FROM ledger WHERE event = 'began'") == len(waiting))
    gate.touch()
    db.await_all("succeeded")
    began = dict(db.rows("SELECT pid, count(*) FROM ledger WHERE event = 'began' GROUP BY pid"))
    assert began == {narrow.process.pid: 4, wide.process.pid: 36}
    assert db.one("SELECT bool_and(max_attempts - attempt = 4) FROM taskflow.tasks")  # a release does not count


async def test_handlers_that_leave_their_context_behind_count_with_the_time_they_take(ground: Ground):
    ground.start(*["marks"] * 3)
    assert await ground.slots.wait_for_all(30)
    assert ground.ids(Succeeded()) == [1, 2, 3]
    assert ground.slots.free == SIZE


async def test_what_has_not_begun_when_it_is_cancelled_never_begins(ground: Ground):
    ground.start(*["wait"] * 5)
    assert ground.slots.cancel({(2, 1), (4, 1), (4, 2), (9, 1)}) == 2
    await eventually(lambda: ground.running == 3)
    assert ground.ids(Cancelled()) == [2, 4]
    ground.may_end.set()
    assert await ground.slots.wait_for_all(30)
    assert ground.ids(Succeeded()) == [1, 3, 5]


async def test_what_has_not_begun_when_the_worker_stops_is_given_back_at_once(ground: Ground):
    ground.start("wait")
    await eventually(lambda: ground.running == 1)
    ground.slots.start([claimed(id, type="instant") for id in range(2, 100)])
    ground.slots.stop()
    ground.slots.start([claimed(id, type="instant") for id in range(100, 150)])  # a claim that was on its way
    assert ground.ids(Released("its worker stops")) == list(range(2, 150))
    ground.may_end.set()
    assert await ground.slots.wait_for_all(30)
    assert ground.ids(Succeeded()) == [1]


def test_a_worker_whose_handlers_block_begins_hardly_any_once_it_is_told_to_stop(workers: Workers):
    """It learns of that between two of them."""
    db = workers.database
    (workers.directory / "block.py").write_text(
        "import time\nfrom taskflow import task\nfrom tasks_of_the_test import enter\n\n\n"
        "@task('block')\nasync def block():\n    enter('began')\n    time.sleep(0.5)\n"
    )
    db.enqueue_numbered("block", 60)
    worker = workers.start_ready("--app", "block", "--concurrency", "100")
    until(lambda: db.one("SELECT count(*) FROM ledger") >= 2)
    assert worker.end(signal.SIGTERM) == 0
    began = db.one("SELECT count(*) FROM ledger")
    assert began < 30
    assert db.counts() == {"succeeded": began, "queued": 60 - began}
    assert db.one("SELECT bool_and(max_attempts - attempt = 5) FROM taskflow.tasks WHERE status = 'queued'")


def test_of_large_payloads_few_are_claimed_at_once(workers: Workers):
    """Postgres locks them until it has sent all, and a worker whose handlers block reads but now and then."""
    db = workers.database
    (workers.directory / "instant.py").write_text(
        "from taskflow import task\n\n\n@task('instant')\nasync def instant(): ...\n"
    )
    db.enqueue_numbered("instant", 2 * STREAK)
    db.conn.execute(
        "INSERT INTO taskflow.tasks (name, type, payload) "
        "SELECT 'large', 'instant', jsonb_build_object('text', repeat('x', 4000)) FROM generate_series(1, 3000)"
    )
    workers.start_ready("--app", "instant", "--concurrency", "100")
    db.await_all("succeeded")
    sizes = [
        size for (size,) in db.rows("SELECT count(*) FROM taskflow.tasks WHERE name = 'large' GROUP BY started_at")
    ]
    assert len([size for size in sizes if size > SMALLEST_BATCH]) <= 2  # those that came after small ones


def test_a_worker_that_is_stopped_in_a_burst_leaves_nothing_running_and_loses_no_attempt(workers: Workers):
    db = workers.database
    (workers.directory / "instant.py").write_text(
        "from taskflow import task\n\n\n@task('instant')\nasync def instant(): ...\n"
    )
    db.enqueue_numbered("instant", 50_000)
    worker = workers.start_ready("--app", "instant", "--concurrency", "20")
    until(lambda: db.one("SELECT EXISTS (SELECT FROM taskflow.tasks WHERE id > 3000 AND status = 'succeeded')"))
    assert worker.end(signal.SIGTERM) == 0
    assert db.one(
        "SELECT bool_and(max_attempts - attempt = CASE status WHEN 'queued' THEN 5 ELSE 4 END) FROM taskflow.tasks"
    )


INSTANT_APP = """
import atexit, os
from pathlib import Path
from taskflow import task
from taskflow.logs import current_task

ran = []
atexit.register(lambda: Path(f"ran.{os.getpid()}").write_text(" ".join(map(str, ran))))

@task("instant")
async def instant(payload: dict):
    ran.append(current_task.get().id)
"""


def test_forty_thousand_tasks_in_the_bursts_of_four_workers_run_once_each(workers: Workers):
    db = workers.database
    (workers.directory / "instant.py").write_text(INSTANT_APP)
    names = ["1", "2", "3", "4"]
    started = [workers.start_ready("--app", "instant", "--id", name, "--concurrency", "100") for name in names]
    for _ in range(4):
        db.enqueue_numbered("instant", 10_000)
    db.await_all("succeeded", 90)
    assert [worker.end(signal.SIGTERM) for worker in started] == [0] * len(names)
    ran = [list(map(int, file.read_text().split())) for file in workers.directory.glob("ran.*")]
    assert sorted(id for ids in ran for id in ids) == [
        id for (id,) in db.rows("SELECT id FROM taskflow.tasks ORDER BY 1")
    ]
    assert all(ran)
    assert db.one("SELECT max(count) FROM (SELECT count(*) FROM taskflow.tasks GROUP BY started_at, worker_id)") > 100
    assert db.rows("SELECT DISTINCT outcome::text FROM taskflow.attempts") in ([], [("released",)])
