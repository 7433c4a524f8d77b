"""What is read: a task as it stands, and its history."""

from datetime import timedelta

import pytest
from conftest import MakeTask, MakeWorker, look

from taskflow.database import Connection
from taskflow.model import EVERYDAY, Priority, Status
from taskflow.queries import Transition, find_history, find_task
from taskflow.queue.claim import claim
from taskflow.queue.finish import fail, retry, succeed_with_results
from taskflow.queue.recover import retry_by_hand


async def test_a_task_is_found_as_it_stands(conn: Connection, make_task: MakeTask, make_worker: MakeWorker):
    worker = await make_worker(name="w1")
    id = await make_task(name="ä", type="run_query", priority="low", payload='{"sql": "SELECT 1"}', max_attempts=3)
    await claim(conn, worker, EVERYDAY, 1)
    assert await succeed_with_results(conn, worker, [id], [1], ['{"rows": [1, 2]}']) == {id}
    task = await find_task(conn, id)
    assert task is not None
    assert (task.id, task.name, task.type, task.priority) == (id, "ä", "run_query", Priority.LOW)
    assert (task.status, task.attempt, task.max_attempts, task.worker) == (Status.SUCCEEDED, 1, 3, "w1")
    assert bytes(task.payload) == b'{"sql": "SELECT 1"}'
    assert task.result is not None
    assert bytes(task.result) == b'{"rows": [1, 2]}'
    row = await look(conn, id)
    for time in ("created_at", "updated_at", "scheduled_at", "started_at", "finished_at"):
        assert getattr(task, time) == row[time]
        assert getattr(task, time).tzinfo is not None


async def test_a_queued_task_has_no_worker_and_neither_begin_nor_end(conn: Connection, make_task: MakeTask):
    task = await find_task(conn, await make_task())
    assert task is not None
    assert (task.worker, task.started_at, task.finished_at, task.result, task.error) == (None,) * 5


@pytest.mark.parametrize("status", Status)
async def test_a_task_of_any_status_is_found_also_if_its_workers_row_is_gone(
    conn: Connection, make_task: MakeTask, status: Status
):
    id = await make_task(status)
    await conn.execute("DELETE FROM taskflow.workers")
    task = await find_task(conn, id)
    assert task is not None
    assert (task.status, task.worker) == (status, None)
    told = await find_history(conn, id)
    assert told is not None
    assert [step.new_status for step in told][-1:] == ([] if status is Status.QUEUED else [status])


async def test_an_unknown_id_has_neither_task_nor_history(conn: Connection, make_task: MakeTask):
    id = await make_task()
    for unknown in (id + 1, 0, -1, 2**63 - 1):
        assert await find_task(conn, unknown) is None
        assert await find_history(conn, unknown) is None
    assert await find_history(conn, id) == []


async def test_the_history_names_the_worker_of_each_attempt(
    conn: Connection, make_task: MakeTask, make_worker: MakeWorker
):
    one, two = await make_worker(name="one"), await make_worker(name="two")
    id, another = await make_task(), await make_task(priority="low")
    await claim(conn, one, EVERYDAY, 1)
    await retry(conn, one, [id], [1], ["slow\nTraceback"], [timedelta(0)])
    await claim(conn, two, EVERYDAY, 1)
    await fail(conn, two, [id], [2], ["broken\nTraceback"])
    await retry_by_hand(conn, [id])
    told = await find_history(conn, id)
    assert told is not None
    queued, running, failed = Status.QUEUED, Status.RUNNING, Status.FAILED
    assert [(s.old_status, s.new_status, s.attempt, s.worker, s.reason) for s in told] == [
        (queued, running, 1, "one", None),
        (running, queued, 1, "one", "retry: slow"),
        (queued, running, 2, "two", None),
        (running, failed, 2, "two", "broken"),
        (failed, queued, 2, "two", "retry by hand"),
    ]
    assert [step.created_at for step in told] == sorted(step.created_at for step in told)
    assert {type(step) for step in told} == {Transition}
    assert {step.task_id for step in told} == {id}
    assert await find_history(conn, another) == []
