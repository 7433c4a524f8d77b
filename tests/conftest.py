"""A real Postgres for every test: embedded by default, or a container, or any server that TASKFLOW_TEST_DSN names."""

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, LiteralString
from unittest.mock import patch
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier
from support import Workers, working

from taskflow.database import Connection, connect
from taskflow.embedded import private_server
from taskflow.migrate import migrate
from taskflow.model import Priority, Status
from taskflow.settings import VARIABLES


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a server on which databases may be created."""
    if given := os.environ.get("TASKFLOW_TEST_DSN"):
        yield given
    elif os.environ.get("TASKFLOW_TEST_POSTGRES") == "container":
        with _container() as dsn:
            yield dsn
    else:
        with private_server(tmp_path_factory.mktemp("postgres"), options=["max_connections=300"]) as dsn:
            yield dsn


@contextmanager
def _container() -> Generator[str]:
    from testcontainers.postgres import PostgresContainer

    with PostgresContainer("postgres:18", driver=None) as postgres:
        yield postgres.get_connection_url()


@contextmanager
def _database(server: str, template: str | None = None) -> Generator[str]:
    name = f"taskflow_test_{uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as admin:
        create = SQL("CREATE DATABASE {}").format(Identifier(name))
        if template is not None:
            create += SQL(" TEMPLATE {}").format(Identifier(template))
        admin.execute(create)
        try:
            yield make_conninfo(server, dbname=name)
        finally:
            admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def _name_of(dsn: str) -> str:
    return str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture
def empty_database(server: str) -> Iterator[str]:
    """The DSN of a database of this test's own, without Taskflow's schema."""
    with _database(server) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """The DSN of a migrated database that nobody writes to."""
    with _database(server) as dsn:
        migrate(dsn)
        yield dsn


@pytest.fixture
def own_database(server: str, template: str) -> Iterator[str]:
    """The DSN of a migrated database of this test's own, for tests that start real processes."""
    with _database(server, _name_of(template)) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def module_database(server: str, template: str) -> Iterator[str]:
    """The DSN of a migrated database of this module's own, for one process that several tests talk to."""
    with _database(server, _name_of(template)) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def shared_database(server: str, template: str) -> Iterator[str]:
    """The DSN of the migrated database that quick tests share."""
    with _database(server, _name_of(template)) as dsn:
        yield dsn


@pytest.fixture
def dsn(shared_database: str) -> str:
    """The shared database, emptied before the test; ids go on growing."""
    with psycopg.connect(shared_database, autocommit=True) as conn:
        conn.execute(
            "DELETE FROM taskflow.tasks; DELETE FROM taskflow.attempts; DELETE FROM taskflow.workers;"
            "DELETE FROM taskflow.schedules; DELETE FROM taskflow.holds; DELETE FROM taskflow.members;"
            "DELETE FROM taskflow.groups; DELETE FROM taskflow.idempotency_keys"
        )
    return shared_database


async def _connect(dsn: str) -> Connection:
    conn = await connect(dsn, "test")
    await conn.execute("SET lock_timeout = '20s'")  # a lock that should not be waited for fails the test
    return conn


@pytest.fixture
async def conn(dsn: str) -> AsyncIterator[Connection]:
    """An autocommit connection to the emptied database."""
    async with await _connect(dsn) as conn:
        yield conn


Connect = Callable[[int], Awaitable[list[Connection]]]


@pytest.fixture
async def connections(dsn: str) -> AsyncIterator[Connect]:
    """``await connections(n)``: *n* more autocommit connections, for tests where several claim at once."""
    async with AsyncExitStack() as opened:

        async def open_more(count: int) -> list[Connection]:
            return [await opened.enter_async_context(await _connect(dsn)) for _ in range(count)]

        yield open_more


async def ask(conn: Connection, query: LiteralString, *parameters: object) -> Any:
    """The first column of the only row that *query* answers."""
    row = await (await conn.execute(query, parameters)).fetchone()
    assert row is not None
    return row[0]


