"""What the dashboard asks the database: failures by kind, and what belongs to a task."""

from datetime import UTC, datetime, timedelta

import pytest
from conftest import MakeTask, MakeWorker, ask
from msgspec import Raw
from test_plans import explain

from taskflow.database import Connection, connect
from taskflow.filters import Sort, TaskFilter
from taskflow.model import EVERYDAY, Failed, NewTask, Priority, Retry, Status
from taskflow.queries import failures, links, listing
from taskflow.queries.failures import Place, find_failures, find_of_group
from taskflow.queries.links import find_attempts, find_links
from taskflow.queue.claim import claim
from taskflow.queue.enqueue import enqueue_many
from taskflow.queue.group import enqueue_group
from taskflow.queue.record import record
from taskflow.queue.recover import retry_by_hand

MANY = """
INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency)
VALUES ('1', 'here', 1, '0', '{high}', 1);
INSERT INTO taskflow.tasks (name, type, status, attempt, worker_id, started_at, finished_at, error)
SELECT 'a task', 'anything', CASE WHEN number % 10 = 0 THEN 'failed' ELSE 'succeeded' END::taskflow.status, 1, 1, now(),
       now(), CASE WHEN number % 10 = 0 THEN 'E: ' || number END
FROM generate_series(1, 40000) AS number;
INSERT INTO taskflow.tasks (name, type, held) SELECT 'a task', 'anything', true FROM generate_series(1, 10000);
INSERT INTO taskflow.holds (task_id, scheduled_at, priority, state, position, gate)
SELECT id, scheduled_at, priority, 'waiting', 2, 'tenant:normal:t' || id % 100 FROM taskflow.tasks WHERE held;
"""

LATER = Place(datetime(2100, 1, 1, tzinfo=UTC), 0)
EARLIER = datetime(2000, 1, 1, tzinfo=UTC)


def new(name: str = "a task", **fields: object) -> NewTask:
    return NewTask(name=name, type="anything", payload=Raw(b"{}"), **fields)  # pyright: ignore[reportArgumentType]


async def test_failures_that_differ_by_numbers_and_ids_only_are_of_one_kind(conn: Connection, make_task: MakeTask):
    old = datetime.now(UTC) - timedelta(hours=2)
    first = await make_task(Status.FAILED, error="HTTPError: 503 for /orders/3ec1d42f-cfa4-4f0e-b37e-7fce45624d81\n…")
    last = await make_task(Status.FAILED, error="HTTPError: 502 for /orders/0b1d42f0-cfa4-4f0e-b37e-7fce45624d82\n…")
    other = await make_task(Status.FAILED, error="HTTPError: 502 for /orders/17", type="print_letter")
    aged = await make_task(Status.FAILED, error="KeyError: 'to'", updated_at=old)
    found = await find_failures(conn, 3600)
    assert [(group.type, group.count, group.ids) for group in found.groups] == [
        ("send_email", 2, [last, first]),
        ("print_letter", 1, [other]),
    ]
    assert {group.kind for group in found.groups} == {"HTTPError: # for /orders/#"}
    assert found.groups[0].error.startswith("HTTPError: 502 for /orders/0b1d")
    assert (found.seen, found.total) == (3, 3)
    assert [group.ids for group in (await find_failures(conn, 3 * 3600)).groups][-1:] == [[aged]]


