"""The plans of the hot statements hold at size, with statistics that are stale and fresh, generic and custom."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg.sql import SQL, Literal

from taskflow.database import Connection, connect
from taskflow.model import EVERYDAY
from taskflow.queue import claim, finish
from taskflow.queue.gates import admit

ROWS = 200_000

FILL = """
INSERT INTO taskflow.tasks (name, type, payload, priority, scheduled_at)
SELECT 'a task', 'noop', '{}', (enum_range(NULL::taskflow.priority))[1 + number %% 3],
       now() - make_interval(secs => %(rows)s - number)
FROM generate_series(1, %(rows)s) AS number
"""

CLAIM_VALUES: dict[str, Any] = {
    "worker": 1,
    "priorities": ["high", "normal", "low"],
    "scheduled_at": [claim.START.scheduled_at] * 3,
    "ids": [0, 0, 0],
    "limit": 500,
    "excluded": ["paused"],
}


@pytest.fixture
async def big(own_database: str) -> AsyncIterator[Connection]:
    """A connection to a database with 200,000 queued tasks that no ANALYZE has seen."""
    async with await connect(own_database, "test") as conn:
        await conn.execute("ALTER TABLE taskflow.tasks SET (autovacuum_enabled = off)")
        await conn.execute(
            "INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency)"
            " VALUES ('1', 'here', 1, '0', '{high}', 1)"
        )
        await conn.execute(FILL, {"rows": ROWS})
        yield conn


async def explain(conn: Connection, statement: str, values: dict[str, Any], *, generic: bool) -> str:
    """The plan of *statement*, rolled back; *generic*: the plan for any parameters, which the worker's sessions use."""
    await conn.execute(f"SET plan_cache_mode = force_{'generic' if generic else 'custom'}_plan".encode())
    values = {name: value for name, value in values.items() if f"%({name})s" in statement}
    numbered = statement % {name: f"${number}" for number, name in enumerate(values, 1)}
    await conn.execute(f"PREPARE hot AS {numbered}".encode())
    try:
        async with conn.transaction(force_rollback=True):
            arguments = SQL(", ").join(map(Literal, values.values()))
            cursor = await conn.execute(SQL("EXPLAIN (ANALYZE, COSTS OFF) EXECUTE hot ({})").format(arguments))
            return "\n".join(line for (line,) in await cursor.fetchall())
    finally:
        await conn.execute("DEALLOCATE hot")


def assert_reads_no_more_than_it_claims(plan: str) -> None:
    assert "Seq Scan on tasks" not in plan, plan
    assert "Index Scan using tasks_ready" in plan, plan
    assert "tasks_pkey" in plan, plan
    assert "Sort" not in plan, plan


@pytest.mark.parametrize("generic", [False, True], ids=["custom plan", "generic plan"])
@pytest.mark.parametrize("fresh", [False, True], ids=["stale statistics", "fresh statistics"])
async def test_a_claim_walks_the_ready_index_and_looks_up_what_it_claims(
    big: Connection, fresh: bool, generic: bool
) -> None:
    if fresh:
        await big.execute("ANALYZE taskflow.tasks")
    plan = await explain(big, claim.CLAIM, CLAIM_VALUES, generic=generic)
    assert_reads_no_more_than_it_claims(plan)


@pytest.mark.parametrize("generic", [False, True], ids=["custom plan", "generic plan"])
@pytest.mark.parametrize("fresh", [False, True], ids=["stale statistics", "fresh statistics"])
async def test_a_finish_looks_tasks_up_by_their_ids(big: Connection, fresh: bool, generic: bool) -> None:
    if fresh:
        await big.execute("ANALYZE taskflow.tasks")
    claimed = await claim.claim(big, 1, EVERYDAY, 500)
    ids, attempts = [task.id for task in claimed], [1] * len(claimed)
    given = {"worker": 1, "attempt": 1, "ids": ids, "attempts": attempts}
    statements: list[tuple[str, dict[str, Any]]] = [
        (finish.SUCCEED, given),
        (finish.SUCCEED_WITH_RESULTS, given | {"results": json.dumps(ids)}),
        (finish.FAIL, given | {"errors": ["boom"] * len(ids)}),
        (finish.RETRY, given | {"errors": ["boom"] * len(ids), "delays": ["1 s"] * len(ids)}),
        (finish.RELEASE, given),
    ]
    for statement, values in statements:
        plan = await explain(big, statement, values, generic=generic)
        assert "Seq Scan on tasks" not in plan, plan
        assert "tasks_running" not in plan, plan
        assert "tasks_pkey" in plan, plan


HOLD = """
WITH stored AS (
    INSERT INTO taskflow.tasks (name, type, priority, held)
    SELECT 'n', 'noop', 'high', true FROM generate_series(1, 20000)
    RETURNING id, priority, scheduled_at
)
INSERT INTO taskflow.holds (task_id, scheduled_at, priority, state, position, gate)
SELECT id, scheduled_at, priority, 'waiting', 2, 'tenant:high:large' FROM stored
"""


async def test_an_admission_reads_what_it_admits_however_many_are_held_of_which_no_analyze_knows(
    big: Connection,
) -> None:
    await big.execute("ANALYZE taskflow.tasks")
    await big.execute(HOLD)
    async with big.transaction():
        admission = await admit(big, ["tenant:high:large"])
        cursor = await big.execute("SELECT idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'tasks'")
        ((read,),) = await cursor.fetchall()
    assert admission.admitted == 3
    assert read < 100


async def test_a_first_batch_with_gates_does_not_search_the_table_for_each_task(own_database: str) -> None:
    async with await connect(own_database, "test") as conn, conn.transaction():
        tasks = json.dumps([{"type": "noop", "tenant": "acme"}] * 200)
        await conn.execute("SELECT taskflow.enqueue_many(%s)", [tasks])
        cursor = await conn.execute("SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'tasks'")
        assert await cursor.fetchall() == [(0,)]
