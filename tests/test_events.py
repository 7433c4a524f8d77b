"""Who watches is told what happens to tasks, as server-sent events; while nobody does, nothing is written."""

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import commands
import httpx
import pytest
from commands import await_ready, free_port, started
from conftest import MakeTask, ask
from litestar import Litestar
from serving import client_of, dialled, is_problem, make_app, make_token, served, served_app, until
from support import Workers

from taskflow import events
from taskflow.api import events as events_module
from taskflow.api import keyring as keyring_module
from taskflow.api import watch as watch_module
from taskflow.api.inbox import Inbox
from taskflow.api.services import Services
from taskflow.api.watch import Watch
from taskflow.database import Connection, connect
from taskflow.model import Status
from taskflow.queue.cancel import cancel
from taskflow.scopes import Scope

TASK: dict[str, Any] = {"name": "a task", "type": "anything", "payload": {}}

Event = tuple[str, str, Any]


class Reader:
    """Reads the events of one stream: kind, id, data."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> Event:
        """The next event; comments are passed over."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(30):
            async for line in self._lines:
                name, _, value = line.partition(": ")
                if name:
                    fields[name] = value
                elif "event" in fields:
                    return fields["event"], fields.get("id", ""), json.loads(fields["data"])
                else:
                    fields = {}
        raise EOFError

    async def until(self, kind: str, **data: Any) -> Event:
        """The next event of this kind with these data."""
        while True:
            event = await self.next()
            if event[0] == kind and data.items() <= event[2].items():
                return event