async def test_the_newest_failures_are_grouped_and_the_others_counted(
    conn: Connection, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(failures, "SEEN", 2)
    for minutes in range(4):
        at = datetime.now(UTC) - timedelta(minutes=minutes)
        await make_task(Status.FAILED, error=f"E: {'x' if minutes else 'y'}", updated_at=at)
    found = await find_failures(conn, 3600)
    assert (found.seen, found.total, [group.kind for group in found.groups]) == (2, 4, ["E: y", "E: x"])
    monkeypatch.setattr(failures, "COUNTED", 2)
    assert (await find_failures(conn, 3600)).total == 3


async def test_a_group_is_walked_newest_first_without_gap(
    conn: Connection, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(failures, "SEEN", 3)
    made: list[int] = []
    for number in range(9):
        at = EARLIER + timedelta(days=100, minutes=number // 2)
        made.append(await make_task(Status.FAILED, error=f"E: {'abx'[number % 3 // 2]}", updated_at=at))
    for limit in range(1, 5):
        told: list[int] = []
        place: Place | None = LATER
        while place is not None:
            some = await find_of_group(conn, "send_email", "E: a", EARLIER, place, limit)
            told, place = told + some.ids, some.next
        assert told == [id for number, id in reversed(list(enumerate(made))) if number % 3 != 2], limit
    assert (await find_of_group(conn, "send_email", "E: a", LATER[0], LATER, 9)).ids == []


async def test_attempts_are_told_with_their_ends(conn: Connection, make_worker: MakeWorker):
    worker = await make_worker(name="w1")
    (id,) = await enqueue_many(conn, [new(max_attempts=2)])
    assert await find_attempts(conn, id) == []
    for outcome in (Retry("E: one\nTraceback", timedelta(0)), Failed("E: two")):
        (task,) = await claim(conn, worker, EVERYDAY, 1)
        await record(conn, worker, [(task, outcome)], set())
    await retry_by_hand(conn, [id])
    await claim(conn, worker, EVERYDAY, 1)
    told = await find_attempts(conn, id)
    assert [(one.attempt, one.worker, one.outcome, one.error, one.reason) for one in told] == [
        (3, "w1", "running", None, None),
        (2, "w1", "failed", "E: two", "retry by hand"),
        (1, "w1", "failed", "E: one\nTraceback", "retry"),
    ]
    assert told[0].ended_at is None
    assert all(one.seconds is not None and one.seconds >= 0 for one in told)


async def test_a_task_tells_its_ties(conn: Connection):
    (before,) = await enqueue_many(conn, [new("before")])
    (after,) = await enqueue_many(
        conn, [new(after=(before,), tenant="a:b", order_key="o:1", limit_key="[l]", priority=Priority.LOW)]
    )
    (keyed,) = await enqueue_many(conn, [new(unique_key="once")])
    group = await enqueue_group(conn, [new("member")], new("the end"), "g")
    member = await ask(conn, "SELECT task_id FROM taskflow.members WHERE group_id = %s", group)
    end = await ask(conn, "SELECT callback_id FROM taskflow.groups WHERE id = %s", group)
    links = await find_links(conn, after)
    assert links is not None
    assert (links.tenant, links.order_key, links.limit_key) == ("a:b", "o:1", "[l]")
    assert [(one.id, one.name, one.status) for one in links.waits_for] == [(before, "before", Status.QUEUED)]
    links = await find_links(conn, before)
    assert links is not None
    assert [one.id for one in links.awaited_by] == [after]
    links = await find_links(conn, keyed)
    assert links is not None
    assert links.unique_key == "once"
    links = await find_links(conn, member)
    assert links is not None
    assert (links.group, links.ends, [one.id for one in links.awaited_by]) == (group, None, [end])
    links = await find_links(conn, end)
    assert links is not None
    assert (links.group, links.ends, [one.name for one in links.waits_for]) == (None, group, ["member"])
    assert await find_links(conn, end + 1000) is None


@pytest.mark.parametrize("generic", [False, True], ids=["custom plan", "generic plan"])
async def test_what_is_looked_up_does_not_read_all_tasks(own_database: str, generic: bool):
    filter = TaskFilter(tenant="t7")
    async with await connect(own_database, "test") as conn:
        await conn.execute(MANY.encode())
        await conn.execute("ANALYZE")
        values = await listing._values(conn, filter, Sort.NEWEST, None)  # pyright: ignore[reportPrivateUsage]
        values |= {"statuses": [status.value for status in Status], "limit": 51, "few": 751, "budget": 2500}
        values |= {"seconds": 3600, "seen": failures.SEEN, "kinds": failures.KINDS, "counted": failures.COUNTED}
        values |= {"type": "anything", "kind": "E: #", "since": EARLIER, "until": LATER[0], "before": 0, "id": 4000}
        values |= {"listed": 100}
        for statement in (failures.FAILURES, failures.TOTAL, failures.OF_GROUP, listing.OF_GATES, listing.NEWEST_FIRST):
            plan = await explain(conn, statement, values, generic=generic)
            assert "Seq Scan on tasks" not in plan, plan
            assert "Seq Scan on holds" not in plan, plan
        for statement in (links.LINKS, links.ATTEMPTS):
            plan = await explain(conn, statement, values, generic=generic)
            assert "Seq Scan on tasks" not in plan, plan
