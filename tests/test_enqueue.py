"""Enqueue: from Python, by taskflow.enqueue, or by a plain INSERT; and who is woken by it."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from conftest import Connect, MakeTask, MakeWorker, ask, history, look
from msgspec import Raw

from taskflow.database import Connection
from taskflow.maintenance import rescue_once
from taskflow.model import EVERYDAY, NewTask, Priority, Status
from taskflow.queue.claim import be_busy, be_idle
from taskflow.queue.enqueue import enqueue_many
from taskflow.queue.finish import release
from taskflow.queue.recover import recover, retry_by_hand

HIGH, NORMAL, LOW, TEST = Priority


def task(name: str = "n", payload: bytes = b"{}", **fields: Any) -> NewTask:
    return NewTask(name=name, type="send_email", payload=Raw(payload), **fields)


async def count(conn: Connection) -> int:
    return await ask(conn, "SELECT count(*) FROM taskflow.tasks")


async def test_the_ids_come_in_the_order_of_the_tasks(conn: Connection):
    names = [str(number) for number in range(2000)]
    names.sort()  # neither the order of numbers nor that of scheduled_at
    tasks = [task(name, scheduled_at=datetime(2040 - int(name) % 7, 1, 1, tzinfo=UTC)) for name in names]
    ids = await enqueue_many(conn, tasks)
    cursor = await conn.execute("SELECT id, name FROM taskflow.tasks")
    stored = dict(await cursor.fetchall())
    assert [stored[id] for id in ids] == names


async def test_a_task_is_stored_as_it_was_given(conn: Connection):
    when = datetime(2040, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
    (id,) = await enqueue_many(
        conn,
        [task("ä😀", b'{"a": [1, null, "\\u0001"]}', priority=TEST, max_attempts=7, scheduled_at=when)],
    )
    row = await look(conn, id)
    assert (row["name"], row["type"], row["payload"]) == ("ä😀", "send_email", {"a": [1, None, "\x01"]})
    assert (row["priority"], row["max_attempts"], row["scheduled_at"]) == ("test", 7, when)
    assert (row["status"], row["attempt"], row["worker_id"], row["error"]) == ("queued", 0, None, None)
    assert await history(conn, id) == []


async def test_without_more_a_task_is_normal_and_due_at_once(conn: Connection):
    (id,) = await enqueue_many(conn, [task()])
    row = await look(conn, id)
    assert (row["priority"], row["max_attempts"]) == ("normal", 5)
    assert row["scheduled_at"] == row["created_at"] == row["updated_at"]


@pytest.mark.parametrize("seconds", [0, 0.25, 90, 3_155_760_000])
async def test_a_delay_counts_from_the_database_s_clock(conn: Connection, seconds: float):
    await conn.execute("SET TIME ZONE 'Europe/Berlin'")  # where some days have 23 or 25 hours
    (id,) = await enqueue_many(conn, [task(delay=seconds)])
    row = await look(conn, id)
    assert row["scheduled_at"].astimezone(UTC) - row["created_at"].astimezone(UTC) == timedelta(seconds=seconds)


async def test_no_tasks_are_no_ids(conn: Connection):
    assert await enqueue_many(conn, []) == []


@pytest.mark.parametrize(
    "wrong",
    [
        task(""),
        task("n" * 129),
        task("a\x00b"),
        task(payload=b"[]"),
        task(payload=b"null"),
        task(payload=b'{"a": "\\u0000"}'),
        task(payload=b'{"a": "\\ud800"}'),
        task(payload=b'{"a": 1e400000}'),
        task(max_attempts=0),
        task(max_attempts=2**31),
        task(scheduled_at=datetime(1969, 12, 31, tzinfo=UTC)),
    ],
)
async def test_one_task_that_cannot_be_stored_stores_none(conn: Connection, wrong: NewTask):
    with pytest.raises((psycopg.DataError, psycopg.IntegrityError)):
        await enqueue_many(conn, [task(), wrong, task()])
    assert await count(conn) == 0


# --- from SQL ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "differs"),
    [
        ("'t'", {}),
        ("'t', '{\"a\": 1}'", {"payload": {"a": 1}}),
        ("'t', name => 'n'", {"name": "n"}),
        ("'t', priority => 'high'", {"priority": "high"}),
        ("'t', max_attempts => 1", {"max_attempts": 1}),
        ("'t', scheduled_at => '2040-01-01Z'", {"scheduled_at": datetime(2040, 1, 1, tzinfo=UTC)}),
    ],
)
async def test_sql_enqueues_with_defaults(conn: Connection, call: LiteralString, differs: dict[str, Any]):
    id = await ask(conn, f"SELECT taskflow.enqueue({call})")
    row = await look(conn, id)
    default: dict[str, Any] = {"type": "t", "payload": {}, "name": "t", "priority": "normal", "max_attempts": 5}
    expected: dict[str, Any] = {**default, "scheduled_at": row["created_at"], "status": "queued", **differs}
    assert {column: row[column] for column in expected} == expected


async def test_a_plain_insert_is_a_task(conn: Connection):
    id = await ask(conn, "INSERT INTO taskflow.tasks (name, type) VALUES ('n', 't') RETURNING id")
    row = await look(conn, id)
    assert (row["status"], row["priority"], row["payload"], row["attempt"]) == ("queued", "normal", {}, 0)
    assert (row["max_attempts"], row["scheduled_at"]) == (5, row["created_at"])


async def test_ids_are_given_by_postgres_alone(conn: Connection):
    with pytest.raises(psycopg.errors.GeneratedAlways):
        await conn.execute("INSERT INTO taskflow.tasks (id, name, type) VALUES (1, 'n', 't')")


async def test_a_task_is_stored_with_its_callers_transaction_or_not_at_all(conn: Connection, connections: Connect):
    (another,) = await connections(1)
    async with conn.transaction(force_rollback=True):
        await enqueue_many(conn, [task()])
        await ask(conn, "SELECT taskflow.enqueue('t')")
        await conn.execute("INSERT INTO taskflow.tasks (name, type) VALUES ('n', 't')")
        assert (await count(conn), await count(another)) == (3, 0)
    assert await count(conn) == 0
    async with conn.transaction():
        await enqueue_many(conn, [task()])
        assert await count(another) == 0
    assert await count(another) == 1


# --- waking -----------------------------------------------------------------------------------------------------------


class Ears:
    """A session that listens as a worker's presence does."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn

    async def heard(self) -> list[str]:
        """What was notified since the last call."""
        await self.conn.execute("NOTIFY taskflow, 'until here'")
        payloads: list[str] = []
        async for notify in self.conn.notifies(timeout=60):
            if notify.payload == "until here":
                break
            payloads.append(notify.payload)
        return payloads


