"""Gates: dependencies, the order of a key, tenants' turns, limits and pauses, through real workers."""

import asyncio
import json
from collections import defaultdict
from contextlib import suppress
from typing import Any

import pytest
from commands import until
from conftest import Connect, ask
from psycopg.errors import ForeignKeyViolation, LockNotAvailable
from support import PATIENCE, Database, Workers, kill

from taskflow.database import Connection, connect
from taskflow.model import Priority
from taskflow.queue.gates import admit, adopt
from taskflow.queue.reprioritise import reprioritise
from taskflow.worker.gatekeeper import stock

JOBS = """
import asyncio
from taskflow import Limit, task
from tasks_of_the_test import enter


@task("two_at_once", limit=Limit(concurrency=2))
async def two_at_once(payload: dict):
    enter("began")
    await asyncio.sleep(0.01)
    enter("done")
"""


def enqueue(db: Database, type: str = "quick", **terms: Any) -> int:
    """Enqueue a task with gates; its id."""
    (id,) = enqueue_all(db, [{"type": type, **terms}])
    return id


def enqueue_all(db: Database, tasks: list[dict[str, Any]]) -> list[int]:
    """Enqueue tasks as the API does; their ids."""
    return [id for (id,) in db.rows("SELECT taskflow.enqueue_many(%s)", json.dumps(tasks))]


def intervals(db: Database) -> dict[int, tuple[int, int]]:
    """When each task ran: the positions of its first and last entry in the ledger."""
    return {
        task: (first, last)
        for task, first, last in db.rows("SELECT task_id, min(position), max(position) FROM ledger GROUP BY task_id")
    }


def most_at_once(spans: list[tuple[int, int]]) -> int:
    """How many spans overlap where most do."""
    steps = sorted([(first, 1) for first, _ in spans] + [(last, -1) for _, last in spans])
    running = most = 0
    for _, step in steps:
        running += step
        most = max(most, running)
    return most


def waited(db: Database, id: int) -> float:
    """Seconds from enqueue to start."""
    return db.one("SELECT extract(epoch FROM started_at - created_at)::float8 FROM taskflow.tasks WHERE id = %s", id)


def has_no_holds(db: Database) -> bool:
    return not db.one("SELECT count(*) FROM taskflow.holds WHERE state <> 'ended'")


# --- dependencies ---


def test_a_task_runs_after_those_it_waits_for(workers: Workers):
    db = workers.database
    first, second = enqueue(db, "nap"), enqueue(db, "nap")
    last = enqueue(db, after=[first, second])
    workers.start_ready()
    db.await_status(last, "succeeded")
    spans = intervals(db)
    assert spans[last][0] > max(spans[first][1], spans[second][1])
    until(lambda: has_no_holds(db), lambda: "holds are left over")


def test_a_task_whose_predecessors_have_succeeded_is_not_held(workers: Workers):
    db = workers.database
    first = enqueue(db)
    workers.start_ready()
    db.await_status(first, "succeeded")
    later = enqueue(db, after=[first])
    assert not db.one("SELECT held FROM taskflow.tasks WHERE id = %s", later)
    db.await_status(later, "succeeded")


def test_a_failure_cancels_what_waits_and_what_waits_for_that(workers: Workers):
    db = workers.database
    first = enqueue(db, "fail", max_attempts=1)
    second = enqueue(db, after=[first])
    third = enqueue(db, after=[second])
    anyway = enqueue(db, after=[first, second], after_failure="run")
    workers.start_ready()
    for id in (second, third):
        db.await_status(id, "cancelled")
    db.await_status(anyway, "succeeded")
    assert workers.ledger(second) == workers.ledger(third) == []
    assert "did not succeed" in db.one("SELECT error FROM taskflow.tasks WHERE id = %s", third)
    db.rows("SELECT taskflow.retry(ARRAY[%s]::bigint[])", third)
    db.await_status(third, "succeeded")


def test_a_task_cannot_wait_for_one_that_does_not_exist(workers: Workers):
    db = workers.database
    with pytest.raises(ForeignKeyViolation, match="after: there is no task 12345"):
        enqueue(db, after=[12345])
    assert db.counts() == {}


def test_a_chain_that_is_enqueued_while_its_links_end_comes_to_its_end(workers: Workers):
    db = workers.database
    workers.start_ready("--id", "1")
    workers.start_ready("--id", "2")
    id = enqueue(db)
    for _ in range(100):
        id = enqueue(db, after=[id])
    db.await_status(id, "succeeded")
    db.await_all("succeeded")


