"""What is sent twice is stored once: by the header Idempotency-Key, or by a task's unique_key."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import psycopg
import pytest
from conftest import MakeTask, ask, look
from serving import api, is_problem, make_token, stored

from taskflow import enqueue
from taskflow.database import Connection
from taskflow.errors import InvalidTask
from taskflow.model import Status
from taskflow.queue.once import prune_keys
from taskflow.queue.recover import retry_by_hand
from taskflow.scopes import Scope

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = Status

LETTER: dict[str, Any] = {"name": "a letter", "type": "print_letter", "payload": {"to": "Ada"}}
ONCE = LETTER | {"unique_key": "k"}


@pytest.fixture
async def client(dsn: str, conn: Connection) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over the emptied database."""
    await conn.execute("DELETE FROM taskflow.idempotency_keys")
    async with api(dsn) as client:
        yield client


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


# --- Idempotency-Key ---


async def test_a_group_that_is_sent_again_is_the_same_group(client: httpx.AsyncClient, conn: Connection):
    group = {"tasks": [LETTER, LETTER], "callback": LETTER}
    answers = await asyncio.gather(*(client.post("/groups", json=group, headers=keyed("k")) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 19
    assert len(await stored(conn)) == 3
    other = group | {"name": "another"}
    assert is_problem(await client.post("/groups", json=other, headers=keyed("k")), 422, "Idempotency-Key")
    broken = {"tasks": [LETTER | {"after": [10**15]}]}
    assert is_problem(await client.post("/groups", json=broken, headers=keyed("l")), 400)
    assert (await client.post("/groups", json=group, headers=keyed("l"))).status_code == 200


async def test_a_request_that_is_sent_again_is_answered_the_same_and_says_so(
    client: httpx.AsyncClient, conn: Connection
):
    first = await client.post("/tasks", json=LETTER, headers=keyed('"8e03978e"'))
    again = await client.post("/tasks", json=LETTER, headers=keyed("8e03978e"))
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json() == again.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(await stored(conn)) == 1


async def test_a_hundred_requests_at_once_make_one_task(client: httpx.AsyncClient, conn: Connection):
    answers = await asyncio.gather(*(client.post("/tasks", json=LETTER, headers=keyed("k")) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["added_task_id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 99
    assert len(await stored(conn)) == 1


async def test_a_key_with_another_request_is_refused(client: httpx.AsyncClient, conn: Connection):
    await client.post("/tasks", json=LETTER, headers=keyed("k"))
    other = await client.post("/tasks", json=LETTER | {"priority": "low"}, headers=keyed("k"))
    assert is_problem(other, 422, "Idempotency-Key")
    assert is_problem(await client.post("/tasks/batch", json=[LETTER], headers=keyed("k")), 422, "Idempotency-Key")
    assert len(await stored(conn)) == 1


async def test_a_request_that_was_refused_does_not_use_up_its_key(client: httpx.AsyncClient, make_task: MakeTask):
    id = await make_task(unique_key="k")
    assert is_problem(await client.post("/tasks", json=ONCE, headers=keyed("1")), 409, "unique_key")
    assert is_problem(await client.post("/tasks", json={}, headers=keyed("1")), 400, "name")
    await client.post(f"/tasks/{id}/cancel")
    assert (await client.post("/tasks", json=ONCE, headers=keyed("1"))).status_code == 200


async def test_a_batch_can_be_sent_again(client: httpx.AsyncClient, conn: Connection):
    answers = [await client.post("/tasks/batch", json=[LETTER] * 3, headers=keyed("k")) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert len(answers[0].json()["added_task_ids"]) == len(await stored(conn)) == 3
    assert "idempotent-replayed" in answers[1].headers


async def test_each_token_has_keys_of_its_own(own_database: str):
    tokens = [make_token(own_database, Scope.ENQUEUE) for _ in range(2)]
    async with api(own_database) as client:
        ids = [
            (
                await client.post("/tasks", json=LETTER, headers=keyed("k") | {"Authorization": f"Bearer {token}"})
            ).json()["added_task_id"]
            for token in (*tokens, *tokens)
        ]
    assert ids[:2] == ids[2:]
    assert ids[0] != ids[1]


@pytest.mark.parametrize("key", ["", '""', '"a', 'a"b', "a b", "ä", "x" * 256, '"' + "x" * 256 + '"', "a;b=1", "\t"])
async def test_a_key_that_is_none_is_refused(client: httpx.AsyncClient, conn: Connection, key: str):
    answer = await client.post("/tasks", json=LETTER, headers=[(b"Idempotency-Key", key.encode())])
    assert is_problem(answer, 400, "Idempotency-Key")
    assert await stored(conn) == []


async def test_two_keys_are_refused(client: httpx.AsyncClient):
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    assert is_problem(await client.post("/tasks", json=LETTER, headers=headers), 400, "Idempotency-Key")


async def test_a_key_is_forgotten_after_a_day_whether_or_not_it_was_pruned(client: httpx.AsyncClient, conn: Connection):
    async def send(key: str) -> int:
        return (await client.post("/tasks", json=LETTER, headers=keyed(key))).json()["added_task_id"]

    first = [await send("a"), await send("b")]
    await conn.execute("UPDATE taskflow.idempotency_keys SET created_at = now() - interval '25 hours'")
    assert await send("a") not in first
    assert await prune_keys(conn) == 1
    assert await send("b") not in first
    assert await prune_keys(conn) == 0


# --- unique_key ---


async def test_a_second_live_task_with_a_key_is_a_conflict(client: httpx.AsyncClient, conn: Connection):
    id = (await client.post("/tasks", json=ONCE)).json()["added_task_id"]
    answer = await client.post("/tasks", json=ONCE)
    assert is_problem(answer, 409, "unique_key")
    assert f"task {id} is queued" in answer.json()["detail"]
    assert (await client.post("/tasks", json=ONCE | {"unique_key": "other"})).status_code == 200
    assert len(await stored(conn)) == 2


@pytest.mark.parametrize("status", Status)
async def test_a_key_is_free_again_when_its_task_has_ended(
    client: httpx.AsyncClient, make_task: MakeTask, status: Status
):
    await make_task(status, unique_key="k")
    assert (await client.post("/tasks", json=ONCE)).status_code == (200 if status.is_final else 409)


@pytest.mark.parametrize("status", [QUEUED, RUNNING])
async def test_the_existing_task_can_be_the_answer(
    client: httpx.AsyncClient, conn: Connection, make_task: MakeTask, status: Status
):
    id = await make_task(status, unique_key="k", payload='{"to": "Bob"}')
    answer = await client.post("/tasks", json=ONCE | {"on_conflict": "existing"})
    assert answer.json() == {"added_task_id": id, "conflict": "existing"}
    assert (await look(conn, id))["payload"] == {"to": "Bob"}


async def test_the_payload_of_a_queued_task_can_be_replaced(
    client: httpx.AsyncClient, conn: Connection, make_task: MakeTask
):
    id = await make_task(unique_key="k", type="print_letter", payload='{"to": "Bob"}')
    answer = await client.post("/tasks", json=ONCE | {"on_conflict": "replace"})
    assert answer.json() == {"added_task_id": id, "conflict": "replaced"}
    assert (await look(conn, id))["payload"] == {"to": "Ada"}


async def test_a_task_of_another_type_does_not_get_a_payload_that_was_not_meant_for_it(
    client: httpx.AsyncClient, conn: Connection, make_task: MakeTask
):
    id = await make_task(unique_key="k", type="send_email", payload='{"to": "Bob"}')
    assert is_problem(await client.post("/tasks", json=ONCE | {"on_conflict": "replace"}), 409, "unique_key")
    with pytest.raises(psycopg.errors.UniqueViolation, match="is of another type, send_email"):
        await enqueue(conn, "print_letter", {"to": "Ada"}, unique_key="k", on_conflict="replace")
    assert (await look(conn, id))["payload"] == {"to": "Bob"}


async def test_the_payload_of_a_running_task_is_not_replaced(
    client: httpx.AsyncClient, conn: Connection, make_task: MakeTask
):
    id = await make_task(RUNNING, unique_key="k", payload='{"to": "Bob"}')
    assert is_problem(await client.post("/tasks", json=ONCE | {"on_conflict": "replace"}), 409, "unique_key")
    assert (await look(conn, id))["payload"] == {"to": "Bob"}


@pytest.mark.parametrize("on_conflict", ["reject", "existing", "replace"])
async def test_a_hundred_tasks_with_one_key_at_once_are_one(
    client: httpx.AsyncClient, conn: Connection, on_conflict: str
):
    answers = await asyncio.gather(
        *(client.post("/tasks", json=ONCE | {"on_conflict": on_conflict}) for _ in range(100))
    )
    codes = [answer.status_code for answer in answers]
    assert (codes.count(200), codes.count(409)) == ((1, 99) if on_conflict == "reject" else (100, 0))
    assert len({answer.json()["added_task_id"] for answer in answers if answer.status_code == 200}) == 1
    assert len(await stored(conn)) == 1


async def test_a_task_with_a_key_can_stand_before_a_gate(client: httpx.AsyncClient, conn: Connection):
    before = (await client.post("/tasks", json=LETTER)).json()["added_task_id"]
    id = (await client.post("/tasks", json=ONCE | {"after": [before]})).json()["added_task_id"]
    assert (await look(conn, id))["held"]
    assert is_problem(await client.post("/tasks", json=ONCE), 409, "unique_key")
    assert is_problem(await client.post("/tasks", json=ONCE | {"unique_key": "new", "after": [2**60]}), 400, "after")


async def test_a_batch_refuses_keys_that_are_taken_with_the_index(
    client: httpx.AsyncClient, conn: Connection, make_task: MakeTask
):
    await make_task(unique_key="taken")
    keys = ["a", "b", "taken", "c", "a"]
    for given, wrong in [(keys, [4]), (keys[:4], [2]), (["a", "taken"], [1])]:
        answer = await client.post("/tasks/batch", json=[LETTER | {"unique_key": key} for key in given])
        assert is_problem(answer, 400)
        assert [(error["index"], error["field"]) for error in answer.json()["errors"]] == [
            (index, "unique_key") for index in wrong
        ]
    replacing = await client.post("/tasks/batch", json=[LETTER, ONCE | {"on_conflict": "replace"}])
    assert [(error["index"], error["field"]) for error in replacing.json()["errors"]] == [(1, "on_conflict")]
    assert len(await stored(conn)) == 1
    answer = await client.post("/tasks/batch", json=[LETTER | {"unique_key": key} for key in ("a", "b")])
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"unique_key": ""}, "unique_key"),
        ({"unique_key": "x" * 129}, "unique_key"),
        ({"unique_key": "\0"}, "unique_key"),
        ({"unique_key": 7}, "unique_key"),
        ({"unique_key": "k", "on_conflict": "ignore"}, "on_conflict"),
        ({"on_conflict": "replace"}, "on_conflict"),
    ],
)
async def test_a_key_that_cannot_be_meant_is_refused(
    client: httpx.AsyncClient, conn: Connection, given: dict[str, Any], field: str
):
    assert is_problem(await client.post("/tasks", json=LETTER | given), 400, field)
    assert await stored(conn) == []


async def test_from_sql_and_from_python_it_is_the_same(conn: Connection):
    id = await enqueue(conn, "t", {"n": 1}, unique_key="k")
    again: Any = await ask(conn, "SELECT taskflow.enqueue('t', unique_key => 'k', on_conflict => 'existing')")
    assert again == id
    assert await enqueue(conn, "t", {"n": 2}, unique_key="k", on_conflict="replace") == id
    assert (await look(conn, id))["payload"] == {"n": 2}
    for statement in (
        "SELECT taskflow.enqueue('t', unique_key => 'k')",
        """SELECT taskflow.enqueue_many('[{"type": "t", "unique_key": "k"}]')""",
        "INSERT INTO taskflow.tasks (name, type, unique_key) VALUES ('n', 't', 'k')",
    ):
        with pytest.raises(psycopg.errors.UniqueViolation):
            await conn.execute(statement)
    with pytest.raises(psycopg.DataError, match="on_conflict"):
        await conn.execute("SELECT taskflow.enqueue('t', unique_key => 'k', on_conflict => 'ignore')")
    with pytest.raises(psycopg.errors.CheckViolation):
        await conn.execute("SELECT taskflow.enqueue('t', unique_key => repeat('x', 129))")
    refused: list[dict[str, Any]] = [{"unique_key": "k", "on_conflict": "ignore"}, {"unique_key": "x" * 129}]
    for wrong in refused:
        with pytest.raises(InvalidTask):
            await enqueue(conn, "t", **wrong)


async def test_a_retry_by_hand_leaves_alone_what_would_be_a_second_live_task(conn: Connection, make_task: MakeTask):
    first, second, other = [await make_task(FAILED, unique_key=key) for key in ("k", "k", None)]
    assert await retry_by_hand(conn, [first, second, other]) == {second, other}
    assert await retry_by_hand(conn, [first]) == set()


async def test_a_retry_over_http_says_that_the_key_is_taken(client: httpx.AsyncClient, make_task: MakeTask):
    id = await make_task(FAILED, unique_key="k")
    await make_task(unique_key="k")
    answer = await client.post(f"/tasks/{id}/retry")
    assert is_problem(answer, 409, "unique_key")