@pytest.fixture
async def ears(connections: Connect) -> Ears:
    (conn,) = await connections(1)
    await conn.execute("LISTEN taskflow")
    return Ears(conn)


@pytest.fixture
async def idler(connections: Connect) -> Connection:
    """A session on whose behalf a worker may be idle."""
    return (await connections(1))[0]


async def enqueue(conn: Connection, *priorities: Priority) -> None:
    await enqueue_many(conn, [task(priority=priority) for priority in priorities])


async def test_an_enqueue_tells_nobody_while_no_worker_is_idle(conn: Connection, ears: Ears):
    await enqueue(conn, *Priority)
    assert await ears.heard() == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            """enqueue_many('[{"type": "t"}, {"type": "t", "delay_seconds": 60}]')""",
            r"\[1\]\.delay_seconds: is no field",
        ),
        (
            """enqueue_many('[{"type": "t", "unique_key": "k", "on_conflict": "existing"}]')""",
            "on_conflict: many tasks",
        ),
        (
            """enqueue_many('[{"type": "t", "order_key": "k", "after_failure": "go on"}]')""",
            "after_failure: is neither",
        ),
        ("""enqueue_group('[{"type": "t"}]', '{"type": "t", "priorty": "low"}')""", "priorty: is no field"),
        (
            """enqueue_many('[{"type": "t"}, {"type": "t", "after_failure": ["run"]}]')""",
            r"\[1\]\.after_failure: is neither",
        ),
        ("""enqueue_group('[{"type": "t"}]', '{"type": "t", "after": [7]}')""", r"callback\.after"),
        ("enqueue_group('[]')", "tasks: a group has at least one"),
        ("enqueue('t', on_conflict => 'existing')", "on_conflict: is for tasks with a unique_key"),
        ("set_limit('t', rate => 1, rate_seconds => 'NaN')", "limits_rate_seconds_check"),
        ("pause_type('')", "limits_type_check"),
    ],
)
async def test_sql_refuses_what_the_api_refuses(conn: Connection, call: LiteralString, said: str):
    with pytest.raises((psycopg.DataError, psycopg.IntegrityError), match=said):
        await ask(conn, "SELECT taskflow." + call)
    assert await count(conn) == 0


