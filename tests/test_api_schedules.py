"""Schedules over HTTP: made, looked at, changed, paused and run; bad ones are refused and nothing is stored."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from conftest import ask
from msgspec import Raw
from serving import api, is_problem, stored

from taskflow import schedules
from taskflow.database import Connection
from taskflow.model import NewSchedule

SCHEDULE = {"name": "morning mail", "rule": "0 7 * * *", "type": "send_email", "payload": {"to": "ada@example.com"}}


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over the emptied database."""
    async with api(dsn) as client:
        yield client


async def names(client: httpx.AsyncClient) -> list[str]:
    return [schedule["name"] for schedule in (await client.get("/schedules")).json()["schedules"]]


async def test_a_schedule_is_made_and_tells_its_next_ticks(client: httpx.AsyncClient):
    made = await client.post("/schedules", json=SCHEDULE | {"time_zone": "Europe/Berlin", "tick_field": "day"})
    assert made.status_code == 200, made.text
    expected = SCHEDULE | {
        "time_zone": "Europe/Berlin",
        "description": "At 07:00 every day",
        "priority": "normal",
        "max_attempts": 5,
        "missed": "once",
        "tick_field": "day",
        "is_declared": False,
        "is_kept": True,
        "paused_at": None,
        "last_tick": None,
    }
    assert expected.items() <= made.json().items()
    ticks = [datetime.fromisoformat(tick) for tick in made.json()["next_ticks"]]
    assert len(ticks) == 5
    assert datetime.now(UTC) < ticks[0] < datetime.now(UTC) + timedelta(days=1)
    assert (await client.get("/schedules/morning mail")).json() == made.json()


async def test_schedules_are_listed_page_by_page(client: httpx.AsyncClient):
    for name in "bca":
        await client.post("/schedules", json=SCHEDULE | {"name": name})
    first = (await client.get("/schedules?limit=2")).json()
    assert ([kept["name"] for kept in first["schedules"]], first["next"]) == (["a", "b"], "b")
    second = (await client.get("/schedules?limit=2&after=b")).json()
    assert ([kept["name"] for kept in second["schedules"]], second["next"]) == (["c"], None)
    assert is_problem(await client.get("/schedules?limit=0"), 400, "limit")
    assert is_problem(await client.get("/schedules?after=%00"), 400, "after")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rule": "0 0 31 2 *"}, "rule"),
        ({"rule": "every 0s"}, "rule"),
        ({"rule": "* " * 90}, "rule"),
        ({"rule": "*" * 201}, "rule"),
        ({"rule": "0 7 * * \x00"}, "rule"),
        ({"rule": 5}, "rule"),
        ({"time_zone": "../../etc/passwd"}, "time_zone"),
        ({"time_zone": "UTC\x00"}, "time_zone"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": "a\x00"}, "name"),
        ({"type": "unknown"}, "type"),
        ({"type": "a\x00"}, "type"),
        ({"payload": {}}, "payload"),
        ({"payload": {"to": 1}}, "payload[...]"),
        ({"payload": []}, "payload"),
        ({"payload": {"to": "\x00"}}, "payload"),
        ({"type": "anything", "payload": {"n": 10**4000}}, None),
        ({"priority": "test"}, "priority"),
        ({"priority": "urgent"}, "priority"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 2**31}, "max_attempts"),
        ({"missed": "twice"}, "missed"),
        ({"tick_field": ""}, "tick_field"),
        ({"tick_field": "a\x00"}, "tick_field"),
        ({"type": "print_letter", "tick_field": "copies"}, "payload.copies"),
        ({"next_tick": "2026-01-01T00:00:00Z"}, "next_tick"),
    ],
)
async def test_a_schedule_that_cannot_be_kept_is_refused_at_once_and_not_stored(
    client: httpx.AsyncClient, changes: dict[str, Any], field: str | None
):
    await client.post("/schedules", json=SCHEDULE | {"name": "kept"})
    began = time.perf_counter()
    refused = await client.post("/schedules", json=SCHEDULE | changes)
    if field is None:
        assert refused.status_code in {200, 400}
        return
    assert is_problem(refused, 400, field), refused.text
    if "name" not in changes and "next_tick" not in changes:
        assert is_problem(await client.patch("/schedules/kept", json=changes), 400, field)
    assert time.perf_counter() - began < 1
    assert await names(client) == ["kept"]


