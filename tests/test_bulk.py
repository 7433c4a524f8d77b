"""Many tasks are changed at once: from Python, over HTTP, and from the command line."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from commands import run
from conftest import MakeTask, ask, look
from serving import api, is_problem

from taskflow import bulk
from taskflow.api import actions
from taskflow.bulk import APPLIES_TO, Action, Order, carry_out, preview
from taskflow.database import Connection
from taskflow.errors import InvalidTask
from taskflow.filters import Cursor, TaskFilter
from taskflow.model import Priority, Status
from taskflow.queries import listing

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = Status

BECOMES = {
    Action.RETRY: {"status": "queued"},
    Action.CANCEL: {"status": "cancelled", "error": "enough"},
    Action.REPRIORITISE: {"status": "queued", "priority": "high"},
}


def order(action: Action, **filter: Any) -> Order:
    """What is to be done, with what the action needs."""
    return Order(
        action=action,
        filter=TaskFilter(**filter),
        priority=Priority.HIGH if action is Action.REPRIORITISE else None,
        reason="enough" if action is Action.CANCEL else None,
    )


@pytest.mark.parametrize("action", Action)
async def test_an_action_concerns_the_tasks_that_it_is_for_and_the_filter_names(
    conn: Connection, make_task: MakeTask, action: Action
):
    meant = [await make_task(status, type="meant") for status in Status]
    other = [await make_task(status, type="other") for status in Status]
    before = {id: await look(conn, id) for id in meant + other}
    expected = [id for id, status in zip(meant, Status, strict=True) if status in APPLIES_TO[action]]
    done = await carry_out(conn, order(action, type="meant"), None, seconds=60)
    assert (done.count, done.next) == (len(expected), None)
    for id in set(meant + other) - set(expected):
        assert await look(conn, id) == before[id]
    for id in expected:
        if action is Action.DELETE:
            assert await ask(conn, "SELECT count(*) FROM taskflow.tasks WHERE id = %s", id) == 0
        else:
            assert BECOMES[action].items() <= (await look(conn, id)).items()


@pytest.mark.parametrize("action", Action)
async def test_a_dry_run_counts_and_changes_nothing(conn: Connection, make_task: MakeTask, action: Action):
    before = [await look(conn, await make_task(status)) for status in Status]
    done = await carry_out(conn, order(action), None, seconds=60, dry_run=True)
    assert (done.count, done.next) == (len(APPLIES_TO[action]), None)
    assert [await look(conn, row["id"]) for row in before] == before


async def test_a_preview_counts_the_newest_first_and_only_what_is_to_be_changed_yet(
    conn: Connection, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
):
    for name, most in (("BUDGET", 4), ("FEW", 1)):
        monkeypatch.setattr(listing, name, most)
    old = [await make_task(SUCCEEDED) for _ in range(8)]
    waits = [await make_task(QUEUED) for _ in range(3)]
    await make_task(QUEUED)  # too late
    cancels, everything = order(Action.CANCEL), Cursor(0, waits[-1])
    assert await preview(conn, cancels, everything, seconds=0) == (3, False)
    assert await preview(conn, cancels, everything, seconds=60) == (3, True)
    assert await preview(conn, cancels, Cursor(waits[0], waits[-1]), seconds=60) == (2, True)
    assert await preview(conn, order(Action.DELETE), everything, seconds=60) == (len(old), True)


def test_a_preview_reads_less_at_a_look_where_looks_take_long(monkeypatch: pytest.MonkeyPatch):
    pace = bulk.Pace()
    read = list[int]()
    for long in [60, 60, 60, 0, 0, 0, 0]:
        monkeypatch.setattr(bulk, "LONG", long)
        read.append(pace.begin())
        pace.end()
    assert read == [50, 100, 200, 400, 200, 100, 50]


async def test_it_goes_step_by_step_and_can_be_continued(
    conn: Connection, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bulk, "BATCH", 2)
    made = [await make_task(FAILED) for _ in range(5)]
    counts, cursor = list[int](), None
    while True:
        progress = await carry_out(conn, order(Action.RETRY), cursor, seconds=0)
        counts.append(progress.count)
        # What fails again, and what is new, is not touched by the steps to come.
        await conn.execute(
            """UPDATE taskflow.tasks SET status = 'failed', started_at = now(), finished_at = now(), worker_id = 1
            WHERE status = 'queued'"""
        )
        await make_task(FAILED)
        if (cursor := progress.next) is None:
            break
    assert counts == [2, 2, 1]
    cursor = await conn.execute("SELECT task_id FROM taskflow.attempts ORDER BY task_id")
    assert [id for (id,) in await cursor.fetchall()] == made


async def test_a_deleted_task_takes_its_history_with_it(conn: Connection, make_task: MakeTask):
    gone, kept = await make_task(FAILED), await make_task(FAILED, type="other")
    for filter in ({}, {"type": "send_email"}):
        await carry_out(conn, order(Action.RETRY, **filter), None, seconds=60)
        await carry_out(conn, order(Action.CANCEL), None, seconds=60)
    await carry_out(conn, order(Action.DELETE, type="send_email"), None, seconds=60)
    cursor = await conn.execute("SELECT DISTINCT task_id FROM taskflow.task_history")
    assert await cursor.fetchall() == [(kept,)]
    assert gone != kept


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("filter.status", {"action": Action.RETRY, "filter": TaskFilter(status=SUCCEEDED)}),
        ("filter.status", {"action": Action.DELETE, "filter": TaskFilter(status=RUNNING)}),
        ("priority", {"action": Action.REPRIORITISE, "filter": TaskFilter()}),
        ("priority", {"action": Action.CANCEL, "filter": TaskFilter(), "priority": Priority.LOW}),
        ("reason", {"action": Action.RETRY, "filter": TaskFilter(), "reason": "why not"}),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(field: str, wrong: dict[str, Any]):
    with pytest.raises(InvalidTask) as refused:
        Order(**wrong)
    assert refused.value.field == field


# --- over HTTP ---


@pytest.fixture
async def client(dsn: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API over the emptied database."""
    async with api(dsn) as client:
        yield client


