"""Gates over HTTP: terms of a task, groups, limits, pauses; and docs/gates.md."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from conftest import MakeTask, look
from serving import api, is_problem, stored

from taskflow.database import Connection

MAIL = {"name": "welcome", "type": "send_email", "payload": {"to": "ada@example.com"}}
PAGE = Path(__file__).parents[1] / "docs" / "gates.md"


@pytest.fixture
async def client(dsn: str, conn: Connection) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over the shared database, without limits, pauses and holds of other tests."""
    await conn.execute("DELETE FROM taskflow.limits; DELETE FROM taskflow.pauses; DELETE FROM taskflow.holds")
    async with api(dsn) as client:
        yield client
    await conn.execute("DELETE FROM taskflow.limits; DELETE FROM taskflow.pauses; DELETE FROM taskflow.holds")
    await conn.execute("ALTER TABLE taskflow.tasks DISABLE TRIGGER hold_limited_types")


async def added(client: httpx.AsyncClient, **terms: object) -> int:
    answer = await client.post("/tasks", json=MAIL | terms)
    assert answer.status_code == 200, answer.text
    return answer.json()["added_task_id"]


async def test_a_task_tells_what_it_waits_for(client: httpx.AsyncClient, conn: Connection):
    first = await added(client)
    id = await added(client, after=[first], order_key="ada", tenant="acme", limit_key="smtp")
    assert (await client.get(f"/tasks/{id}")).json()["waits_for"] == [f"task:{first}"]
    assert (await look(conn, id))["held"]
    assert (await client.get(f"/tasks/{first}")).json()["waits_for"] == []


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"after": [10**9]}, "after"),
        ({"after": [0]}, "after[0]"),
        ({"after": [2**63]}, "after[0]"),
        ({"after": "7"}, "after"),
        ({"after_failure": "wait"}, "after_failure"),
        ({"order_key": ""}, "order_key"),
        ({"order_key": "\0"}, "order_key"),
        ({"tenant": "x" * 129}, "tenant"),
        ({"limit_key": 7}, "limit_key"),
    ],
)
async def test_terms_that_cannot_be_kept_are_refused(
    client: httpx.AsyncClient, conn: Connection, terms: dict[str, object], field: str
):
    answer = await client.post("/tasks", json=MAIL | terms)
    assert is_problem(answer, 400, field), answer.text
    cursor = await conn.execute("SELECT FROM taskflow.tasks")
    assert cursor.rowcount == 0


async def test_a_batch_names_the_task_that_waits_for_one_that_does_not_exist(client: httpx.AsyncClient):
    answer = await client.post("/tasks/batch", json=[MAIL, MAIL | {"after": [10**9]}])
    assert answer.json()["errors"] == [{"index": 1, "field": "after", "detail": f"after: there is no task {10**9}"}]


async def test_of_several_refused_tasks_the_first_is_told_by_its_own_fault(
    client: httpx.AsyncClient, make_task: MakeTask
):
    """Postgres looks at what all wait for before it looks at keys."""
    await make_task(unique_key="live")
    taken, lost = MAIL | {"unique_key": "live"}, MAIL | {"after": [10**9]}
    for path, body in (("/tasks/batch", [MAIL, taken, lost]), ("/groups", {"tasks": [MAIL, taken, lost]})):
        (error,) = (await client.post(path, json=body)).json()["errors"]
        assert (error["index"], error["field"]) == (1, "unique_key")
    answer = await client.post("/groups", json={"tasks": [MAIL], "callback": taken})
    assert is_problem(answer, 400, "callback.unique_key"), answer.text


async def test_a_group_is_stored_whole_or_not_at_all(client: httpx.AsyncClient, conn: Connection):
    answer = await client.post("/groups", json={"tasks": [MAIL, MAIL], "callback": MAIL, "name": "newsletter"})
    assert answer.status_code == 200, answer.text
    added = answer.json()
    group = (await client.get(f"/groups/{added['added_group_id']}")).json()
    assert (group["name"], group["total"], group["queued"]) == ("newsletter", 2, 2)
    assert (await look(conn, added["callback_task_id"]))["held"]
    unknown = MAIL | {"type": "unknown"}
    refused: list[dict[str, object]] = [
        {"tasks": []},
        {"tasks": [MAIL, unknown]},
        {"tasks": [MAIL], "callback": unknown},
        {"tasks": [MAIL], "name": "\0"},
    ]
    for broken in refused:
        assert (await client.post("/groups", json=broken)).status_code == 400
    assert (await client.get("/groups/999999")).status_code == 404
    cursor = await conn.execute("SELECT FROM taskflow.tasks")
    assert cursor.rowcount == 3