def test_a_group_calls_back_when_all_have_ended(workers: Workers):
    db = workers.database
    tasks = [{"type": "nap"}] * 5 + [{"type": "fail", "max_attempts": 1}]
    group = db.one("SELECT taskflow.enqueue_group(%s, %s)", json.dumps(tasks), json.dumps({"type": "quick"}))
    callback = db.one("SELECT callback_id FROM taskflow.groups WHERE id = %s", group)
    workers.start_ready()
    db.await_status(callback, "succeeded")
    members = [id for (id,) in db.rows("SELECT task_id FROM taskflow.members WHERE group_id = %s", group)]
    spans = intervals(db)
    assert len(members) == 6
    assert spans[callback][0] > max(spans[id][1] for id in members)


async def test_a_callback_waits_for_a_task_of_its_group_that_is_retried_as_well(conn: Connection):
    tasks = json.dumps([{"type": "t"}, {"type": "t"}])
    group = await ask(conn, "SELECT taskflow.enqueue_group(%s, %s)", tasks, json.dumps({"type": "t"}))
    callback = await ask(conn, "SELECT callback_id FROM taskflow.groups WHERE id = %s", group)
    first, second = await ask(
        conn, "SELECT array_agg(task_id ORDER BY 1) FROM taskflow.members WHERE group_id = %s", group
    )

    async def callback_is_held_after(*ended: int) -> bool:
        await ask(conn, "SELECT count(*) FROM taskflow.cancel(%s)", list(ended))
        await admit(conn, [f"task:{id}" for id in ended])
        return await ask(conn, "SELECT held FROM taskflow.tasks WHERE id = %s", callback)

    assert await callback_is_held_after(first)
    await ask(conn, "SELECT taskflow.retry(%s)", [first])
    assert await callback_is_held_after(second)
    assert not await callback_is_held_after(first)
    await conn.execute("DELETE FROM taskflow.holds")


async def test_what_was_cancelled_is_not_deleted_before_those_that_waited_for_it_know(conn: Connection):
    first = await ask(conn, "SELECT taskflow.enqueue('t')")
    second = await ask(conn, "SELECT taskflow.enqueue('t', after => ARRAY[%s]::bigint[])", first)
    await ask(conn, "SELECT taskflow.cancel(%s)", [first])
    assert await ask(conn, "SELECT count(*) FROM taskflow.delete_final(%s)", [first]) == 0
    await admit(conn, [f"task:{first}"])
    assert await ask(conn, "SELECT status::text FROM taskflow.tasks WHERE id = %s", second) == "cancelled"
    assert await ask(conn, "SELECT taskflow.delete_final(%s)", [first]) == first


def test_of_a_tenant_no_more_stands_ready_than_is_done_in_less_than_half_a_second():
    assert all(stock(pace) / pace < 0.5 for pace in (0.001, 0.2, 1.0, 5.0, 20.0, 1_000.0))
    assert stock(10.0) == 2.0


# --- the order of a key ---


def test_tasks_of_one_key_run_one_at_a_time_in_order_also_across_retries(workers: Workers):
    db = workers.database
    tasks = [{"type": "fail_once" if n % 10 == 3 else "nap", "order_key": f"k{n % 3}"} for n in range(60)]
    ids = enqueue_all(db, tasks)
    workers.start_ready("--id", "1")
    workers.start_ready("--id", "2")
    db.await_all("succeeded", 2 * PATIENCE)
    by_key: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    spans = intervals(db)
    for id, task in zip(ids, tasks, strict=True):
        by_key[task["order_key"]].append(spans[id])
    for spans_of_key in by_key.values():
        assert spans_of_key == sorted(spans_of_key)
        assert most_at_once(spans_of_key) == 1


def test_ten_thousand_blocked_tasks_of_one_key_do_not_delay_a_free_one(workers: Workers):
    db = workers.database
    blocked = enqueue_all(db, [{"type": "wait_for_file", "payload": {"file": "never"}, "order_key": "k"}] * 10_000)
    workers.start_ready()
    workers.await_entry(blocked[0])
    free = enqueue(db, order_key="another")
    plain = db.enqueue("quick")
    db.await_status(plain, "succeeded")
    db.await_status(free, "succeeded")
    assert waited(db, free) < 1 + waited(db, plain)
    assert db.counts()["running"] == 1


# --- limits ---