async def test_a_delay_of_many_tasks_counts_from_the_database_s_clock(conn: Connection):
    await conn.execute("""SELECT taskflow.enqueue_many('[{"type": "t"}, {"type": "t", "delay": 60}]')""")
    delays = "SELECT array_agg(extract(epoch FROM scheduled_at - created_at)::integer ORDER BY id) FROM taskflow.tasks"
    assert await ask(conn, delays) == [0, 60]


@pytest.mark.parametrize("idle", [[HIGH], [LOW, TEST], [*EVERYDAY]])
async def test_an_enqueue_wakes_the_idle_workers_of_its_priority_and_no_others(
    conn: Connection, ears: Ears, idler: Connection, idle: Sequence[Priority]
):
    await be_idle(idler, idle)
    for priority in Priority:
        await enqueue(conn, priority)
    assert await ears.heard() == list(idle)


@pytest.mark.parametrize(
    "statement",
    ["SELECT taskflow.enqueue('t')", "INSERT INTO taskflow.tasks (name, type) VALUES ('n', 't') RETURNING id"],
)
async def test_sql_wakes_idle_workers_too(conn: Connection, ears: Ears, idler: Connection, statement: LiteralString):
    await be_idle(idler, [NORMAL])
    await ask(conn, statement)
    assert await ears.heard() == ["normal"]


async def test_many_tasks_in_one_transaction_wake_once_and_at_its_commit(
    conn: Connection, ears: Ears, idler: Connection
):
    await be_idle(idler, [NORMAL, LOW])
    async with conn.transaction():
        await enqueue(conn, *[NORMAL] * 50)
        await enqueue(conn, NORMAL, LOW, HIGH)
        assert await ears.heard() == []
    assert sorted(await ears.heard()) == ["low", "normal"]


async def test_a_transaction_that_is_rolled_back_wakes_nobody(conn: Connection, ears: Ears, idler: Connection):
    await be_idle(idler, [NORMAL])
    async with conn.transaction(force_rollback=True):
        await enqueue(conn, NORMAL)
    assert await ears.heard() == []


async def test_a_worker_that_became_busy_is_not_woken(conn: Connection, ears: Ears, idler: Connection):
    await be_idle(idler, EVERYDAY)
    await be_busy(idler, [HIGH, LOW])
    await enqueue(conn, *EVERYDAY)
    assert await ears.heard() == ["normal"]
    await be_busy(idler, [NORMAL])
    await enqueue(conn, *EVERYDAY)
    assert await ears.heard() == []


async def test_one_of_two_idle_workers_is_enough(conn: Connection, connections: Connect, ears: Ears, idler: Connection):
    (second,) = await connections(1)
    for session in (idler, second):
        await be_idle(session, [NORMAL])
    await be_busy(idler, [NORMAL])
    await enqueue(conn, NORMAL)
    assert await ears.heard() == ["normal"]
    await be_busy(second, [NORMAL])
    await enqueue(conn, NORMAL)
    assert await ears.heard() == []


async def test_an_idle_worker_whose_session_was_killed_is_not_woken(conn: Connection, ears: Ears, idler: Connection):
    await be_idle(idler, EVERYDAY)
    await ask(conn, "SELECT pg_terminate_backend(%s, 60000)", idler.info.backend_pid)
    await enqueue(conn, *EVERYDAY)
    assert await ears.heard() == []


NOTE: LiteralString = "SELECT taskflow.note_all_busy()"
NOTED: LiteralString = "SELECT pg_sequence_last_value('taskflow.all_busy') IS NOT NULL"


