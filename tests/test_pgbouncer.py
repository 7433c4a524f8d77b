"""Through PgBouncer in transaction mode: with the server itself for what needs a session, and without anything else."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from bouncer import PROGRAM, bouncer
from commands import run, until
from psycopg.rows import dict_row
from serving import served
from support import PATIENCE, Workers, kill

from taskflow.connection import PooledConnection
from taskflow.database import connect, open_pool
from taskflow.queue.cancel import cancel

needs_bouncer = pytest.mark.skipif(PROGRAM is None, reason="there is no pgbouncer; apt-get install pgbouncer")

PROMPTLY = 10.0


# --- a pooled connection, which may as well lead to the server itself -------------------------------------------------


@pytest.fixture
async def pooled(dsn: str) -> AsyncIterator[PooledConnection]:
    async with await connect(dsn, "test", settings={"statement_timeout": "200"}, pooled=True) as conn:
        assert isinstance(conn, PooledConnection)
        yield conn


async def timeouts(conn: psycopg.AsyncConnection[Any]) -> str:
    async with conn.cursor(row_factory=dict_row) as cursor:
        row = await (await cursor.execute("SELECT current_setting('statement_timeout') AS limit")).fetchone()
    assert row is not None
    return row["limit"]


async def test_settings_hold_within_each_transaction_and_leave_nothing_in_the_session(pooled: PooledConnection):
    with pytest.raises(psycopg.errors.QueryCanceled):
        await pooled.execute("SELECT pg_sleep(30)")
    assert await timeouts(pooled) == "200ms"
    async with pooled.transaction():
        assert await timeouts(pooled) == "200ms"
        async with pooled.transaction():
            assert await timeouts(pooled) == "200ms"
    pooled.cursor_factory = psycopg.AsyncCursor  # past our own transactions
    assert await timeouts(pooled) == "0"


async def test_a_pooled_connection_prepares_nothing(pooled: PooledConnection):
    for _ in range(12):
        await pooled.execute("SELECT %s::integer", [1])
    cursor = await pooled.execute("SELECT count(*) FROM pg_prepared_statements")
    assert await cursor.fetchone() == (0,)


async def test_a_statement_of_a_pooled_connection_is_committed_or_nothing(pooled: PooledConnection, dsn: str):
    await pooled.execute("SELECT taskflow.enqueue('t')")
    with pytest.raises(psycopg.errors.DivisionByZero):
        await pooled.execute("SELECT taskflow.enqueue('t'), 1 / 0")
    async with pooled.transaction(force_rollback=True):
        await pooled.execute("SELECT taskflow.enqueue('t')")
    async with await connect(dsn, "test") as conn:
        assert await (await conn.execute("SELECT count(*) FROM taskflow.tasks")).fetchone() == (1,)


async def test_a_pooled_pool_limits_its_statements(dsn: str):
    async with (
        open_pool(dsn, "test", max_size=2, statement_timeout=0.2, pooled=True) as pool,
        pool.connection() as conn,
    ):
        with pytest.raises(psycopg.errors.QueryCanceled):
            await conn.execute("SELECT pg_sleep(30)")


async def test_without_sessions_the_end_of_a_task_is_waited_for_by_looks(dsn: str):
    async with (
        served(dsn, database_url=dsn, db_pooler="transaction") as client,
        await connect(dsn, "test") as conn,
    ):
        task = (await client.post("/tasks", json={"name": "n", "type": "anything", "payload": {}})).json()
        waiting = asyncio.create_task(client.get(f"/tasks/{task['added_task_id']}?wait=20", timeout=30))
        await asyncio.sleep(0)
        await cancel(conn, [task["added_task_id"]])
        assert (await waiting).json()["status"] == "cancelled"
        assert (await client.get("/events", timeout=30)).status_code == 503


# --- everything through a real PgBouncer ------------------------------------------------------------------------------


@pytest.fixture
def way(workers: Workers) -> Iterator[str]:
    with bouncer(workers.database.dsn) as way:
        yield way


@pytest.fixture
def with_sessions(workers: Workers, way: str) -> dict[str, str]:
    """The settings of a pooler with the server itself beside it."""
    return {"DATABASE_URL": way, "DATABASE_SESSION_URL": workers.database.dsn}


@pytest.fixture
def sessionless(way: str) -> dict[str, str]:
    """The settings of a pooler and nothing else."""
    return {"DATABASE_URL": way, "DB_POOLER": "transaction"}


both = pytest.mark.parametrize("mode", ["with_sessions", "sessionless"])


async def enqueue(settings: Mapping[str, str], types: Mapping[str, int]) -> None:
    """Enqueue so many tasks of each type over HTTP, by a server with *settings*."""
    given = {name.lower(): value for name, value in settings.items()}
    async with served(settings["DATABASE_URL"], **given) as client:
        at_once = asyncio.Semaphore(50)  # a slow machine shall not take longer for one than a request may
        await asyncio.gather(*(post(client, type, at_once) for type, count in types.items() for _ in range(count)))


async def post(client: httpx.AsyncClient, type: str, at_once: asyncio.Semaphore) -> None:
    async with at_once:
        answer = await client.post("/tasks", json={"name": type, "type": "anything", "payload": {"a": 1}}, timeout=30)
    assert answer.status_code == 200, answer.text


@needs_bouncer
@both
def test_tasks_enqueued_over_http_run_once_each(workers: Workers, mode: str, request: pytest.FixtureRequest):
    db, settings = workers.database, request.getfixturevalue(mode)
    (workers.directory / "anything.py").write_text(
        "from taskflow import task\nfrom tasks_of_the_test import enter\n"
        "@task('anything')\nasync def anything(payload: dict): enter('done')\n"
    )
    running = [workers.start_ready("--id", name, "--app", "anything", **settings) for name in ("1", "2")]
    asyncio.run(enqueue(settings, {"anything": 500}))
    failing = [db.enqueue("fail_once") for _ in range(20)]
    db.await_all("succeeded")
    assert db.one("SELECT count(*) FROM taskflow.tasks") == 520
    assert db.rows("SELECT FROM ledger WHERE event = 'done' GROUP BY task_id HAVING count(*) > 1") == []
    assert db.one("SELECT count(*) FROM ledger WHERE event = 'done'") == 500
    assert db.one("SELECT count(*) FROM taskflow.task_history WHERE new_status = 'succeeded'") == 520
    for task in failing:
        assert workers.ledger(task) == [(1, "began"), (2, "began")]
    for worker in running:
        assert "database." not in worker.said
    assert leaked(settings["DATABASE_URL"]) == {("0", "0", "0", "on")}


def leaked(way: str) -> set[tuple[str, ...]]:
    """What is in force in the server's sessions behind the pooler, asked on several at once."""
    conns = [psycopg.connect(way, prepare_threshold=None) for _ in range(3)]
    try:
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "jit")
        asked = ", ".join(f"current_setting('{name}')" for name in names)
        return {row for conn in conns for row in conn.execute(f"SELECT {asked}")}  # pyright: ignore[reportArgumentType, reportCallIssue]
    finally:
        for conn in conns:
            conn.close()