async def test_the_api_counts_first_and_then_acts(client: httpx.AsyncClient, conn: Connection, make_task: MakeTask):
    ids = [await make_task(FAILED) for _ in range(3)]
    asked = {"action": "retry", "filter": {"status": "failed"}}
    answers = [(await client.post("/tasks/actions", json=asked | more)).json() for more in ({"dry_run": True}, {}, {})]
    assert answers == [{"count": 3, "next": None}, {"count": 3, "next": None}, {"count": 0, "next": None}]
    assert [(await look(conn, id))["status"] for id in ids] == ["queued"] * 3


async def test_what_takes_longer_than_a_request_goes_on_with_the_next(
    client: httpx.AsyncClient, conn: Connection, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bulk, "BATCH", 2)
    monkeypatch.setattr(actions, "SHARE", 0)
    for _ in range(5):
        await make_task()
    asked: dict[str, Any] = {"action": "cancel", "filter": {}, "reason": "enough"}
    counts: list[int] = []
    while True:
        answer = (await client.post("/tasks/actions", json=asked)).json()
        counts.append(answer["count"])
        if answer["next"] is None:
            break
        asked["cursor"] = answer["next"]
    assert counts == [2, 2, 1]
    assert await ask(conn, "SELECT count(*) FROM taskflow.tasks WHERE error = 'enough'") == 5


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "action"),
        ({"action": "retry"}, "filter"),
        ({"action": "explode", "filter": {}}, "action"),
        ({"action": "retry", "filter": {"status": "done"}}, "filter.status"),
        ({"action": "retry", "filter": {"status": "queued"}}, "filter.status"),
        ({"action": "retry", "filter": {"statsu": "failed"}}, "filter.statsu"),
        ({"action": "retry", "filter": []}, "filter"),
        ({"action": "retry", "filter": {"name": "\0"}}, "filter.name"),
        ({"action": "cancel", "filter": {}, "reason": "\0"}, "reason"),
        ({"action": "cancel", "filter": {}, "reason": "x" * 501}, "reason"),
        ({"action": "cancel", "filter": {}, "dry_run": 1}, "dry_run"),
        ({"action": "cancel", "filter": {}, "cursor": "AAAA"}, "cursor"),
        ({"action": "reprioritise", "filter": {}}, "priority"),
        ({"action": "reprioritise", "filter": {}, "priority": "urgent"}, "priority"),
        ({"action": "delete", "filter": {}, "priority": "low"}, "priority"),
        ({"action": "delete", "filter": {}, "everything": True}, "everything"),
    ],
)
async def test_a_wrong_action_is_refused_with_the_field_and_changes_nothing(
    client: httpx.AsyncClient, conn: Connection, make_task: MakeTask, body: dict[str, Any], field: str
):
    before = [await look(conn, await make_task(status)) for status in Status]
    assert is_problem(await client.post("/tasks/actions", json=body), 400, field)
    assert [await look(conn, row["id"]) for row in before] == before