def test_a_limit_of_a_type_holds_across_workers_and_is_given_back_by_the_dead(workers: Workers):
    db = workers.database
    (workers.directory / "jobs.py").write_text(JOBS)
    first = workers.start_ready("--app", "jobs", "--id", "1", WORKER_LEASE_IN_SECONDS="2")
    workers.start_ready("--app", "jobs", "--id", "2", WORKER_LEASE_IN_SECONDS="2")
    until(
        lambda: db.rows("SELECT FROM taskflow.limits WHERE adopted_at IS NOT NULL"), lambda: "the limit is not in force"
    )
    db.enqueue_numbered("two_at_once", 100)
    until(lambda: db.counts().get("succeeded", 0) > 20, lambda: f"{db.counts()}")
    kill(first)
    db.await_all("succeeded", 2 * PATIENCE)
    ended = db.rows("SELECT id FROM taskflow.tasks WHERE attempt = 1")
    spans = intervals(db)
    assert most_at_once([spans[id] for (id,) in ended]) <= 2
    until(lambda: has_no_holds(db), lambda: "holds are left over")


def test_a_limit_per_key_holds_for_each_key_by_itself(workers: Workers):
    db = workers.database
    db.rows("SELECT taskflow.set_limit('nap', concurrency_per_key => 1)")
    ids = enqueue_all(db, [{"type": "nap", "limit_key": f"k{n % 4}"} for n in range(40)])
    workers.start_ready()
    db.await_all("succeeded")
    spans = intervals(db)
    for key in range(4):
        assert most_at_once([spans[id] for id in ids[key::4]]) == 1
    assert most_at_once([spans[id] for id in ids]) > 1


def test_a_rate_is_kept(workers: Workers):
    db = workers.database
    db.rows("SELECT taskflow.set_limit('quick', rate => 20, rate_seconds => 1)")
    db.enqueue_numbered("quick", 60)
    workers.start_ready("--id", "1")
    workers.start_ready("--id", "2")
    db.await_all("succeeded")
    took = db.one("SELECT extract(epoch FROM max(started_at) - min(started_at)) FROM taskflow.tasks")
    assert took > 1.8  # a full bucket of 20 at once, then 40 at 20 a second


def test_what_was_queued_before_its_type_is_limited_is_bound_as_well(workers: Workers):
    db = workers.database
    db.enqueue_numbered("nap", 20)
    db.rows("SELECT taskflow.set_limit('nap', concurrency => 1)")
    workers.start_ready()
    db.await_all("succeeded", 2 * PATIENCE)
    assert most_at_once(list(intervals(db).values())) == 1


def test_a_limit_of_a_type_binds_tasks_that_stood_at_the_gates_of_keys_before(workers: Workers):
    db = workers.database
    db.rows("SELECT taskflow.set_limit('nap', concurrency_per_key => 1)")
    enqueue_all(db, [{"type": "nap", "limit_key": f"k{n % 4}", "tenant": "acme"} for n in range(20)])
    db.rows("SELECT taskflow.set_limit('nap', concurrency => 1, concurrency_per_key => 1)")
    workers.start_ready()
    db.await_all("succeeded", 2 * PATIENCE)
    assert most_at_once(list(intervals(db).values())) == 1
    until(lambda: has_no_holds(db), lambda: "holds are left over")


async def test_two_that_adopt_at_once_leave_no_task_behind(own_database: str):
    async with await connect(own_database, "test") as conn, await connect(own_database, "test") as other:
        await conn.execute("INSERT INTO taskflow.tasks (name, type) SELECT 'n', 't' FROM generate_series(1, 25000)")
        await ask(conn, "SELECT taskflow.set_limit('t', concurrency => 2)")
        assert await adopt(conn) is False  # it has only turned the trigger on
        async with conn.transaction():
            assert await adopt(conn) is False
            job = asyncio.create_task(adopt(other))
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
            while not (job.done() or await ask(conn, waiting, other.info.backend_pid)):
                await asyncio.wait([job], timeout=0.01)
        with suppress(LockNotAvailable):  # on a slow machine it had to wait for too long
            await job
        while not await adopt(other):
            pass
        assert await ask(conn, "SELECT count(*) FROM taskflow.tasks WHERE held") == 25_000


def test_a_lifted_limit_lets_all_pass(workers: Workers):
    db = workers.database
    db.rows("SELECT taskflow.set_limit('nap', concurrency => 0)")
    workers.start_ready()
    until(
        lambda: db.rows("SELECT FROM taskflow.limits WHERE adopted_at IS NOT NULL"), lambda: "the limit is not in force"
    )
    db.enqueue_numbered("nap", 20)
    marker = db.enqueue("quick")
    db.await_status(marker, "succeeded")
    assert db.counts() == {"queued": 20, "succeeded": 1}
    db.rows("SELECT taskflow.set_limit('nap')")
    db.await_all("succeeded")


