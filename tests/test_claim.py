"""Claim: which tasks, in which order, by whom, and each only once."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from conftest import Connect, MakeTask, MakeWorker, ask, look

from taskflow.database import Connection
from taskflow.model import EVERYDAY, Priority, Status
from taskflow.queue.claim import START, Mark, claim, seconds_until_due

HIGH, NORMAL, LOW, TEST = Priority
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


async def claimed(conn: Connection, worker: int, *priorities: Priority, limit: int = 100) -> list[int]:
    return [task.id for task in await claim(conn, worker, priorities or EVERYDAY, limit)]


async def fill(conn: Connection, count: int) -> None:
    await conn.execute(
        "INSERT INTO taskflow.tasks (name, type) SELECT 'n', 't' FROM generate_series(1, %s::integer)", [count]
    )


@pytest.mark.parametrize("limit", [1, 2, 7])
async def test_tasks_are_claimed_by_priority_then_schedule_then_id(
    conn: Connection, make_task: MakeTask, worker: int, limit: int
):
    low = await make_task(priority="low", scheduled_at=LONG_AGO)
    normal = await make_task(scheduled_at=LONG_AGO + timedelta(days=9))
    high_later = await make_task(priority="high", scheduled_at=LONG_AGO + timedelta(days=10))
    high = [await make_task(priority="high", scheduled_at=LONG_AGO + timedelta(days=8)) for _ in range(2)]
    normal_earlier = await make_task(scheduled_at=LONG_AGO + timedelta(microseconds=1))
    last = await make_task(priority="low")
    order: list[int] = []
    while batch := await claimed(conn, worker, limit=limit):
        order += batch
    assert order == [*high, high_later, normal_earlier, normal, low, last]


async def test_a_claim_says_what_the_attempt_needs(conn: Connection, make_task: MakeTask, worker: int):
    id = await make_task(
        name="a name", type="run_query", priority="high", payload='{"sql": "SELECT 1"}', attempt=2, max_attempts=7
    )
    (task,) = await claim(conn, worker, [HIGH], 1)
    assert (task.id, task.attempt, task.max_attempts, task.name, task.type) == (id, 3, 7, "a name", "run_query")
    assert (task.payload, task.priority) == ('{"sql": "SELECT 1"}', HIGH)
    row = await look(conn, id)
    assert (row["status"], row["attempt"], row["worker_id"]) == ("running", 3, worker)
    assert row["started_at"] == row["updated_at"] > row["created_at"]


async def test_a_task_is_claimed_from_its_scheduled_time_on(conn: Connection, make_task: MakeTask, worker: int):
    async with conn.transaction():  # in which now() stands still
        now = await ask(conn, "SELECT now()")
        await make_task(scheduled_at=now + timedelta(microseconds=1))
        due = await make_task(scheduled_at=now)
        assert await claimed(conn, worker) == [due]


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.QUEUED])
async def test_only_queued_tasks_are_claimed(conn: Connection, make_task: MakeTask, worker: int, status: Status):
    await make_task(status)
    assert await claimed(conn, worker) == []


async def test_only_the_named_priorities_are_claimed_and_test_only_if_named(
    conn: Connection, make_task: MakeTask, worker: int
):
    ids = {priority: await make_task(priority=priority.value) for priority in Priority}
    assert await claimed(conn, worker, LOW) == [ids[LOW]]
    assert await claimed(conn, worker) == [ids[HIGH], ids[NORMAL]]
    assert await claimed(conn, worker, NORMAL, TEST) == [ids[TEST]]


async def test_the_worker_names_the_order_of_its_priorities(conn: Connection, make_task: MakeTask, worker: int):
    ids = {priority: await make_task(priority=priority.value) for priority in (HIGH, LOW)}
    assert await claimed(conn, worker, LOW, HIGH, limit=1) == [ids[LOW]]


@pytest.mark.parametrize("limit", [0, 1, 5, 8])
async def test_a_claim_never_exceeds_its_limit_over_all_priorities(
    conn: Connection, make_task: MakeTask, worker: int, limit: int
):
    for priority in EVERYDAY:
        for _ in range(2):
            await make_task(priority=priority.value)
    assert len(await claimed(conn, worker, limit=limit)) == min(limit, 6)
    assert await ask(conn, "SELECT count(*) FROM taskflow.tasks WHERE status = 'running'") == min(limit, 6)


async def test_a_worker_that_is_gone_claims_nothing(conn: Connection, make_task: MakeTask, make_worker: MakeWorker):
    id = await make_task()
    assert await claimed(conn, await make_worker(stopped=True)) == []
    assert await claimed(conn, 2**60) == []
    assert (await look(conn, id))["status"] == "queued"


async def test_tasks_that_others_hold_locked_are_passed_over_and_not_waited_for(
    conn: Connection, connections: Connect, make_task: MakeTask, worker: int
):
    ids = [await make_task() for _ in range(3)]
    (other,) = await connections(1)
    async with other.transaction():
        await other.execute("SELECT FROM taskflow.tasks WHERE id = %s FOR UPDATE", [ids[0]])
        assert await claimed(conn, worker, limit=2) == ids[1:]
    assert await claimed(conn, worker) == ids[:1]


async def test_a_claim_that_is_rolled_back_leaves_the_task_as_it_was(
    conn: Connection, make_task: MakeTask, worker: int
):
    id = await make_task()
    before = await look(conn, id)
    async with conn.transaction(force_rollback=True):
        assert await claimed(conn, worker) == [id]
    assert await look(conn, id) == before


# --- several at once --------------------------------------------------------------------------------------------------


async def test_claims_at_the_same_time_keep_their_limits_and_share_no_task(
    conn: Connection, connections: Connect, make_worker: MakeWorker
):
    await fill(conn, 100)
    conns = await connections(8)
    workers = [await make_worker() for _ in conns]
    batches = await asyncio.gather(*(claimed(*pair, limit=7) for pair in zip(conns, workers, strict=True)))
    assert [len(batch) for batch in batches] == [7] * 8
    assert len({id for batch in batches for id in batch}) == 56
    cursor = await conn.execute("SELECT worker_id, count(*) FROM taskflow.tasks WHERE status = 'running' GROUP BY 1")
    assert dict(await cursor.fetchall()) == dict.fromkeys(workers, 7)


async def test_ten_thousand_tasks_and_four_claimers_with_marks_claim_each_task_once(
    conn: Connection, connections: Connect, make_worker: MakeWorker
):
    await fill(conn, 10_000)

    async def drain(conn: Connection, worker: int) -> list[int]:
        mine: list[int] = []
        marks: dict[Priority, Mark] = {}
        while batch := await claim(conn, worker, EVERYDAY, 100, marks):
            mine += [task.id for task in batch]
        while batch := await claim(conn, worker, EVERYDAY, 100):  # what another held locked when the mark passed it
            mine += [task.id for task in batch]
        return mine

    conns = await connections(4)
    workers = [await make_worker() for _ in conns]
    shares = await asyncio.gather(*(drain(*pair) for pair in zip(conns, workers, strict=True)))
    times = Counter(id for share in shares for id in share)
    assert len(times) == 10_000
    assert set(times.values()) == {1}
    assert all(shares)
    cursor = await conn.execute("SELECT DISTINCT status::text, attempt FROM taskflow.tasks")
    assert await cursor.fetchall() == [("running", 1)]


# --- marks ------------------------------------------------------------------------------------------------------------


async def test_a_mark_moves_to_the_last_claimed_task_of_its_priority(
    conn: Connection, make_task: MakeTask, worker: int
):
    high = await make_task(priority="high")
    normal = [await make_task(scheduled_at=LONG_AGO + timedelta(days=day)) for day in (2, 1, 3)]
    marks: dict[Priority, Mark] = {}
    await claim(conn, worker, EVERYDAY, 3, marks)
    assert marks == {
        HIGH: Mark((await look(conn, high))["scheduled_at"].timestamp(), high),
        NORMAL: Mark((LONG_AGO + timedelta(days=2)).timestamp(), normal[0]),
    }
    assert [task.id for task in await claim(conn, worker, EVERYDAY, 3, marks)] == [normal[2]]
    before = dict(marks)
    assert await claim(conn, worker, EVERYDAY, 3, marks) == []
    assert marks == before


async def test_tasks_at_or_before_the_mark_are_passed_over_until_a_claim_from_the_start(
    conn: Connection, make_task: MakeTask, worker: int
):
    a, b, c = [await make_task(scheduled_at=LONG_AGO) for _ in range(3)]
    earlier = await make_task(scheduled_at=LONG_AGO - timedelta(microseconds=1))
    later = await make_task(scheduled_at=LONG_AGO + timedelta(microseconds=1))
    high = await make_task(priority="high", scheduled_at=LONG_AGO - timedelta(days=9))
    marks = {NORMAL: Mark(LONG_AGO.timestamp(), b)}
    assert [task.id for task in await claim(conn, worker, EVERYDAY, 9, marks)] == [high, c, later]
    assert [task.id for task in await claim(conn, worker, EVERYDAY, 9, {NORMAL: START})] == [earlier, a, b]


# --- durability -------------------------------------------------------------------------------------------------------


async def test_only_the_claims_own_transaction_commits_asynchronously(
    conn: Connection, make_task: MakeTask, worker: int
):
    await conn.execute("SET synchronous_commit = on")
    await make_task()
    async with conn.transaction():
        await claimed(conn, worker)
        assert await ask(conn, "SHOW synchronous_commit") == "off"
    assert await ask(conn, "SHOW synchronous_commit") == "on"
    await claimed(conn, worker)
    assert await ask(conn, "SHOW synchronous_commit") == "on"


# --- how long to sleep ------------------------------------------------------------------------------------------------


async def test_the_next_task_that_is_not_due_yet_tells_how_long_to_sleep(
    conn: Connection, make_task: MakeTask, worker: int
):
    assert await seconds_until_due(conn, EVERYDAY) is None
    await make_task(scheduled_at=LONG_AGO)
    assert await seconds_until_due(conn, EVERYDAY) is None
    for priority, minutes in (("low", 60), ("low", 50), ("normal", 70), ("test", 1)):
        soon = await ask(conn, "SELECT now() + make_interval(mins => %s)", minutes)
        await make_task(priority=priority, scheduled_at=soon)
    low, normal = [await seconds_until_due(conn, [priority]) for priority in (LOW, NORMAL)]
    assert low is not None
    assert normal is not None
    assert 2900 < low <= 3000
    assert 4100 < normal <= 4200
    everyday = await seconds_until_due(conn, EVERYDAY)
    assert everyday is not None
    assert 2900 < everyday <= 3000
    assert await seconds_until_due(conn, [HIGH]) is None


async def test_a_task_that_becomes_due_between_two_looks_is_told_of(conn: Connection, make_task: MakeTask, worker: int):
    async with conn.transaction():  # in which now() stands still
        await make_task(scheduled_at=await ask(conn, "SELECT now() - interval '1 ms'"))
        due = await seconds_until_due(conn, EVERYDAY)
    assert due is not None
    assert due < 0
