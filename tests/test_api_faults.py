"""The API when Postgres or the client does not do its part, behind a real server."""

import asyncio
from collections.abc import AsyncGenerator

import httpx
import pytest
from conftest import MakeTask
from serving import Wire, dialled, head, is_problem, served, stored, until, waiting_for_a_lock, wire
from structlog.testing import capture_logs

from taskflow.database import Connection

API = "taskflow api"
TASK = {"name": "a task", "type": "anything", "payload": {"a": 1}}


async def fails_for_now(answer: httpx.Response) -> bool:
    """Whether *answer* says: not now, but later."""
    return is_problem(answer, 503) and int(answer.headers["retry-after"]) > 0


async def test_an_enqueue_that_takes_too_long_is_cancelled_and_stores_nothing(dsn: str, conn: Connection):
    async with served(dsn, server_time_out_in_seconds=0.5) as client:
        async with conn.transaction():
            await conn.execute("LOCK TABLE taskflow.tasks IN SHARE MODE")
            answers = await asyncio.gather(*(client.post("/tasks", json=TASK) for _ in range(5)))
            assert all([await fails_for_now(answer) for answer in answers])
            await until(lambda: waiting_for_a_lock(conn, API, 0))
        assert await stored(conn) == []
        answer = await client.post("/tasks", json=TASK)
        assert [id for id, *_ in await stored(conn)] == [answer.json()["added_task_id"]]


@pytest.mark.parametrize("below", ["", "/history"])
async def test_a_look_that_takes_too_long_is_cancelled(dsn: str, conn: Connection, make_task: MakeTask, below: str):
    id = await make_task()
    async with served(dsn, server_time_out_in_seconds=0.5) as client:
        async with conn.transaction():
            await conn.execute("LOCK TABLE taskflow.tasks IN ACCESS EXCLUSIVE MODE")
            assert await fails_for_now(await client.get(f"/tasks/{id}{below}"))
            await until(lambda: waiting_for_a_lock(conn, API, 0))
        assert (await client.get(f"/tasks/{id}{below}")).status_code == 200


async def test_a_body_that_comes_too_slowly_is_given_up(dsn: str, conn: Connection):
    async with served(dsn, server_time_out_in_seconds=0.5) as client, dialled(client) as (reader, writer):
        writer.write(head(1000) + b'{"name": "a')
        assert b" 408 " in await reader.readline()
        assert (await client.post("/tasks", json=TASK)).status_code == 200
        assert len(await stored(conn)) == 1


async def test_a_client_that_leaves_in_the_middle_of_its_body_stores_nothing_and_is_no_news(dsn: str, conn: Connection):
    with capture_logs() as lines:
        async with served(dsn) as client:
            async with dialled(client) as (_, writer):
                writer.write(head(1000) + b'{"name": "a')
                await writer.drain()
            assert (await client.post("/tasks", json=TASK)).status_code == 200
            assert len(await stored(conn)) == 1
    assert lines == []


@pytest.mark.parametrize("size", [1_000_001, 20_000_000])
async def test_a_connection_outlives_a_body_that_is_too_large(dsn: str, conn: Connection, size: int):
    body = b" " * size
    async with served(dsn) as client, dialled(client) as (reader, writer):
        writer.write(head(size) + body + head(2) + b"{}")
        assert b" 413 " in await reader.readline()
        rest = await reader.readuntil(b"HTTP/1.1 ")
        assert b"problem+json" in rest
        assert (await reader.readline()).startswith(b"400")
    assert await stored(conn) == []


async def test_a_body_whose_size_is_not_announced_has_the_same_limit(dsn: str, conn: Connection):
    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(30):
            yield b" " * 65_536

    async with served(dsn) as client:
        answer = await client.post("/tasks", content=pieces(), headers={"content-type": "application/json"})
        assert is_problem(answer, 413)
    assert await stored(conn) == []


async def test_head_answers_like_get_without_the_body(dsn: str, make_task: MakeTask):
    id = await make_task()
    async with served(dsn) as client:
        for path in [f"/tasks/{id}", f"/tasks/{id}/history", "/readiness", "/liveness"]:
            seen, told = await client.get(path), await client.head(path)
            assert (told.status_code, told.content) == (200, b"")
            assert told.headers["content-length"] == seen.headers["content-length"]


async def test_while_postgres_is_away_clients_are_asked_to_come_again(dsn: str, conn: Connection):
    async with wire(dsn) as way, served(way.dsn) as client:
        assert (await client.post("/tasks", json=TASK)).status_code == 200
        await way.cut()
        enqueued, seen, history, ready, alive = await asyncio.gather(
            client.post("/tasks", json=TASK),
            client.get("/tasks/1"),
            client.get("/tasks/1/history"),
            client.get("/readiness"),
            client.get("/liveness"),
        )
        assert all([await fails_for_now(answer) for answer in (enqueued, seen, history)])
        assert (ready.status_code, ready.json()) == (503, {"status": "not ready"})
        assert (alive.status_code, alive.json()) == (200, {"status": "up"})
        await way.mend()
        await is_ready(client)
        assert (await client.post("/tasks", json=TASK)).status_code == 200
    assert len(await stored(conn)) == 2


async def test_while_the_tasks_cannot_be_read_the_server_is_not_ready_but_alive(dsn: str, conn: Connection):
    async with served(dsn) as client:
        await is_ready(client)
        async with conn.transaction():
            await conn.execute("LOCK TABLE taskflow.tasks")
            began = asyncio.get_running_loop().time()
            ready, alive = await asyncio.gather(client.get("/readiness"), client.get("/liveness"))
            assert (ready.status_code, ready.json()) == (503, {"status": "not ready"})
            assert (alive.status_code, alive.json()) == (200, {"status": "up"})
            assert asyncio.get_running_loop().time() - began < 10
            await until(lambda: waiting_for_a_lock(conn, API, 0))
        await is_ready(client)


async def test_the_server_starts_without_postgres_and_serves_once_it_is_there(dsn: str):
    way = Wire(dsn)
    async with served(way.dsn) as client:
        assert (await client.get("/liveness")).status_code == 200
        assert (await client.get("/readiness")).status_code == 503
        await way.mend()
        await is_ready(client)
        assert (await client.post("/tasks", json=TASK)).status_code == 200
    await way.cut()


async def test_the_next_requests_succeed_after_all_connections_were_terminated(dsn: str, conn: Connection):
    async with served(dsn) as client:
        await asyncio.gather(*(client.get("/tasks/1") for _ in range(30)))  # so that the pool has grown
        await client.post("/tasks", json=TASK)
        await until(lambda: terminate(conn))
        answers = [await client.post("/tasks", json=TASK) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4
        ready, seen = await asyncio.gather(client.get("/readiness"), client.get("/tasks/1"))
        assert (ready.status_code, seen.status_code) == (200, 404)


async def terminate(conn: Connection) -> bool:
    """End all connections of the API, and wait for it; whether there were any."""
    cursor = await conn.execute(
        """
        SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = %s
        """,
        [API],
    )
    return await cursor.fetchone() != (0,)


async def is_ready(client: httpx.AsyncClient) -> None:
    """Return once the server is ready."""

    async def ready() -> bool:
        return (await client.get("/readiness")).status_code == 200

    await until(ready)