async def look(conn: Connection, id: int) -> dict[str, Any]:
    """The task's row, all columns."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        row = await (await cursor.execute("SELECT * FROM taskflow.tasks WHERE id = %s", [id])).fetchone()
    assert row is not None
    return row


Step = tuple[str, str, int, int | None, str | None]


async def history(conn: Connection, id: int) -> list[Step]:
    """The task's transitions, oldest first, as (old status, new status, attempt, worker id, reason)."""
    cursor = await conn.execute(
        """
        SELECT old_status::text, new_status::text, attempt, worker_id, reason
        FROM taskflow.task_history
        WHERE task_id = %s
        """,
        [id],
    )
    return await cursor.fetchall()


MakeWorker = Callable[..., Awaitable[int]]
MakeTask = Callable[..., Awaitable[int]]


@pytest.fixture
def make_worker(conn: Connection) -> MakeWorker:
    """``await make_worker(silent_for=0, stopped=False, name=…)``: the id of a worker's row."""

    async def make(*, name: str | None = None, silent_for: float = 0, stopped: bool = False) -> int:
        return await ask(
            conn,
            """
            INSERT INTO taskflow.workers (name, host, pid, version, priorities, concurrency, heartbeat_at, stopped_at)
            VALUES (%s, 'test', 1, '0', '{high,normal,low}', 10, now() - make_interval(secs => %s),
                    CASE WHEN %s THEN now() END)
            RETURNING id
            """,
            name or uuid4().hex,
            silent_for,
            stopped,
        )

    return make


@pytest.fixture
async def worker(make_worker: MakeWorker) -> int:
    """The id of a worker that lives."""
    return await make_worker()


@pytest.fixture
async def other(make_worker: MakeWorker) -> int:
    """The id of another worker that lives."""
    return await make_worker()


@pytest.fixture
def make_task(conn: Connection, make_worker: MakeWorker) -> MakeTask:
    """``await make_task(status=…, attempt=…, worker=…, …)``: the id of a task in that state, as if it had come there.

    Other columns are given by name: ``payload``, ``error``, ``max_attempts``, ``scheduled_at``, ``updated_at``, …
    """

    async def make(status: Status = Status.QUEUED, *, worker: int | None = None, **columns: Any) -> int:
        given = {"name": "a task", "type": "send_email", "priority": Priority.NORMAL.value} | columns
        if status is not Status.QUEUED:
            given.setdefault("attempt", 0 if status is Status.CANCELLED and worker is None else 1)
        if status in {Status.RUNNING, Status.SUCCEEDED, Status.FAILED} or worker is not None:
            given["worker_id"] = worker if worker is not None else await make_worker()
        if status is Status.FAILED:
            given.setdefault("error", "boom")
        names = SQL(", ").join(map(Identifier, given))
        values = SQL(", ").join(SQL("%s") for _ in given)
        statement = SQL(
            "INSERT INTO taskflow.tasks ({}, status, started_at, finished_at) VALUES ({}, %s, {}, {}) RETURNING id"
        ).format(
            names,
            values,
            SQL("now()" if "worker_id" in given else "NULL"),
            SQL("now()" if status.is_final else "NULL"),
        )
        row = await (await conn.execute(statement, [*given.values(), status.value])).fetchone()
        assert row is not None
        return row[0]

    return make


@pytest.fixture
def seed() -> int:
    """What the test's random choices start from; those of an earlier run come again with its TASKFLOW_TEST_SEED."""
    given = os.environ.get("TASKFLOW_TEST_SEED")
    seed = int(given) if given else random.randrange(2**32)
    print(f"TASKFLOW_TEST_SEED={seed}")
    return seed


@pytest.fixture
def work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory without settings of the outside world; what a ``.env`` sets ends with the test."""
    monkeypatch.chdir(tmp_path)
    with patch.dict(os.environ):
        for name in VARIABLES:
            os.environ.pop(name, None)
        yield tmp_path


@pytest.fixture
def workers(own_database: str, tmp_path: Path) -> Iterator[Workers]:
    """Worker processes over a database of this test's own; what still runs is killed after it."""
    with working(own_database, tmp_path) as workers:
        yield workers
