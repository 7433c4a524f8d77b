"""Rescue: what workers that are gone were running is put back, once, and nothing of those that live."""

import asyncio
from datetime import timedelta

import pytest
from conftest import Connect, MakeTask, MakeWorker, ask, history, look

from taskflow.database import Connection
from taskflow.maintenance import BATCH, rescue_once
from taskflow.model import EVERYDAY, Status
from taskflow.queue.claim import claim
from taskflow.queue.rescue import find_gone, rescue

RUNNING = Status.RUNNING
LEASE = 15.0


async def test_a_silent_workers_tasks_are_put_back_and_due_at_once(
    conn: Connection, make_task: MakeTask, make_worker: MakeWorker
):
    gone = await make_worker(name="w7", silent_for=16)
    id = await make_task(RUNNING, worker=gone, attempt=2, max_attempts=3, scheduled_at="2001-01-01")
    assert await rescue_once(conn, LEASE) == 1
    row = await look(conn, id)
    assert (row["status"], row["attempt"], row["max_attempts"], row["worker_id"]) == ("queued", 2, 3, None)
    assert row["scheduled_at"] == row["updated_at"] > row["created_at"]
    error = "worker w7 (test, pid 1) was lost in attempt 2 of 3"
    assert row["error"] == error
    assert await history(conn, id) == [
        ("queued", "running", 2, gone, None),
        ("running", "queued", 2, gone, f"rescue: {error}"),
    ]
    assert await ask(conn, "SELECT outcome::text FROM taskflow.attempts WHERE task_id = %s", id) == "lost"


async def test_a_task_with_no_attempts_left_fails_and_names_the_worker(
    conn: Connection, make_task: MakeTask, make_worker: MakeWorker
):
    gone = await make_worker(name="100%s", silent_for=16)
    id = await make_task(RUNNING, worker=gone, attempt=3, max_attempts=3)
    again = await make_task(RUNNING, worker=gone, attempt=3, max_attempts=4)
    assert await rescue_once(conn, LEASE) == 2
    row = await look(conn, id)
    assert (row["status"], row["worker_id"]) == ("failed", gone)
    assert row["error"] == "worker 100%s (test, pid 1) was lost in attempt 3 of 3"
    assert row["finished_at"] == row["updated_at"]
    assert await history(conn, id) == [
        ("queued", "running", 3, gone, None),
        ("running", "failed", 3, gone, row["error"]),
    ]
    assert (await look(conn, again))["status"] == "queued"


async def test_a_worker_is_gone_when_it_was_silent_for_longer_than_the_lease(conn: Connection, make_worker: MakeWorker):
    async with conn.transaction():  # in which now() stands still
        gone = await make_worker(name="gone")
        lives = await make_worker(name="lives")
        limit = await ask(conn, "SELECT now() - interval '15 seconds'")
        beat = "UPDATE taskflow.workers SET heartbeat_at = %s WHERE id = %s"
        await conn.execute(beat, [limit - timedelta(microseconds=1), gone])
        await conn.execute(beat, [limit, lives])
        assert await find_gone(conn, LEASE) == {gone: "gone"}
        assert await ask(conn, "SELECT stopped_at = now() FROM taskflow.workers WHERE id = %s", gone)
        assert await ask(conn, "SELECT stopped_at IS NULL FROM taskflow.workers WHERE id = %s", lives)


async def test_a_worker_that_was_taken_for_gone_claims_nothing_more(
    conn: Connection, make_task: MakeTask, make_worker: MakeWorker
):
    gone = await make_worker(silent_for=16)
    await make_task()
    assert len(await claim(conn, gone, EVERYDAY, 1)) == 1  # slow, but nobody knows yet
    assert await rescue_once(conn, LEASE) == 1
    await conn.execute("UPDATE taskflow.workers SET heartbeat_at = now() WHERE id = %s", [gone])
    assert await claim(conn, gone, EVERYDAY, 1) == []


async def test_live_workers_are_left_alone(conn: Connection, make_task: MakeTask, make_worker: MakeWorker):
    gone, lives = await make_worker(silent_for=16), await make_worker(silent_for=14)
    await make_task(RUNNING, worker=gone)
    id = await make_task(RUNNING, worker=lives)
    before = await look(conn, id)
    assert await rescue_once(conn, LEASE) == 1
    assert await look(conn, id) == before
    assert await ask(conn, "SELECT stopped_at FROM taskflow.workers WHERE id = %s", lives) is None


