"""`POST /tasks/batch`: all tasks are stored, or none."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest
from conftest import ask
from serving import api, is_problem, stored

from taskflow.database import Connection

NDJSON = {"content-type": "application/x-ndjson"}
JSON = {"content-type": "application/json"}


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over the emptied database."""
    async with api(dsn) as client:
        yield client


def letters(count: int) -> list[dict[str, Any]]:
    """So many tasks, named by their position."""
    return [{"name": f"letter {i}", "type": "print_letter", "payload": {"to": "Ada"}} for i in range(count)]


def lines(tasks: list[Any]) -> bytes:
    """*tasks* as NDJSON."""
    return msgspec.json.Encoder().encode_lines(tasks)


async def send_lines(client: httpx.AsyncClient, body: bytes) -> httpx.Response:
    """The answer to *body* as NDJSON."""
    return await client.post("/tasks/batch", content=body, headers=NDJSON)


@pytest.mark.parametrize("count", [1, 2, 1000, 2500])
async def test_the_ids_come_in_the_order_of_the_tasks(client: httpx.AsyncClient, conn: Connection, count: int):
    for answer in (
        await client.post("/tasks/batch", json=letters(count)),
        await send_lines(client, lines(letters(count))),
    ):
        assert answer.status_code == 200, answer.text
        ids = answer.json()["added_task_ids"]
        names = dict([row[:2] for row in await stored(conn)])
        assert [names[id] for id in ids] == [f"letter {i}" for i in range(count)]


async def test_a_task_is_stored_as_it_is_alone(client: httpx.AsyncClient, conn: Connection):
    task = {"name": "a letter", "type": "print_letter", "payload": '{"to": "Ada"}', "priority": "high"}
    await client.post("/tasks", json=task)
    await client.post("/tasks/batch", json=[task])
    (_, *alone), (_, *in_a_batch) = await stored(conn)
    assert in_a_batch == alone


@pytest.mark.parametrize("body", [b"[]", b" [ ] "])
async def test_a_batch_may_be_empty(client: httpx.AsyncClient, body: bytes):
    answer = await client.post("/tasks/batch", content=body, headers=JSON)
    assert (answer.status_code, answer.json()) == (200, {"added_task_ids": []})


async def test_lines_may_be_blank_and_end_as_they_like(client: httpx.AsyncClient, conn: Connection):
    first, second = (json.dumps(task) for task in letters(2))
    assert (await send_lines(client, f"\n \r\n{first}\r\n\n  {second}".encode())).status_code == 200
    assert [name for _, name, *_ in await stored(conn)] == ["letter 0", "letter 1"]
    assert (await send_lines(client, b"\n" * 1000)).json() == {"added_task_ids": []}


async def test_each_task_at_fault_is_told_by_its_index_and_none_is_stored(client: httpx.AsyncClient, conn: Connection):
    tasks: list[Any] = letters(6)
    tasks[1]["payload"] = {"to": 7}
    tasks[3]["type"] = "nope"
    tasks[4] = 5
    for answer in (await client.post("/tasks/batch", json=tasks), await send_lines(client, lines(tasks))):
        assert is_problem(answer, 400), answer.text
        assert answer.json()["detail"] == "3 of 6 tasks cannot be enqueued, so none was"
        wrong_payload, unknown_type, no_task = answer.json()["errors"]
        assert wrong_payload == {
            "index": 1, "field": "payload.to", "detail": "payload.to: Expected `str`, got `int`",
        }  # fmt: skip
        assert (unknown_type["index"], unknown_type["field"]) == (3, "type")
        assert no_task == {"index": 4, "detail": "not a task: Expected `object`, got `int`"}
    assert await stored(conn) == []


async def test_of_many_errors_the_first_are_listed(client: httpx.AsyncClient):
    problem = (await client.post("/tasks/batch", json=[{"a" * 1000: 1}] * 10_000)).json()
    assert problem["detail"] == "10,000 of 10,000 tasks cannot be enqueued, so none was; the first 20 are listed"
    assert [error["index"] for error in problem["errors"]] == list(range(20))
    assert len(json.dumps(problem)) < 25_000


@pytest.mark.parametrize("position", [0, 1, 998, 999, 1000, 1500, 2499])
async def test_the_task_that_postgres_refuses_is_told_by_its_index(
    client: httpx.AsyncClient, conn: Connection, position: int
):
    tasks = [json.dumps(task) for task in letters(2500)]
    tasks[position] = '{"name": "huge", "type": "print_letter", "payload": {"to": "Ada", "a": 1e400000}}'
    answer = await send_lines(client, "\n".join(tasks).encode())
    assert is_problem(answer, 400), answer.text
    ((index, field),) = [(error["index"], error["field"]) for error in answer.json()["errors"]]
    assert (index, field) == (position, "payload")
    assert await stored(conn) == []


