"""Tasks are changed by hand over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from conftest import MakeTask, look
from serving import api, is_problem

from taskflow.database import Connection
from taskflow.model import Status

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = Status


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over the emptied database."""
    async with api(dsn) as client:
        yield client


@pytest.mark.parametrize("status", [QUEUED, RUNNING])
async def test_a_task_that_has_not_ended_is_cancelled(
    client: httpx.AsyncClient, conn: Connection, make_task: MakeTask, status: Status
):
    id = await make_task(status)
    answer = await client.post(f"/tasks/{id}/cancel")
    assert answer.status_code == 200
    assert {"id": id, "status": "cancelled", "error": None}.items() <= answer.json().items()
    assert (await look(conn, id))["status"] == "cancelled"


async def test_a_cancellation_may_have_a_reason(client: httpx.AsyncClient, make_task: MakeTask):
    answer = await client.post(f"/tasks/{await make_task()}/cancel", json={"reason": "ordered twice"})
    assert answer.json()["error"] == "ordered twice"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"reason": 1}', "reason"),
        (b'{"reason": ""}', "reason"),
        (b'{"reason": "\\u0000"}', "reason"),
        (b'{"why": "x"}', "why"),
        (b"[]", None),
        (b"{", None),
    ],
)
async def test_a_cancellation_that_cannot_be_read_changes_nothing(
    client: httpx.AsyncClient, conn: Connection, make_task: MakeTask, body: bytes, field: str | None
):
    id = await make_task()
    json = {"content-type": "application/json"}
    assert is_problem(await client.post(f"/tasks/{id}/cancel", content=body, headers=json), 400, field)
    assert is_problem(await client.post(f"/tasks/{id}/cancel", content=body), 415)
    assert (await look(conn, id))["status"] == "queued"


async def test_an_unknown_field_of_a_filter_is_named_with_its_place(client: httpx.AsyncClient):
    order: dict[str, Any] = {"action": "retry", "filter": {"colour": "red"}}
    assert is_problem(await client.post("/tasks/actions", json=order), 400, "filter.colour")


async def test_no_task_is_moved_to_the_test_queue_while_that_is_off(
    client: httpx.AsyncClient, conn: Connection, make_task: MakeTask
):
    id = await make_task()
    order: dict[str, Any] = {"action": "reprioritise", "filter": {}, "priority": "test"}
    assert is_problem(await client.post("/tasks/actions", json=order), 400, "priority")
    assert (await look(conn, id))["priority"] == "normal"


@pytest.mark.parametrize("status", [FAILED, CANCELLED])
async def test_a_task_that_failed_or_was_cancelled_is_retried(
    client: httpx.AsyncClient, make_task: MakeTask, status: Status
):
    id = await make_task(status, attempt=5)
    answer = await client.post(f"/tasks/{id}/retry")
    assert answer.status_code == 200
    assert {"id": id, "status": "queued", "attempt": 5, "max_attempts": 10}.items() <= answer.json().items()


@pytest.mark.parametrize(
    ("action", "status"),
    [*(("cancel", status) for status in (SUCCEEDED, FAILED, CANCELLED)),
     *(("retry", status) for status in (QUEUED, RUNNING, SUCCEEDED))],
)  # fmt: skip
async def test_what_the_status_does_not_allow_is_a_conflict(
    client: httpx.AsyncClient, conn: Connection, make_task: MakeTask, action: str, status: Status
):
    id = await make_task(status)
    before = await look(conn, id)
    answer = await client.post(f"/tasks/{id}/{action}")
    assert is_problem(answer, 409)
    assert f"the task is {status}" in answer.json()["detail"]
    assert await look(conn, id) == before


@pytest.mark.parametrize("action", ["cancel", "retry"])
async def test_an_id_that_is_none_or_unknown_is_told_as_such(client: httpx.AsyncClient, action: str):
    assert is_problem(await client.post(f"/tasks/0/{action}"), 404)
    assert is_problem(await client.post(f"/tasks/{2**70}/{action}"), 404)
    assert is_problem(await client.post(f"/tasks/x/{action}"), 400, "id")
