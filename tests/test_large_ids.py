"""Ids beyond 2^31, and beyond the integers of a float, go their whole way: nobody reads them as something smaller."""

import asyncio
from typing import Any

import httpx
import pytest
from serving import is_problem, make_token, served
from serving import until as until_true
from support import Database, Workers
from test_events import reading

from taskflow.scopes import Scope

TASK: dict[str, Any] = {"name": "a task", "type": "anything", "payload": {}}

COUNTERS = """
SELECT attrelid::regclass::text, quote_ident(attname) FROM pg_attribute
WHERE attidentity <> '' AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'taskflow'::regnamespace)
"""

APP = """
from taskflow import task

@task("anything")
async def anything(payload: dict):
    return payload
"""


def restart_counters(db: Database, start: int) -> None:
    """Let the next id in each table be *start*."""
    counters = db.rows(COUNTERS)
    assert len(counters) >= 6
    for table, column in counters:
        restart = f"ALTER TABLE {table} ALTER COLUMN {column} RESTART WITH {start}"
        db.conn.execute(restart)  # pyright: ignore[reportArgumentType, reportCallIssue]


async def ok(answer: Any) -> Any:
    response: httpx.Response = await answer
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("start", [2**31 - 2, 2**63 - 1_000_000], ids=["2^31", "2^63"])
async def test_tasks_workers_tokens_and_events_with_large_ids_go_their_whole_way(workers: Workers, start: int):
    db = workers.database
    restart_counters(db, start)
    (workers.directory / "anything.py").write_text(APP)
    token = make_token(db.dsn, Scope.ADMIN)
    async with served(db.dsn) as client:
        client.headers["Authorization"] = f"Bearer {token}"
        async with reading(client, "/events") as reader:
            assert (await reader.next())[0] == "ready"
            ids = [(await ok(client.post("/tasks", json=TASK)))["added_task_id"] for _ in range(3)]
            ids += (await ok(client.post("/tasks/batch", json=[TASK] * 3)))["added_task_ids"]
            assert ids == list(range(start, start + 6))
            cancelled = ids.pop()
            await ok(client.post(f"/tasks/{cancelled}/cancel"))
            await reader.until("task", task_id=cancelled, status="cancelled")
            worker = workers.start("--id", "1", "--app", "anything")
            _, event, _ = await reader.until("task", task_id=ids[-1], status="succeeded")
            await ok(client.post(f"/tasks/{cancelled}/retry"))
            await reader.until("task", task_id=cancelled, status="succeeded")
        assert event.partition(".")[0] >= str(start)
        async with reading(client, "/events", after=event) as reader:
            await reader.until("task", task_id=cancelled, status="succeeded")
        for id in [*ids, cancelled]:
            assert (await ok(client.get(f"/tasks/{id}")))["id"] == id
            history = (await ok(client.get(f"/tasks/{id}/history")))["history"]
            assert {entry["task_id"] for entry in history} == {id}
            assert (history[-1]["new_status"], history[-1]["worker"]) == ("succeeded", "1")
        listed: list[int] = []
        page: dict[str, Any] = {"next": ""}
        while page["next"] is not None:
            given = {"limit": 4} | ({"cursor": page["next"]} if page["next"] else {})
            page = await ok(client.get("/tasks", params=given))
            listed += [task["id"] for task in page["tasks"]]
        assert listed == [cancelled, *reversed(ids)]
        (told,) = (await ok(client.get("/workers")))["workers"]
        assert told["id"] >= start
        await ok(client.post(f"/workers/{told['id']}/drain"))
        assert await asyncio.to_thread(worker.process.wait, 30) == 0
        await remote(client)
        deletion = {"action": "delete", "filter": {"status": "succeeded"}}
        await until_true(lambda: all_gone(client, deletion))
        assert is_problem(await client.get(f"/tasks/{ids[0]}"), 404)


async def remote(client: httpx.AsyncClient) -> None:
    """A task goes its way with a worker over HTTP."""
    me = {"name": "node", "priorities": ["normal"], "concurrency": 1, "host": "here", "version": "1"}
    path = f"/workers/{(await ok(client.post('/workers', json=me)))['id']}"
    id = (await ok(client.post("/tasks", json=TASK)))["added_task_id"]
    (claimed,) = (await ok(client.post(f"{path}/claims", json={"limit": 1})))["tasks"]
    assert claimed["id"] == id
    result = {"id": id, "attempt": claimed["attempt"], "outcome": "succeeded"}
    assert (await ok(client.post(f"{path}/results", json={"results": [result]})))["recorded"] == [id]
    assert (await ok(client.post(f"{path}/heartbeat", json={"running": [id]})))["lost"] == [id]
    assert (await ok(client.get(f"/tasks/{id}")))["status"] == "succeeded"


async def all_gone(client: httpx.AsyncClient, deletion: dict[str, Any]) -> bool:
    await ok(client.post("/tasks/actions", json=deletion))
    return (await ok(client.get("/tasks")))["tasks"] == []