@pytest.mark.parametrize(
    ("broken", "index"),
    [(MAIL | {"after": [10**9]}, 1), (MAIL | {"unique_key": "taken"}, 1), (MAIL | {"payload": 7}, 1)],
)
async def test_a_group_names_the_task_at_fault_whoever_refuses_it(
    client: httpx.AsyncClient, conn: Connection, broken: dict[str, object], index: int
):
    await client.post("/tasks", json=MAIL | {"unique_key": "taken"})
    answer = await client.post("/groups", json={"tasks": [MAIL, broken, MAIL], "callback": MAIL})
    assert is_problem(answer, 400), answer.text
    assert [error["index"] for error in answer.json()["errors"]] == [index]
    assert len(await stored(conn)) == 1


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        (MAIL | {"after": [1]}, "callback.after"),
        (MAIL | {"unique_key": "taken"}, "callback.unique_key"),
        (MAIL | {"unique_key": "free", "on_conflict": "existing"}, "callback.on_conflict"),
        (MAIL | {"payload": {}}, "callback.payload"),
        (MAIL | {"type": "unknown"}, "callback.type"),
        (7, "callback"),
    ],
)
async def test_a_group_names_what_is_wrong_with_its_callback(
    client: httpx.AsyncClient, conn: Connection, broken: object, field: str
):
    await client.post("/tasks", json=MAIL | {"unique_key": "taken"})
    answer = await client.post("/groups", json={"tasks": [MAIL], "callback": broken})
    assert is_problem(answer, 400, field), answer.text
    assert len(await stored(conn)) == 1


async def test_limits_and_pauses_are_set_told_and_lifted(client: httpx.AsyncClient):
    set = await client.put("/limits/send_email", json={"concurrency": 3, "rate": 10, "rate_seconds": 60})
    assert [(limit["type"], limit["concurrency"], limit["rate"]) for limit in set.json()["limits"]] == [
        ("send_email", 3, 10)
    ]
    await client.post("/limits/send_email/pause", json={"reason": "the mail server is down"})
    ((paused),) = (await client.get("/limits")).json()["limits"]
    assert paused["paused_at"] is not None
    assert paused["pause_reason"] == "the mail server is down"
    await client.put("/limits/send_email", json={})
    assert (await client.put("/limits/of_former_code", json={})).status_code == 200
    assert len((await client.get("/limits")).json()["limits"]) == 1
    assert (await client.post("/limits/send_email/resume")).json() == {"limits": []}

    queues = (await client.post("/queues/low/pause", json={"reason": "later"})).json()["queues"]
    assert [queue["priority"] for queue in queues if queue["paused_at"]] == ["low"]
    queues = (await client.post("/queues/low/resume")).json()["queues"]
    assert not any(queue["paused_at"] for queue in queues)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/limits/send_email", {"concurrency": -1}, 400),
        ("PUT", "/limits/send_email", {"rate": 0}, 400),
        ("PUT", "/limits/send_email", {"rate": 1, "rate_seconds": 0}, 400),
        ("PUT", "/limits/send_email", {"speed": 1}, 400),
        ("PUT", f"/limits/{'x' * 129}", {}, 400),
        ("PUT", "/limits/send_emial", {"concurrency": 1}, 400),
        ("POST", "/limits/send_emial/pause", {}, 400),
        ("POST", "/limits/send_email/pause", {"reason": 7}, 400),
        ("POST", "/limits/%00/pause", {}, 400),
        ("POST", "/queues/urgent/pause", {}, 404),
        ("POST", "/queues/urgent/resume", {}, 404),
    ],
)
async def test_what_cannot_be_set_is_refused(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, object], status: int
):
    answer = await client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert (await client.get("/limits")).json() == {"limits": []}


async def test_the_sql_of_the_page_runs(client: httpx.AsyncClient, conn: Connection):
    ids = [await added(client), await added(client)]
    for block in re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        await conn.execute(block.replace("ARRAY[7, 8]", f"ARRAY{ids}").encode())
    cursor = await conn.execute("SELECT DISTINCT split_part(gate, ':', 1) FROM taskflow.holds ORDER BY 1")
    assert [kind for (kind,) in await cursor.fetchall()] == ["key", "order", "task", "tenant"]
