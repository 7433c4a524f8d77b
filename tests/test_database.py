"""Connections that are up, but on which nothing is written: standbys, ended sessions, commits that no standby has."""

import asyncio
import select
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import PoolTimeout
from serving import until
from support import PATIENCE

from taskflow.database import AWAY, Connection, Pool, connect, open_pool, wait_until_up
from taskflow.embedded import private_server
from taskflow.errors import DatabaseUnavailable


@pytest.fixture
def read_only(dsn: str) -> str:
    """The DSN of a server that takes no writes, as a standby takes none."""
    return make_conninfo(dsn, options="-c default_transaction_read_only=on")


async def test_a_write_on_a_standby_counts_as_a_database_that_is_away(read_only: str):
    async with await psycopg.AsyncConnection.connect(read_only, autocommit=True) as conn:
        with pytest.raises(AWAY):
            await conn.execute("DELETE FROM taskflow.tasks")


async def test_no_connection_stays_on_a_standby(read_only: str):
    with pytest.raises(psycopg.OperationalError, match="standby"):
        await connect(read_only, "test")


async def test_no_pool_keeps_a_connection_to_a_standby(read_only: str):
    async with open_pool(read_only, "test", max_size=1, statement_timeout=5, wait=0.5) as pool:
        with pytest.raises(PoolTimeout):
            await pool.getconn()


async def test_a_standby_is_not_up(read_only: str):
    with pytest.raises(DatabaseUnavailable, match="standby"):
        await wait_until_up(read_only, 0.5)


@asynccontextmanager
async def talkative(dsn: str) -> AsyncGenerator[str]:
    """A way to *dsn* that adds a word of its own when Postgres ends a session, as PgBouncer does."""
    parts = conninfo_to_dict(dsn)
    host, port = str(parts["host"]), int(parts.get("port") or 5432)
    fields = b"SFATAL\0C08P01\0Mserver conn crashed?\0\0"

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if host.startswith("/"):
            far_reader, far_writer = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            far_reader, far_writer = await asyncio.open_connection(host, port)

        async def forth() -> None:
            while block := await reader.read(65536):
                far_writer.write(block)

        going = asyncio.create_task(forth())
        while block := await far_reader.read(65536):
            writer.write(block)
        writer.write(b"E" + (len(fields) + 4).to_bytes(4) + fields)
        await writer.drain()
        going.cancel()
        far_writer.close()
        writer.close()

    async with await asyncio.start_server(carry, "127.0.0.1", 0) as listener:
        yield make_conninfo(dsn, host="127.0.0.1", port=listener.sockets[0].getsockname()[1])


async def test_a_transaction_on_a_session_that_was_ended_counts_as_away(conn: Connection, dsn: str):
    async with talkative(dsn) as way, await connect(way, "ended") as ended:
        await conn.execute("SELECT pg_terminate_backend(%s, 10000)", [ended.info.backend_pid])
        assert await asyncio.to_thread(select.select, [ended.fileno()], [], [], 30) != ([], [], [])  # its last words
        with pytest.raises(AWAY):
            async with ended.transaction():
                pass


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DSN of a primary whose synchronous standby is away, so that commits wait."""
    directory = tmp_path_factory.mktemp("lonely")
    with private_server(directory, durable=True, options=["synchronous_standby_names=nobody"]) as dsn:
        with psycopg.connect(dsn, autocommit=True, options="-c synchronous_commit=local") as conn:
            conn.execute("CREATE TABLE kept (number integer)")
        yield dsn


async def cancel_the_wait(lonely: str) -> None:
    """Cancel the commit that waits for the standby, once it does."""
    async with await psycopg.AsyncConnection.connect(lonely, autocommit=True) as conn:

        async def cancelled() -> bool:
            cursor = await conn.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            )
            return await cursor.fetchone() == (True,)

        await until(cancelled, PATIENCE)


async def insert(conn: Connection) -> None:
    """A statement that commits by itself."""
    await conn.execute("INSERT INTO kept VALUES (1)")


async def insert_in_a_transaction(conn: Connection) -> None:
    """A commit of its own."""
    async with conn.transaction():
        await conn.execute("INSERT INTO kept VALUES (2)")


@pytest.mark.parametrize("write", [insert, insert_in_a_transaction])
async def test_a_commit_that_no_standby_confirmed_is_not_acknowledged(
    lonely: str, write: Callable[[Connection], Coroutine[Any, Any, None]]
):
    conn = await connect(lonely, "test")
    writing = asyncio.create_task(write(conn))
    await cancel_the_wait(lonely)
    with pytest.raises(DatabaseUnavailable, match="no standby"):
        await writing
    assert conn.closed


async def test_a_pool_goes_on_after_a_commit_that_no_standby_confirmed(lonely: str):
    async def write(pool: Pool) -> None:
        async with pool.connection() as conn:
            await insert(conn)

    async with open_pool(lonely, "test", max_size=1, statement_timeout=60) as pool:
        for _ in range(2):
            writing = asyncio.create_task(write(pool))
            await cancel_the_wait(lonely)
            with pytest.raises(DatabaseUnavailable, match="no standby"):
                await writing


async def test_a_warning_of_another_kind_does_not_end_the_connection(conn: Connection):
    await conn.execute("DO $$ BEGIN RAISE WARNING 'canceling wait for synchronous replication'; END $$")
    assert await (await conn.execute("SELECT 1")).fetchone() == (1,)