async def test_once_an_enqueue_has_found_all_workers_busy_the_others_do_not_ask_until_one_is_idle(
    conn: Connection, connections: Connect, ears: Ears, idler: Connection
):
    await be_idle(idler, [NORMAL])
    await enqueue(conn, NORMAL)
    assert await ears.heard() == ["normal"]
    assert not await ask(conn, NOTED)
    await be_busy(idler, [NORMAL])
    await enqueue(conn, *[NORMAL] * 1000)  # about one in twenty of those who find nobody idle notes it
    assert await ask(conn, NOTED)
    (holder,) = await connections(1)  # whoever asks sees its lock
    await holder.execute("SELECT pg_advisory_lock_shared(1952543595, taskflow.idle_key('normal'))")
    await enqueue(conn, NORMAL)
    assert await ears.heard() == []
    await be_idle(idler, [NORMAL])
    await enqueue(conn, NORMAL)
    assert await ears.heard() == ["normal"]


async def test_a_worker_that_becomes_idle_while_others_note_that_all_are_busy_is_woken(
    conn: Connection, connections: Connect, ears: Ears, idler: Connection
):
    enqueuers = await connections(4)
    for _ in range(200):
        await asyncio.gather(*(enqueuer.execute(NOTE) for enqueuer in enqueuers), be_idle(idler, [NORMAL]))
        assert not await ask(conn, NOTED)
        await enqueue(conn, NORMAL)
        assert await ears.heard() == ["normal"]
        await be_busy(idler, [NORMAL])


async def test_a_role_that_may_insert_needs_no_other_right_to_wake_workers(conn: Connection, idler: Connection):
    await be_idle(idler, [NORMAL])
    async with conn.transaction(force_rollback=True):
        await conn.execute("CREATE ROLE producer; GRANT USAGE ON SCHEMA taskflow TO producer")
        await conn.execute("GRANT INSERT ON taskflow.tasks TO producer; SET LOCAL ROLE producer")
        await conn.execute("INSERT INTO taskflow.tasks (name, type) VALUES ('n', 't')")


async def test_looking_for_an_idle_worker_leaves_no_lock_behind(conn: Connection, ears: Ears, idler: Connection):
    await be_idle(idler, [LOW])
    await enqueue(conn, *Priority)
    locks = "SELECT array_agg(objid::integer) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1952543595"
    assert await ask(
        conn, locks + " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    ) == [await ask(conn, "SELECT taskflow.idle_key('low')")]


async def test_whoever_queues_a_task_again_wakes_the_idle_workers_of_its_priority(
    conn: Connection, ears: Ears, idler: Connection, make_task: MakeTask, make_worker: MakeWorker, worker: int
):
    await be_idle(idler, EVERYDAY)
    released = await make_task(Status.RUNNING, worker=worker, priority="high")
    await release(conn, worker, [released], [1])
    assert await ears.heard() == ["high"]
    gone = await make_worker(silent_for=60)
    await make_task(Status.RUNNING, worker=gone, priority="low")
    await make_task(Status.RUNNING, worker=gone, priority="normal", max_attempts=1)  # fails
    assert await rescue_once(conn, 15) == 2
    assert await ears.heard() == ["low"]
    failed = await make_task(Status.FAILED, priority="low")
    assert await retry_by_hand(conn, [failed]) == {failed}
    assert await ears.heard() == ["low"]
    await make_task(Status.FAILED, priority="high", updated_at="2001-01-01")
    assert await recover(conn, Status.FAILED, 60, 9) == 1
    assert await ears.heard() == ["high"]


async def test_a_recovery_of_queued_tasks_wakes_the_workers_that_should_have_come_for_them(
    conn: Connection, ears: Ears, idler: Connection, make_task: MakeTask
):
    for priority in EVERYDAY:
        await make_task(priority=priority.value, updated_at="2001-01-01")
    await be_idle(idler, [HIGH, LOW])
    assert await recover(conn, Status.QUEUED, 60, 9) == 3
    assert sorted(await ears.heard()) == ["high", "low"]


async def test_a_task_for_later_wakes_the_idle_too_since_they_must_sleep_until_then(
    conn: Connection, ears: Ears, idler: Connection
):
    await be_idle(idler, [NORMAL])
    await enqueue_many(conn, [task(scheduled_at=datetime.now(UTC) + timedelta(days=1))])
    assert await ears.heard() == ["normal"]
