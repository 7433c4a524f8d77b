"""Whoever changes tasks at the same time: each change happens once, and nobody sees a deadlock."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Final

import pytest
from conftest import Connect, MakeTask, MakeWorker, ask, history
from psycopg.errors import LockNotAvailable
from support import record_log

from faults.arena import rounds
from taskflow.database import Connection
from taskflow.maintenance import rescue_once
from taskflow.model import EVERYDAY, ClaimedTask, Failed, Outcome, Released, Retry, Status, Succeeded
from taskflow.queue.cancel import cancel
from taskflow.queue.claim import claim
from taskflow.queue.delete import delete_final
from taskflow.queue.finish import fail, succeed
from taskflow.queue.prune import prune
from taskflow.queue.recover import recover, retry_by_hand
from taskflow.queue.reprioritise import reprioritise
from taskflow.queue.rescue import rescue
from taskflow.registry import Registry
from taskflow.worker import link as link_module
from taskflow.worker.finisher import record
from taskflow.worker.gatekeeper import Gatekeeper
from taskflow.worker.link import Link

pytestmark = pytest.mark.timeout(300)

LEASE: Final = 15.0
STATUSES: Final = (Status.FAILED, Status.QUEUED)
FINAL: Final = (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)

REFILL: Final = """
SELECT taskflow.enqueue(
    't', max_attempts => 1000000,
    order_key => CASE n % 6 WHEN 0 THEN 'key ' || n % 12 END,
    tenant => CASE n % 6 WHEN 1 THEN 'tenant ' || n % 4 END)