@needs_bouncer
@both
def test_the_tasks_of_a_killed_worker_are_rescued(
    workers: Workers, tmp_path: Path, mode: str, request: pytest.FixtureRequest
):
    db, settings = workers.database, request.getfixturevalue(mode) | {"WORKER_LEASE_IN_SECONDS": "2"}
    gate = tmp_path / "gate"
    task = db.enqueue("wait_for_file", {"file": str(gate)})
    first = workers.start_ready("--id", "1", **settings)
    workers.await_entry(task)
    workers.start_ready("--id", "2", **settings)
    kill(first)
    gate.touch()
    db.await_status(task, "succeeded")
    assert workers.ledger(task) == [(1, "began"), (2, "began"), (2, "done")]


@needs_bouncer
def test_with_sessions_an_idle_worker_is_woken_also_after_its_session_was_cut(
    workers: Workers, with_sessions: dict[str, str]
):
    db = workers.database
    worker = workers.start_sleepy("--id", "1", **with_sessions)
    db.await_status(db.enqueue("quick"), "succeeded", PROMPTLY)
    assert db.cut("taskflow worker 1") == 1
    worker.await_said("presence.restored")
    db.await_status(db.enqueue("quick"), "succeeded", PROMPTLY)
    assert db.sessions("taskflow worker 1") != []
    assert len(advisory_locks(workers)) == 4  # its name, and the idle lock of each priority, by one session
    assert len({pid for (pid,) in advisory_locks(workers)}) == 1


def advisory_locks(workers: Workers) -> list[tuple[int]]:
    """The sessions that hold an advisory lock, once for each."""
    return workers.database.rows(
        """
        SELECT pid FROM pg_locks
        WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        """
    )


@needs_bouncer
def test_without_sessions_an_idle_worker_polls_and_holds_no_lock(workers: Workers, sessionless: dict[str, str]):
    db = workers.database
    worker = workers.start_ready("--id", "1", WORKER_POLL_IN_SECONDS="0.5", **sessionless)
    assert "worker.sessionless" in worker.said
    began = db.one("SELECT clock_timestamp()")
    until(lambda: db.one("SELECT bool_and(heartbeat_at > %s) FROM taskflow.workers", began))
    task = db.enqueue("quick")
    db.await_status(task, "succeeded", PROMPTLY)
    assert advisory_locks(workers) == []


@needs_bouncer
def test_without_sessions_a_name_belongs_to_who_beats(workers: Workers, tmp_path: Path, sessionless: dict[str, str]):
    db, settings = workers.database, sessionless | {"WORKER_LEASE_IN_SECONDS": "3"}
    first = workers.start_ready("--id", "1", **settings)
    task = db.enqueue("wait_for_file", {"file": str(tmp_path / "gate")})
    workers.await_entry(task)
    second = workers.start("--id", "1", **settings)
    assert second.process.wait(PATIENCE) == 1
    assert "worker 1 is already running on" in second.said
    assert f"(pid {first.process.pid})" in second.said
    kill(first)
    (tmp_path / "gate").touch()
    workers.start_ready("--id", "1", **settings)
    db.await_status(task, "succeeded")
    assert workers.ledger(task) == [(1, "began"), (2, "began"), (2, "done")]
    assert db.one("SELECT count(*) FROM taskflow.workers WHERE stopped_at IS NULL") == 1


@needs_bouncer
def test_migrations_go_past_the_pooler_or_are_refused(workers: Workers, work_dir: Path, way: str):
    refused = run(work_dir, "taskflow", "migrate", DATABASE_URL=way, DB_POOLER="transaction")
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("Error: migrations need a session of their own")
    done = run(work_dir, "taskflow", "migrate", DATABASE_URL=way, DATABASE_SESSION_URL=workers.database.dsn)
    assert done.stdout == "the schema is up to date\n", done.stderr
