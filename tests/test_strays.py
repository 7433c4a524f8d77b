"""Tasks that a worker claimed without learning of it are put back by itself."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from conftest import MakeTask, MakeWorker
from structlog.typing import EventDict
from support import claimed, record_log

from taskflow.database import Connection
from taskflow.model import Status, Succeeded
from taskflow.queries import find_history, find_task
from taskflow.registry import Registry
from taskflow.worker import strays as strays_module
from taskflow.worker.finisher import Finisher
from taskflow.worker.link import Link
from taskflow.worker.slots import Slots
from taskflow.worker.strays import Strays


class Bench:
    """A worker's parts, without the loops that drive them."""

    def __init__(self, dsn: str, worker: int) -> None:
        self.may_end = threading.Event()
        registry = Registry()
        registry.task("wait")(lambda: self.may_end.wait(30) and None)
        self.worker = worker
        self.finisher = Finisher(Link(dsn, "taskflow finish test", statement_timeout=30), worker, asyncio.Event())
        self.slots = Slots(10, registry, 300.0, self.finisher.add)
        self.strays = Strays(worker, self.slots, self.finisher)


@pytest.fixture
async def bench(dsn: str, make_worker: MakeWorker) -> AsyncIterator[Bench]:
    bench = Bench(dsn, await make_worker())
    yield bench
    bench.may_end.set()
    await bench.slots.wait_for_all(30)
    bench.slots.close()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[EventDict]:
    return record_log(monkeypatch, strays_module)


async def status(conn: Connection, id: int) -> Status:
    task = await find_task(conn, id)
    assert task is not None
    return task.status


async def test_a_task_that_runs_nowhere_is_put_back_at_the_second_look(
    conn: Connection, bench: Bench, make_task: MakeTask, lines: list[EventDict]
):
    task = await make_task(Status.RUNNING, worker=bench.worker, attempt=5, max_attempts=5)
    assert await bench.strays.put_back(conn) == 0  # the answer of its claim may be on its way
    assert await bench.strays.put_back(conn) == 1
    found = await find_task(conn, task)
    assert found is not None
    assert (found.status, found.attempt, found.max_attempts) == (Status.QUEUED, 5, 6)
    history = await find_history(conn, task)
    assert history is not None
    assert [(step.new_status, step.reason) for step in history] == [("running", None), ("queued", "release")]
    assert [(line["event"], line["task_id"], line["attempt"]) for line in lines] == [("claim.unanswered", task, 5)]
    assert await bench.strays.put_back(conn) == 0


async def test_what_runs_in_a_slot_is_no_stray(conn: Connection, bench: Bench, make_task: MakeTask):
    task = await make_task(Status.RUNNING, worker=bench.worker)
    bench.slots.start([claimed(task, type="wait")])
    for _ in range(3):
        assert await bench.strays.put_back(conn) == 0
    assert await status(conn, task) is Status.RUNNING


async def test_an_earlier_attempt_in_a_slot_does_not_hide_a_stray(conn: Connection, bench: Bench, make_task: MakeTask):
    """Such is a sync handler that overran its limit and cannot be stopped."""
    task = await make_task(Status.RUNNING, worker=bench.worker, attempt=2)
    bench.slots.start([claimed(task, type="wait", attempt=1)])
    assert [await bench.strays.put_back(conn) for _ in range(2)] == [0, 1]


async def test_what_has_ended_but_is_not_recorded_yet_is_no_stray(conn: Connection, bench: Bench, make_task: MakeTask):
    task = await make_task(Status.RUNNING, worker=bench.worker)
    bench.finisher.add(claimed(task), Succeeded())
    for _ in range(3):
        assert await bench.strays.put_back(conn) == 0
    assert await status(conn, task) is Status.RUNNING


async def test_a_claim_whose_answer_comes_between_two_looks_is_no_stray(
    conn: Connection, bench: Bench, make_task: MakeTask
):
    task = await make_task(Status.RUNNING, worker=bench.worker)
    assert await bench.strays.put_back(conn) == 0
    bench.slots.start([claimed(task, type="wait")])
    for _ in range(3):
        assert await bench.strays.put_back(conn) == 0


async def test_the_tasks_of_other_workers_are_left_alone(
    conn: Connection, bench: Bench, make_task: MakeTask, make_worker: MakeWorker
):
    await make_task(Status.RUNNING, worker=await make_worker())
    for _ in range(3):
        assert await bench.strays.put_back(conn) == 0
