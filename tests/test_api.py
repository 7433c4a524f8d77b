"""The API's routes, in this process, over a real database."""

import gc
import weakref
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from conftest import MakeTask, look
from serving import api, client_of, is_problem, make_app, stored
from structlog.testing import capture_logs

from taskflow import queries
from taskflow.database import Connection
from taskflow.model import Status

LETTER = {"name": "a letter", "type": "print_letter", "payload": {"to": "Ada"}}


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over the emptied database."""
    async with api(dsn) as client:
        yield client


@pytest.mark.parametrize("payload", [{"to": "Ada"}, '{"to": "Ada"}', '\n {"to": "Ada"} '])
async def test_a_task_is_stored_whether_its_payload_is_an_object_or_a_string(
    client: httpx.AsyncClient, conn: Connection, payload: object
):
    answer = await client.post("/tasks", json={**LETTER, "payload": payload, "priority": "high"})
    ((id, *rest),) = await stored(conn)
    assert (answer.status_code, answer.json()) == (200, {"added_task_id": id})
    assert rest == ["a letter", "print_letter", {"to": "Ada"}, "high", "queued", 2]


async def test_priority_is_normal_unless_given(client: httpx.AsyncClient, conn: Connection):
    await client.post("/tasks", json=LETTER)
    ((*_, priority, _, _),) = await stored(conn)
    assert priority == "normal"


async def test_the_test_queue_is_closed_unless_the_settings_open_it(dsn: str, client: httpx.AsyncClient):
    task = {**LETTER, "priority": "test"}
    assert is_problem(await client.post("/tasks", json=task), 400, "priority")
    async with api(dsn, enable_test_queue=True) as client:
        assert (await client.post("/tasks", json=task)).status_code == 200


@pytest.mark.parametrize("when", ["2030-01-01T00:00:00Z", "2029-12-31T23:30:00-00:30", "2030-01-01 01:00:00+01:00"])
async def test_a_task_can_be_scheduled(client: httpx.AsyncClient, conn: Connection, when: str):
    answer = await client.post("/tasks", json=LETTER | {"scheduled_at": when, "delay_seconds": None})
    row = await look(conn, answer.json()["added_task_id"])
    assert row["scheduled_at"] == datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("delay", [0, 0.5, 86_400, 3_155_760_000])
async def test_a_task_can_be_delayed(client: httpx.AsyncClient, conn: Connection, delay: float):
    answer = await client.post("/tasks", json=LETTER | {"delay_seconds": delay, "scheduled_at": None})
    row = await look(conn, answer.json()["added_task_id"])
    assert row["scheduled_at"] - row["created_at"] == timedelta(seconds=delay)


@pytest.mark.parametrize(("given", "stored"), [(None, 2), (1, 1), (2**31 - 1, 2**31 - 1)])
async def test_a_task_may_have_its_own_max_attempts(
    client: httpx.AsyncClient, conn: Connection, given: int | None, stored: int
):
    answer = await client.post("/tasks", json=LETTER | {"max_attempts": given})
    assert (await look(conn, answer.json()["added_task_id"]))["max_attempts"] == stored


async def test_a_task_can_be_looked_at(client: httpx.AsyncClient):
    id = (await client.post("/tasks", json=LETTER)).json()["added_task_id"]
    task = (await client.get(f"/tasks/{id}")).json()
    assert {"id": id, "status": "queued", "attempt": 0, **LETTER}.items() <= task.items()
    assert task["worker"] is task["error"] is task["result"] is None


async def test_the_history_tells_each_change_oldest_first(client: httpx.AsyncClient, make_task: MakeTask):
    id = await make_task(Status.FAILED, error="boom")
    answer = await client.get(f"/tasks/{id}/history")
    first, second = answer.json()["history"]
    assert answer.status_code == 200
    assert first.keys() == {
        "task_id", "old_status", "new_status", "created_at_stamp", "created_at", "attempt", "worker", "reason",
    }  # fmt: skip
    assert [(entry["task_id"], entry["old_status"], entry["new_status"]) for entry in (first, second)] == [
        (id, "queued", "running"),
        (id, "running", "failed"),
    ]
    assert type(first["created_at_stamp"]) is int
    assert second["reason"] == "boom"


async def test_a_task_without_transitions_has_an_empty_history(client: httpx.AsyncClient, make_task: MakeTask):
    answer = await client.get(f"/tasks/{await make_task()}/history")
    assert (answer.status_code, answer.json()) == (200, {"history": []})


@pytest.mark.parametrize("below", ["", "/history"])
class TestIds:
    """Both paths below /tasks read ids the same way."""

    @pytest.mark.parametrize("id", ["0", "-1", "4611686018427387904", "9223372036854775807"])
    async def test_an_unknown_id_is_not_found(self, client: httpx.AsyncClient, id: str, below: str):
        assert is_problem(await client.get(f"/tasks/{id}{below}"), 404)

    @pytest.mark.parametrize("id", ["9223372036854775808", "-9223372036854775809", "9" * 5000])
    async def test_an_id_beyond_bigint_is_not_found(self, client: httpx.AsyncClient, id: str, below: str):
        assert is_problem(await client.get(f"/tasks/{id}{below}"), 404)

    @pytest.mark.parametrize(
        "id", ["abc", "1.0", "1e3", "0x1", "1_0", "+1", "%201", "%00", "1%00", "1%0a", "%D9%A1", "%F0%9F%92%A3", "'"]
    )
    async def test_an_id_that_is_no_integer_is_refused(self, client: httpx.AsyncClient, id: str, below: str):
        assert is_problem(await client.get(f"/tasks/{id}{below}"), 400, "id")


async def test_the_server_is_ready_and_alive(client: httpx.AsyncClient):
    ready, alive = await client.get("/readiness"), await client.get("/liveness")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})
    assert (alive.status_code, alive.json()) == (200, {"status": "up"})


async def test_what_is_not_there_is_a_problem(client: httpx.AsyncClient):
    for path in ["/nope", "/tasks/1/nope", "/schema/nope", "/schema/assets/nope.js", "/schema/assets/../app.py"]:
        assert is_problem(await client.get(path), 404), path


async def test_a_wrong_method_is_told_the_right_ones(client: httpx.AsyncClient):
    for path, allowed in [("/tasks", {"GET", "HEAD", "POST", "OPTIONS"}), ("/tasks/1", {"GET", "HEAD", "OPTIONS"})]:
        answer = await client.delete(path)
        assert is_problem(answer, 405)
        assert set(answer.headers["allow"].split(", ")) == allowed


async def test_options_tells_every_method_of_a_path(client: httpx.AsyncClient):
    for path, allowed in [
        ("/tasks", "GET, HEAD, OPTIONS, POST"),
        ("/tasks/1", "GET, HEAD, OPTIONS"),
        ("/schema", "GET, OPTIONS"),
    ]:
        answer = await client.options(path)
        assert (answer.status_code, answer.headers["allow"]) == (204, allowed)


async def test_a_crash_is_logged_and_told_without_its_insides(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    async def crash(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(queries, "find_task", crash)
    with capture_logs() as lines:
        answer = await client.get("/tasks/1")
    assert is_problem(answer, 500)
    assert "secret" not in answer.text
    ((event, error),) = [(line["event"], line["exc_info"]) for line in lines]
    assert (event, str(error)) == ("request.crashed", "a secret")


class Remembered(dict[str, Any]):
    """A request's scope, of which it can be seen whether it is still there."""


async def test_an_answered_request_leaves_nothing_to_the_garbage_collector(dsn: str):
    app = make_app(dsn)
    scopes: list[weakref.ref[Remembered]] = []

    async def remembering(scope: Any, receive: Any, send: Any) -> None:
        scope = Remembered(scope)
        scopes.append(weakref.ref(scope))
        await app(scope, receive, send)  # pyright: ignore[reportArgumentType]

    transport = httpx.ASGITransport(remembering)
    async with client_of(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        gc.disable()
        try:
            added = await client.post("/tasks", json={"name": "a", "type": "anything", "payload": {}})
            for path in (f"/tasks/{added.json()['added_task_id']}", "/tasks", "/stats", "/workers", "/liveness"):
                assert (await client.get(path)).status_code == 200
            assert len(scopes) == 6
            assert [scope() for scope in scopes] == [None] * 6
        finally:
            gc.enable()