async def test_a_name_is_taken_once(client: httpx.AsyncClient):
    await client.post("/schedules", json=SCHEDULE)
    assert is_problem(await client.post("/schedules", json=SCHEDULE), 409, "name")


async def test_what_is_left_out_of_a_change_stays(client: httpx.AsyncClient):
    made = (await client.post("/schedules", json=SCHEDULE)).json()
    changed = (await client.patch("/schedules/morning mail", json={"rule": "every 1h", "missed": "all"})).json()
    told = {"rule", "missed", "description", "next_ticks", "updated_at"}
    assert {key: value for key, value in changed.items() if key not in told} == {
        key: value for key, value in made.items() if key not in told
    }
    assert (changed["rule"], changed["missed"], changed["description"]) == ("every 1h", "all", "Every hour")
    assert (await client.patch("/schedules/morning mail", json={})).json()["next_ticks"] == changed["next_ticks"]


async def test_a_schedule_is_paused_with_a_reason_resumed_run_and_removed(client: httpx.AsyncClient, conn: Connection):
    path = "/schedules/morning%20mail"
    await client.post("/schedules", json=SCHEDULE)
    paused = (await client.post(f"{path}/pause", json={"reason": "holidays"})).json()
    assert (paused["pause_reason"], paused["next_ticks"]) == ("holidays", [])
    assert (await client.post(f"{path}/pause")).json()["pause_reason"] is None
    id = (await client.post(f"{path}/run")).json()["added_task_id"]
    assert [row[:3] for row in await stored(conn)] == [(id, "morning mail", "send_email")]
    resumed = (await client.post(f"{path}/resume")).json()
    assert (resumed["paused_at"], len(resumed["next_ticks"]), resumed["last_status"]) == (None, 5, "queued")
    assert (await client.delete(path)).json()["name"] == "morning mail"
    assert await names(client) == []


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"reason": ""}', b'{"reason": "\\u0000"}', b'{"why": "x"}'])
async def test_a_pause_that_cannot_be_read_changes_nothing(client: httpx.AsyncClient, body: bytes):
    await client.post("/schedules", json=SCHEDULE)
    path = "/schedules/morning mail"
    refused = await client.post(f"{path}/pause", content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 400
    assert (await client.get(path)).json()["paused_at"] is None


async def test_what_code_declares_is_changed_there_but_may_be_paused_run_and_removed(
    client: httpx.AsyncClient, conn: Connection
):
    await schedules.declare(
        conn, NewSchedule(name="report", rule="@daily", type="anything", payload=Raw(b"{}"), max_attempts=1)
    )
    assert is_problem(await client.patch("/schedules/report", json={"rule": "@hourly"}), 409, "name")
    assert (await client.post("/schedules/report/pause")).json()["is_declared"] is True
    assert (await client.post("/schedules/report/run")).status_code == 200
    assert (await client.delete("/schedules/report")).status_code == 200
    assert await ask(conn, "SELECT count(*) FROM taskflow.schedules") == 0


@pytest.mark.parametrize(
    ("name", "status", "field"),
    [("nobody", 404, None), ("%00", 400, "name"), ("%0A", 400, "name"), ("%ff", 404, None), ("x" * 129, 400, "name")],
)
async def test_a_name_that_is_unknown_or_impossible_is_told_as_such(
    client: httpx.AsyncClient, name: str, status: int, field: str | None
):
    path = f"/schedules/{name}"
    answers = [await client.get(path), await client.delete(path), await client.patch(path, json={})]
    answers += [await client.post(f"{path}/{action}") for action in ("pause", "resume", "run")]
    assert [is_problem(answer, status, field) for answer in answers] == [True] * 6, [a.text for a in answers]