async def test_half_of_a_surrogate_pair_is_told_by_the_index_of_its_task(client: httpx.AsyncClient, conn: Connection):
    tasks = [json.dumps(task) for task in letters(4)]
    tasks[1] = r'{"name": "\ud800", "type": "print_letter", "payload": {"to": "\ud83d\ude00 \\ud800"}}'
    tasks[3] = r'{"name": "a", "type": "print_letter", "payload": {"to": "\udc00"}}'
    answer = await client.post("/tasks/batch", content=f"[{','.join(tasks)}]".encode(), headers=JSON)
    assert is_problem(answer, 400), answer.text
    assert [(error["index"], error["field"]) for error in answer.json()["errors"]] == [(1, "name"), (3, "payload")]
    assert await stored(conn) == []


async def test_the_limits_are_told(dsn: str, conn: Connection):
    limits = {"server_max_batch_tasks": 3, "server_max_batch_bytes": 4000, "server_max_body_bytes": 1000}
    async with api(dsn, **limits) as client:
        for body in (json.dumps(letters(4)).encode(), b"[1,1,1,1]"):
            answer = await client.post("/tasks/batch", content=body, headers=JSON)
            assert is_problem(answer, 400), answer.text
            assert answer.json()["detail"] == "a batch has at most 3 tasks"
        assert is_problem(await send_lines(client, lines(letters(4))), 400)
        assert is_problem(await send_lines(client, b" " * 4001), 413)
        large = letters(1)[0] | {"payload": {"to": "a" * 1000}}
        assert (await client.post("/tasks/batch", json=[large])).json()["errors"] == [
            {"index": 0, "detail": "a task has at most 1,000 bytes"}
        ]
        assert await stored(conn) == []
        assert (await client.post("/tasks/batch", json=letters(3))).status_code == 200


NO_BATCH = {
    "nothing": b"",
    "an object": b"{}",
    "null": b"null",
    "half an array": b"[" + json.dumps(letters(1)[0]).encode(),
    "two arrays": b"[][]",
    "a byte order mark": b"\xef\xbb\xbf[]",
    "lines": lines(letters(2)),
    "an invalid byte": b"[\xff]",
    "half of a surrogate pair": rb'["\ud83d"]',
    "200,000 arrays": b"[" * 200_000 + b"]" * 200_000,
    "5,000,000 numbers": b"[" + b"1," * 5_000_000 + b"1]",
    "400,000 tasks": b"[" + b'{"name":"a","type":"b","payload":{}},' * 400_000 + b"1]",
    "5,000,000 commas": b"[" + b"," * 5_000_000 + b"]",
}


@pytest.mark.parametrize("body", NO_BATCH.values(), ids=NO_BATCH.keys())
async def test_what_is_no_batch_is_refused(client: httpx.AsyncClient, conn: Connection, body: bytes):
    assert is_problem(await client.post("/tasks/batch", content=body, headers=JSON), 400)
    assert await stored(conn) == []


@pytest.mark.parametrize("body", [b"[]", b"\xff", b"\xef\xbb\xbf{}", b"1\n" * 5_000_000, b"{", rb'"\ud83d"', b"\0"])
async def test_what_is_no_line_is_refused(client: httpx.AsyncClient, conn: Connection, body: bytes):
    assert is_problem(await send_lines(client, body), 400)
    assert await stored(conn) == []


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/ndjson", "application/json-seq"])
async def test_a_batch_announced_as_something_else_is_refused(client: httpx.AsyncClient, content_type: str):
    answer = await client.post("/tasks/batch", content=b"[]", headers={"content-type": content_type})
    assert is_problem(answer, 415)


async def test_other_requests_have_their_turn_while_a_large_batch_is_read(client: httpx.AsyncClient):
    batch = asyncio.create_task(client.post("/tasks/batch", json=letters(10_000)))
    await asyncio.sleep(0)
    assert (await client.get("/liveness")).status_code == 200
    assert not batch.done()
    assert (await batch).status_code == 200


async def test_a_batch_that_takes_too_long_stores_nothing(dsn: str, conn: Connection):
    async with api(dsn, server_time_out_in_seconds=0.3) as client, conn.transaction():
        await conn.execute("LOCK TABLE taskflow.tasks IN ACCESS EXCLUSIVE MODE")
        answer = await client.post("/tasks/batch", json=letters(1500))
    assert is_problem(answer, 503)
    assert await stored(conn) == []


async def test_each_task_of_a_batch_has_its_own_delay(client: httpx.AsyncClient, conn: Connection):
    soon, later = letters(2)
    await client.post("/tasks/batch", json=[soon, later | {"delay_seconds": 60}])
    apart = await ask(conn, "SELECT extract(epoch FROM max(scheduled_at) - min(scheduled_at)) FROM taskflow.tasks")
    assert apart == 60