@asynccontextmanager
async def reading(client: httpx.AsyncClient, path: str, after: str | None = None) -> AsyncGenerator[Reader]:
    """A stream at *path*, resumed after an event."""
    headers = {} if after is None else {"Last-Event-ID": after}
    async with client.stream("GET", path, headers=headers, timeout=30) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Reader(response)


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a real server over the emptied database."""
    async with served(dsn) as client:
        yield client


async def add(client: httpx.AsyncClient) -> int:
    return (await client.post("/tasks", json=TASK)).json()["added_task_id"]


async def test_a_stream_tells_each_change_of_each_task_and_can_be_resumed(workers: Workers, tmp_path: Any):
    workers.start_ready()
    async with served(workers.database.dsn) as client:
        async with reading(client, "/events") as reader:
            assert (await reader.next())[0] == "ready"
            id = workers.database.enqueue("quick")
            started = await reader.until("task", task_id=id, status="running")
            assert started[2].keys() == {"task_id", "name", "type", "priority", "status", "attempt", "at"}
            await reader.until("task", task_id=id, status="succeeded", attempt=1)
        other = workers.database.enqueue("fail", max_attempts=2)
        workers.database.await_status(other, "failed")
        async with reading(client, "/events", after=started[1]) as reader:
            _, _, first = await reader.next()
            assert (first["task_id"], first["status"]) == (id, "succeeded")
            assert (await reader.next())[2]["task_id"] == other
            await reader.until("task", task_id=other, status="failed", attempt=2)


async def test_while_nobody_watches_nothing_is_written(workers: Workers):
    workers.start_ready()
    workers.database.enqueue_numbered("quick", 50)
    workers.database.await_all("succeeded")
    assert workers.database.one("SELECT count(*) FROM taskflow.events") == 0


async def test_what_the_api_does_is_told_at_once(client: httpx.AsyncClient, make_task: MakeTask):
    async with reading(client, "/events") as reader:
        id = await add(client)
        await reader.until("task", task_id=id, status="queued", attempt=0)
        (other,) = (await client.post("/tasks/batch", json=[TASK])).json()["added_task_ids"]
        await reader.until("task", task_id=other, status="queued")
        await client.post(f"/tasks/{id}/cancel")
        await reader.until("task", task_id=id, status="cancelled")
        await client.post(f"/tasks/{id}/retry")
        await reader.until("task", task_id=id, status="queued")


async def test_a_task_enqueued_through_one_server_is_told_by_another(client: httpx.AsyncClient, dsn: str):
    async with reading(client, "/events") as reader, served(dsn) as another:
        id = await add(another)
        await reader.until("task", task_id=id, status="queued")


async def test_a_stream_that_cannot_be_resumed_begins_with_a_reset(client: httpx.AsyncClient, conn: Connection):
    async with reading(client, "/events") as reader:
        _, ready, _ = await reader.next()
    for after in ("0", str(int(ready) + 1000)):
        async with reading(client, "/events", after=after) as reader:
            assert (await reader.next())[0] == "reset"
    async with reading(client, "/events", after=ready) as reader:
        id = await add(client)
        assert (await reader.next())[2]["task_id"] == id  # nothing was missed


async def test_a_pause_in_which_nobody_watched_cannot_be_resumed_over(dsn: str, conn: Connection):
    async with served(dsn) as client, reading(client, "/events") as reader:
        _, id, _ = await reader.next()
    async with served(dsn) as client, reading(client, "/events", after=id) as reader:
        assert (await reader.next())[0] == "reset"


async def test_a_stream_goes_on_after_the_database_was_away(client: httpx.AsyncClient, conn: Connection):
    async with reading(client, "/events") as reader:
        await reader.next()
        assert await ask(
            conn,
            """
            SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE application_name = 'taskflow api events' AND datname = current_database()
            """,
        )
        assert (await reader.next())[0] in {"reset", "task"}
        id = await add(client)
        await reader.until("task", task_id=id)


async def test_a_tasks_stream_begins_as_it_stands_and_ends_with_it(client: httpx.AsyncClient, conn: Connection):
    id, other = await add(client), await add(client)
    async with reading(client, f"/tasks/{id}/events") as reader:
        kind, _, now = await reader.next()
        assert (kind, now["status"]) == ("task", "queued")
        await client.post(f"/tasks/{other}/cancel")
        await client.post(f"/tasks/{id}/cancel")
        _, last, cancelled = await reader.next()
        assert (cancelled["task_id"], cancelled["status"]) == (id, "cancelled")
        assert (await reader.next())[0] == "end"
        with pytest.raises(EOFError):
            await reader.next()
    async with asyncio.timeout(30):  # the end may be told once more
        while (again := await client.get(f"/tasks/{id}/events", headers={"Last-Event-ID": last})).status_code == 200:
            last = re.findall("id: (.*)", again.text)[-1]
    assert again.status_code == 204
    async with reading(client, f"/tasks/{id}/events") as reader:
        assert [(await reader.next())[0] for _ in range(2)] == ["task", "end"]


async def test_a_tasks_stream_ends_also_if_nobody_tells(client: httpx.AsyncClient, conn: Connection):
    id = await add(client)
    async with reading(client, f"/tasks/{id}/events") as reader:
        await reader.next()
        await cancel(conn, [id])
        await reader.until("task", status="cancelled")
        assert (await reader.next())[0] == "end"


@pytest.mark.parametrize("path", ["/events", "/tasks/{id}/events"])
async def test_a_stream_has_the_usual_headers_and_head_does_not_hang(client: httpx.AsyncClient, path: str):
    path = path.format(id=await add(client))
    async with reading(client, path) as reader:
        headers = reader.response.headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
    assert (await client.head(path)).status_code == 200


@pytest.mark.parametrize("id", ["abc", "-1", "1.", "1.2.3", "9" * 40, "1 2"])
async def test_an_event_id_that_is_none_is_refused(client: httpx.AsyncClient, id: str):
    for path in ("/events", f"/tasks/{await add(client)}/events"):
        assert is_problem(await client.get(path, headers={"Last-Event-ID": id}), 400, "Last-Event-ID")


async def test_a_stream_of_no_task_is_not_found(client: httpx.AsyncClient):
    assert is_problem(await client.get("/tasks/999999999/events"), 404)


@pytest.mark.parametrize("is_busy", [False, True])
async def test_a_stream_ends_soon_after_its_token_is_revoked(dsn: str, monkeypatch: pytest.MonkeyPatch, is_busy: bool):
    monkeypatch.setattr(events_module, "RECHECK", 0.05)
    monkeypatch.setattr(keyring_module, "FRESH", 0.05)
    token, writes = make_token(dsn, Scope.READ), {"Authorization": f"Bearer {make_token(dsn, Scope.ENQUEUE)}"}
    async with await connect(dsn, "test") as conn, served(dsn) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        async with reading(client, "/events") as reader:
            await reader.next()
            await conn.execute("UPDATE taskflow.tokens SET revoked_at = now() WHERE 'read' = ANY (scopes::text[])")

            async def read_on() -> None:
                while True:
                    if is_busy:
                        (await client.post("/tasks", json=TASK, headers=writes)).raise_for_status()
                    await reader.next()

            with pytest.raises(EOFError):
                await asyncio.wait_for(read_on(), 30)
        await conn.execute("DELETE FROM taskflow.tokens")


async def test_who_waits_with_a_token_that_is_revoked_meanwhile_learns_nothing(
    dsn: str, monkeypatch: pytest.MonkeyPatch, make_task: MakeTask
):
    monkeypatch.setattr(keyring_module, "FRESH", 0.05)
    id = await make_task()
    async with await connect(dsn, "test") as conn, served(dsn) as client:
        client.headers["Authorization"] = f"Bearer {make_token(dsn, Scope.READ)}"
        waiting = asyncio.create_task(client.get(f"/tasks/{id}?wait=1"))
        await asyncio.sleep(0.2)
        await conn.execute("UPDATE taskflow.tokens SET revoked_at = now()")
        assert is_problem(await waiting, 401)
        await conn.execute("DELETE FROM taskflow.tokens")


async def test_there_is_a_limit_to_those_who_watch(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch):
    id = await add(client)
    monkeypatch.setattr(watch_module, "MOST", 1)
    async with reading(client, "/events"):
        assert is_problem(await client.get("/events"), 503)
        assert is_problem(await client.get(f"/tasks/{id}?wait=1"), 503)
    await until(partial(is_answered, client, f"/tasks/{id}?wait=0.1"))


async def is_answered(client: httpx.AsyncClient, path: str) -> bool:
    return (await client.get(path)).status_code == 200


async def test_a_slow_reader_misses_something_and_holds_up_nobody():
    inbox = Inbox[bytes](10)
    for _ in range(3):
        inbox.put(b"12345", 5)
    assert await inbox.take(0) == ([], True)
    inbox.put(b"12345", 5)
    assert await inbox.take(0) == ([b"12345"], False)
    assert await inbox.take(0) == ([], False)


async def test_old_events_are_pruned_but_the_latest(conn: Connection):
    await conn.execute("DELETE FROM taskflow.events")
    await conn.execute(
        """
        INSERT INTO taskflow.events (at, count, changes)
        SELECT now() - make_interval(mins => age), 10, '[]' FROM unnest(ARRAY[9, 8, 1, 1, 1]) AS age
        """
    )
    assert await events.prune(conn) == 2
    assert await events.prune(conn, kept=15) == 1
    assert await events.prune(conn, kept=0) == 1
    await conn.execute("UPDATE taskflow.events SET at = now() - interval '1 day'")
    assert await events.prune(conn) == 0


# --- waiting ---


async def test_a_waiting_request_is_answered_when_its_task_ends(workers: Workers, tmp_path: Any):
    workers.start_ready()
    async with served(workers.database.dsn, server_time_out_in_seconds=1) as client:
        file = tmp_path / "go"
        id = workers.database.enqueue("wait_for_file", {"file": str(file)})
        waiting = asyncio.create_task(client.get(f"/tasks/{id}?wait=30", timeout=60))
        done, _ = await asyncio.wait([waiting], timeout=1.5)  # longer than a request may take otherwise
        assert not done
        file.touch()
        response = await waiting
        assert response.json()["status"] == "succeeded"


async def test_waiting_ends_with_its_seconds_and_at_once_for_a_task_that_has_ended(
    client: httpx.AsyncClient, make_task: MakeTask
):
    queued, ended = await make_task(), await make_task(Status.FAILED)
    assert (await client.get(f"/tasks/{queued}?wait=0.2")).json()["status"] == "queued"
    assert (await client.get(f"/tasks/{ended}?wait=60")).json()["status"] == "failed"
    assert is_problem(await client.get("/tasks/999999999?wait=60"), 404)


async def test_waiting_ends_also_if_nobody_tells_or_the_task_is_deleted(
    client: httpx.AsyncClient, conn: Connection, make_task: MakeTask
):
    cancelled, deleted = await make_task(), await make_task()
    waiting = [asyncio.create_task(client.get(f"/tasks/{id}?wait=60", timeout=90)) for id in (cancelled, deleted)]
    await until(partial(is_watched, conn))
    await cancel(conn, [cancelled])
    await conn.execute("DELETE FROM taskflow.tasks WHERE id = %s", [deleted])
    assert [response.status_code for response in await asyncio.gather(*waiting)] == [200, 404]


async def is_watched(conn: Connection) -> bool:
    return await events.is_watched(conn)


@pytest.mark.parametrize("wait", ["-1", "61", "a", "1e1", "", "nan", "9" * 300, "١"])
async def test_seconds_that_are_none_or_too_many_are_refused(client: httpx.AsyncClient, wait: str):
    id = await add(client)
    assert is_problem(await client.get(f"/tasks/{id}", params={"wait": wait}), 400, "wait")


async def test_a_thousand_waiting_requests_hold_few_connections_and_all_are_answered(
    dsn: str, conn: Connection, make_task: MakeTask
):
    id = await make_task()
    app = make_app(dsn, server_time_out_in_seconds=30)
    async with client_of(app) as client:
        waiting = [asyncio.create_task(client.get(f"/tasks/{id}?wait=60", timeout=90)) for _ in range(1000)]
        await until(partial(are_there, watch_of(app), 1000), 30)
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'taskflow api%%'"
        assert await ask(conn, sessions) <= 12
        await cancel(conn, [id])
        assert {response.json()["status"] for response in await asyncio.gather(*waiting)} == {"cancelled"}


async def test_a_client_that_leaves_frees_its_place(dsn: str, make_task: MakeTask):
    id = await make_task()
    app = make_app(dsn)
    async with served_app(app) as client:
        watch = watch_of(app)
        for path in (f"/tasks/{id}?wait=60", "/events", f"/tasks/{id}/events"):
            async with dialled(client) as (_, writer):
                writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                await until(partial(are_there, watch, 1))
            await until(partial(are_there, watch, 0))


def watch_of(app: Litestar) -> Watch:
    return cast(Services, app.state["services"]).watch


async def are_there(watch: Watch, count: int) -> bool:
    return len(watch._inboxes()) == count  # pyright: ignore[reportPrivateUsage]


def test_a_server_that_stops_ends_streams_and_waiting_at_once(work_dir: Path, own_database: str):
    port = free_port()
    with (
        started(work_dir, "taskflow-server", DATABASE_URL=own_database, SERVER_PORT=str(port)) as server,
        commands.api(port) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        await_ready(client, server)
        task = {"name": "a task", "type": "send_email", "payload": {"to": "ada@example.com"}}
        id = client.post("/tasks", json=task).json()["added_task_id"]
        waiting = threads.submit(client.get, f"/tasks/{id}?wait=60")
        with client.stream("GET", "/events") as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("id: ")
            began = time.monotonic()
            assert server.end(signal.SIGTERM) == 0
            assert time.monotonic() - began < 4  # uvicorn would wait for five seconds, and cancel then
        assert waiting.result().json()["status"] == "queued"