async def test_the_cursor_of_one_action_is_not_for_another(
    client: httpx.AsyncClient, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bulk, "BATCH", 1)
    monkeypatch.setattr(actions, "SHARE", 0)
    for _ in range(2):
        await make_task()
    cursor = (await client.post("/tasks/actions", json={"action": "cancel", "filter": {}})).json()["next"]
    deletion: dict[str, Any] = {"action": "delete", "filter": {}, "cursor": cursor}
    assert is_problem(await client.post("/tasks/actions", json=deletion), 400, "cursor")


# --- from the command line ---


async def test_the_command_lists_shows_cancels_and_retries(
    conn: Connection, make_task: MakeTask, dsn: str, work_dir: Path
):
    one, two = await make_task(name="first"), await make_task(FAILED, name="second", type="print_letter")

    def tasks(*arguments: str) -> str:
        done = run(work_dir, "taskflow", "tasks", *arguments, DATABASE_URL=dsn)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert [task["id"] for task in json.loads(tasks("list", "--json"))] == [two, one]
    listed = tasks("list", "--status", "failed")
    assert "print_letter" in listed
    assert "first" not in listed
    shown = json.loads(tasks("show", str(two), "--json"))
    assert (shown["task"]["error"], len(shown["history"])) == ("boom", 2)
    assert "boom" in tasks("show", str(two))
    assert tasks("cancel", str(one), str(two), "--reason", "enough") == "1 task cancelled\n"
    assert (await look(conn, one))["error"] == "enough"
    assert tasks("retry", "--type", "print_letter", "--dry-run") == "1 task would be re-queued\n"
    counted = json.loads(tasks("retry", "--type", "print_letter", "--dry-run", "--json"))
    assert counted == {"action": "retry", "count": 1, "dry_run": True}
    assert json.loads(tasks("retry", str(two), "--json")) == {"action": "retry", "count": 1, "dry_run": False}
    assert tasks("reprioritise", "--status", "queued", "--to", "low") == "1 task made low\n"
    assert (await look(conn, two))["priority"] == "low"
    assert tasks("delete", "--status", "cancelled") == "1 task deleted\n"
    assert [task["id"] for task in json.loads(tasks("list", "--oldest-first", "--json"))] == [two]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cancel"], "give either ids, or a filter"),
        (["cancel", "1", "--type", "x"], "give either ids, or a filter"),
        (["retry", "--status", "queued"], "retry is for failed and cancelled tasks only"),
        (["list", "--created-after", "yesterday"], "--created-after"),
        (["list", "--status", "done"], "--status"),
        (["show", "0"], "0"),
        (["show", "9223372036854775807"], "no task has the id 9223372036854775807"),
    ],
)
def test_a_wrong_command_is_told_what_is_wrong(dsn: str, work_dir: Path, arguments: list[str], words: str):
    done = run(work_dir, "taskflow", "tasks", *arguments, DATABASE_URL=dsn)
    assert done.returncode in {1, 2}
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