@pytest.mark.parametrize("status", [status for status in Status if status is not RUNNING])
async def test_only_running_tasks_of_a_worker_that_is_gone_are_put_back(
    conn: Connection, make_task: MakeTask, make_worker: MakeWorker, status: Status
):
    gone = await make_worker(silent_for=16)
    id = await make_task(status, worker=None if status is Status.QUEUED else gone)
    before = await look(conn, id)
    assert await rescue_once(conn, LEASE) == 0
    assert await look(conn, id) == before


async def test_what_a_stopped_worker_left_behind_is_put_back_within_the_hour(
    conn: Connection, make_task: MakeTask, make_worker: MakeWorker
):
    stopped, long_stopped = await make_worker(stopped=True), await make_worker(stopped=True)
    await conn.execute(
        "UPDATE taskflow.workers SET stopped_at = now() - interval '1 hour' WHERE id = %s", [long_stopped]
    )
    left, forgotten = [await make_task(RUNNING, worker=worker) for worker in (stopped, long_stopped)]
    since = await ask(conn, "SELECT stopped_at FROM taskflow.workers WHERE id = %s", stopped)
    assert await rescue_once(conn, LEASE) == 1
    assert [(await look(conn, id))["status"] for id in (left, forgotten)] == ["queued", "running"]
    assert await ask(conn, "SELECT stopped_at FROM taskflow.workers WHERE id = %s", stopped) == since
    assert await find_gone(conn, LEASE) == {}


async def test_a_claim_that_was_under_way_when_its_worker_was_taken_for_gone_is_put_back_next_time(
    conn: Connection, connections: Connect, make_task: MakeTask, make_worker: MakeWorker
):
    gone = await make_worker(silent_for=16)
    id = await make_task()
    (its_own,) = await connections(1)
    async with its_own.transaction():
        assert await claim(its_own, gone, EVERYDAY, 1)
        assert await rescue_once(conn, LEASE) == 0
    assert (await look(conn, id))["status"] == "running"
    assert await rescue_once(conn, LEASE) == 1
    assert (await look(conn, id))["status"] == "queued"


async def test_a_task_that_is_just_being_finished_is_passed_over(
    conn: Connection, connections: Connect, make_task: MakeTask, make_worker: MakeWorker
):
    gone = await make_worker(silent_for=16)
    ids = [await make_task(RUNNING, worker=gone) for _ in range(2)]
    (its_own,) = await connections(1)
    async with its_own.transaction():
        await its_own.execute("SELECT FROM taskflow.tasks WHERE id = %s FOR UPDATE", [ids[0]])
        assert await rescue_once(conn, LEASE) == 1
    assert await rescue_once(conn, LEASE) == 1


async def test_ten_rescues_at_once_put_each_task_back_once(
    conn: Connection, connections: Connect, make_worker: MakeWorker
):
    gone = [await make_worker(silent_for=16) for _ in range(3)]
    for worker in gone:
        await conn.execute(
            """
            INSERT INTO taskflow.tasks (name, type, status, worker_id, started_at, attempt, max_attempts)
            SELECT 'n', 't', 'running', %s, now(), 1, 1 + n %% 2 FROM generate_series(1, 100) AS n
            """,
            [worker],
        )
    counts = await asyncio.gather(*(rescue_once(each, LEASE) for each in await connections(10)))
    while left := await rescue_once(conn, LEASE):  # what was passed over as locked
        counts.append(left)
    assert sum(counts) == 300
    cursor = await conn.execute("SELECT status::text, count(*) FROM taskflow.tasks GROUP BY status")
    assert dict(await cursor.fetchall()) == {"queued": 150, "failed": 150}
    cursor = await conn.execute("SELECT count(*), count(DISTINCT task_id) FROM taskflow.attempts")
    assert await cursor.fetchone() == (150, 150)
    cursor = await conn.execute("SELECT count(*) FROM taskflow.task_history GROUP BY task_id")
    assert {count for (count,) in await cursor.fetchall()} == {2}


async def test_a_rescue_takes_a_batch_at_a_time_until_nothing_is_left(conn: Connection, make_worker: MakeWorker):
    gone = await make_worker(silent_for=16)
    await conn.execute(
        """
        INSERT INTO taskflow.tasks (name, type, status, worker_id, started_at, attempt)
        SELECT 'n', 't', 'running', %s, now(), 1 FROM generate_series(1, %s::integer)
        """,
        [gone, 2 * BATCH + 3],
    )
    assert await rescue(conn, gone, limit=2) == 2
    assert await rescue_once(conn, LEASE) == 2 * BATCH + 1