async def test_a_task_gets_another_priority_while_gates_are_passed(conn: Connection, connections: Connect):
    (other,) = await connections(1)
    id = await ask(conn, "SELECT taskflow.enqueue('t', tenant => 'acme')")
    async with conn.transaction():  # as taskflow.admit does
        await conn.execute("SELECT pg_advisory_xact_lock(1952543595)")
        await conn.execute("UPDATE taskflow.holds SET state = state WHERE task_id = %s", [id])
        job = asyncio.create_task(reprioritise(other, [id], Priority.HIGH))
        while not await ask(conn, "SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.wait([job], timeout=0.01)
        await conn.execute("UPDATE taskflow.tasks SET updated_at = now() WHERE id = %s", [id])
    assert await job == {id}
    await conn.execute("DELETE FROM taskflow.holds")


# --- fairness and pauses ---


def test_tenants_take_turns(workers: Workers):
    db = workers.database
    enqueue_all(db, [{"type": "quick", "tenant": "large"}] * 5_000)
    workers.start_ready("--concurrency", "4")
    until(lambda: db.counts().get("succeeded", 0) > 100, lambda: f"{db.counts()}")
    small = enqueue(db, tenant="small")
    db.await_status(small, "succeeded")
    assert db.counts()["queued"] > 1_000, "it came after the other tenant's"
    db.await_all("succeeded", 2 * PATIENCE)


def test_a_tenant_with_a_hundred_thousand_tasks_does_not_delay_another(workers: Workers):
    db = workers.database
    db.conn.execute(
        """
        WITH stored AS (
            INSERT INTO taskflow.tasks (name, type, held) SELECT 'n', 'nap', true FROM generate_series(1, 100000)
            RETURNING id, priority, scheduled_at
        )
        INSERT INTO taskflow.holds (task_id, scheduled_at, priority, state, position, gate)
        SELECT id, scheduled_at, priority, 'waiting', 2, 'tenant:normal:large' FROM stored
        """
    )
    workers.start_ready("--concurrency", "10")
    until(lambda: db.counts().get("succeeded", 0) > 100, lambda: f"{db.counts()}")
    small = enqueue(db, tenant="small")
    plain = db.enqueue("quick")
    db.await_status(small, "succeeded")
    db.await_status(plain, "succeeded")
    assert waited(db, small) < 1 + waited(db, plain)


def test_a_task_for_which_many_wait_is_followed_by_all_of_them(workers: Workers):
    db = workers.database
    first = enqueue(db)
    enqueue_all(db, [{"type": "quick", "after": [first]}] * 2_500)  # more than pass in one step
    workers.start_ready()
    db.await_all("succeeded", 2 * PATIENCE)


def test_a_paused_type_waits_and_goes_on(workers: Workers):
    db = workers.database
    db.rows("SELECT taskflow.pause_type('nap', 'the mail server is down')")
    workers.start_ready()
    paused = db.enqueue("nap")
    db.await_status(db.enqueue("quick"), "succeeded")
    assert db.status(paused) == "queued"
    db.rows("SELECT taskflow.resume_type('nap')")
    db.await_status(paused, "succeeded")


def test_a_paused_priority_waits_and_goes_on(workers: Workers):
    db = workers.database
    worker = workers.start_ready()
    db.rows("SELECT taskflow.pause('low', 'nightly jobs later')")
    worker.await_said("policy.changed")
    paused = db.enqueue("quick", priority="low")
    db.await_status(db.enqueue("quick"), "succeeded")
    assert db.status(paused) == "queued"
    db.rows("SELECT taskflow.resume('low')")
    db.await_status(paused, "succeeded")


def test_a_task_that_has_waited_long_overtakes_newer_ones_of_higher_priority(workers: Workers):
    db = workers.database
    db.conn.execute(
        """
        INSERT INTO taskflow.tasks (name, type, priority, scheduled_at)
        SELECT 'old', 'nap', 'low'::taskflow.priority, now() - interval '1 hour'
        UNION ALL SELECT 'new', 'nap', 'high', now() FROM generate_series(1, 60)
        """
    )
    workers.start_ready("--concurrency", "1", PRIORITY_AGING_IN_SECONDS="600")
    db.await_all("succeeded")
    order = [name for (name,) in db.rows("SELECT name FROM taskflow.tasks ORDER BY started_at")]
    assert order.index("old") < 50  # it looks once a second, which is twenty naps