FROM generate_series(1, 300 - (SELECT count(*) FROM taskflow.tasks)) AS n
"""
"""A third of the tasks stand at gates."""


async def test_five_recoveries_and_ten_rescues_at_once_move_each_task_once(
    conn: Connection, connections: Connect, make_worker: MakeWorker
):
    gone = await make_worker(silent_for=2 * LEASE)
    for status in ("running", "failed", "succeeded"):
        await conn.execute(
            """
            INSERT INTO taskflow.tasks (name, type, status, worker_id, started_at, finished_at, attempt, error)
            SELECT 'n', 't', %(status)s::taskflow.status, %(worker)s, now(),
                   CASE WHEN %(status)s <> 'running' THEN now() END, 1,
                   CASE WHEN %(status)s = 'failed' THEN 'boom' END
            FROM generate_series(1, 200)
            """,
            {"status": status, "worker": gone},
        )
    untouched = await (await conn.execute("SELECT * FROM taskflow.tasks WHERE status = 'succeeded'")).fetchall()

    async def recover_all(conn: Connection) -> int:
        recovered = 0
        while batch := await recover(conn, Status.FAILED, 0, 30):
            recovered += batch
        return recovered

    others = await connections(15)
    recovering = asyncio.gather(*(recover_all(each) for each in others[:5]))
    rescuing = asyncio.gather(*(rescue_once(each, LEASE) for each in others[5:]))
    assert sum(await recovering) + await recover_all(conn) == 200
    assert sum(await rescuing) + await rescue_once(conn, LEASE) == 200
    rows = await (await conn.execute("SELECT outcome::text, count(*) FROM taskflow.attempts GROUP BY 1")).fetchall()
    assert dict(rows) == {"lost": 200, "failed": 200}
    assert await ask(conn, "SELECT count(DISTINCT task_id) FROM taskflow.attempts") == 400
    assert await ask(conn, "SELECT count(*) FROM taskflow.tasks WHERE status = 'queued'") == 400
    assert await (await conn.execute("SELECT * FROM taskflow.tasks WHERE status = 'succeeded'")).fetchall() == untouched


async def test_a_recovery_that_races_finishes_leaves_one_row_of_history_for_each_step(
    conn: Connection, connections: Connect, make_task: MakeTask, make_worker: MakeWorker, seed: int
):
    """A thousand times: a recovery, the outcome that is in time, and one of an earlier attempt that comes too late."""
    chance = random.Random(seed)
    worker, former = await make_worker(), await make_worker()
    recovering, finishing, late = await connections(3)
    for _ in range(rounds(300, 1000)):
        id = await make_task(Status.RUNNING, worker=worker, attempt=2)
        fails = chance.random() < 0.5
        recovered, finished, dropped = await asyncio.gather(
            recover(recovering, Status.FAILED, 0, 10),
            fail(finishing, worker, [id], [2], ["boom"]) if fails else succeed(finishing, worker, 2, [id]),
            succeed(late, former, 2, [id]) if chance.random() < 0.5 else fail(late, worker, [id], [1], ["late"]),
        )
        assert (finished, dropped) == ({id}, set())
        expected = [("queued", "running"), ("running", "failed" if fails else "succeeded")]
        if recovered:
            assert fails
            expected.append(("failed", "queued"))
        assert [step[:2] for step in await history(conn, id)] == expected
        await conn.execute("DELETE FROM taskflow.tasks")


async def test_changes_of_the_same_tasks_in_opposite_orders_show_no_deadlock_to_anybody(
    dsn: str,
    conn: Connection,
    connections: Connect,
    make_worker: MakeWorker,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
):
    chance = random.Random(seed)
    workers = [await make_worker() for _ in range(4)]
    ids: list[int] = []
    ends_at = time.monotonic() + rounds(8, 60)
    done: Counter[str] = Counter()

    async def refill(conn: Connection) -> int:
        """Put tasks in the place of those that were deleted."""
        added = await (await conn.execute(REFILL)).fetchall()
        ids[:] = [id for (id,) in await (await conn.execute("SELECT id FROM taskflow.tasks")).fetchall()]
        return len(added)

    async def repeat(name: str, act: Callable[[], Awaitable[int]]) -> None:
        while time.monotonic() < ends_at:
            done[name] += await act()

    def some() -> list[int]:
        chosen = sorted(chance.sample(ids, min(200, len(ids))))
        return chance.choice([chosen, chosen[::-1], chance.sample(chosen, len(chosen))])

    def an_outcome() -> Outcome:
        return chance.choice([Succeeded(), Succeeded(b"1"), Failed("boom"), Retry("boom", timedelta()), Released("")])

    def works(conn: Connection, worker: int) -> Callable[[], Awaitable[int]]:
        async def work() -> int:
            try:
                tasks: list[ClaimedTask] = await claim(conn, worker, EVERYDAY, 60)
            except LockNotAvailable:  # a worker looks again
                return 0
            chance.shuffle(tasks)
            recorded: set[int] = set()
            await record(conn, worker, [(task, an_outcome()) for task in tasks], recorded)
            await keepers[0].follow_up(conn, sorted(recorded))
            return len(recorded)

        return work

    def act(verb: Callable[..., Awaitable[set[int]]], conn: Connection) -> Callable[[], Awaitable[int]]:
        async def once() -> int:
            return len(await verb(conn, some()))

        return once

    async def prunes(conn: Connection) -> int:
        return (await prune(conn, chance.choice(FINAL), 0, limit=20)).deleted

    async def deletes(conn: Connection) -> int:
        return len(await delete_final(conn, some()[:20]))

    async def moves(conn: Connection) -> int:
        return len(await reprioritise(conn, some(), chance.choice(EVERYDAY)))

    await refill(conn)
    said = record_log(monkeypatch, link_module)
    links = [Link(dsn, "taskflow finish test", statement_timeout=30) for _ in range(6)]
    keepers = [Gatekeeper(link, asyncio.Event(), Registry(), 20, None) for link in links[4:]]
    for keeper in keepers:
        await keeper.look(conn)
    keeping = [asyncio.create_task(keeper.run()) for keeper in keepers]
    opened = await connections(15)
    jobs = [
        repeat("finished", works(await link.get(), worker)) for link, worker in zip(links[:4], workers, strict=True)
    ]
    jobs += [repeat("refilled", partial(refill, conn))]
    jobs += [repeat("cancelled", act(cancel, each)) for each in opened[:3]]
    jobs += [repeat("retried by hand", act(retry_by_hand, each)) for each in opened[3:6]]
    jobs += [repeat("recovered", partial(recover, opened[6 + n], STATUSES[n], 0, 100)) for n in range(2)]
    jobs += [repeat("pruned", partial(prunes, each)) for each in opened[8:10]]
    jobs += [repeat("deleted", partial(deletes, each)) for each in opened[10:12]]
    jobs += [repeat("moved", partial(moves, each)) for each in opened[12:14]]
    jobs += [repeat("rescued", lambda: rescue(opened[14], chance.choice(workers), 50))]
    ended = await asyncio.gather(*jobs, return_exceptions=True)
    for job in keeping:
        job.cancel()
    await asyncio.gather(*keeping, return_exceptions=True)
    for link in links:
        await link.close()
    assert ended == [None] * len(jobs)
    # Nor was a gatekeeper refused anything, though it may have given in.
    assert [line for line in said if "lock timeout" not in line.get("reason", "lock timeout")] == []
    assert len(done) == 9
    assert min(done.values()) > 0, done
