"""Schedules: declared by code or made as rows, each tick enqueues one task however many workers look."""

import asyncio
import signal
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from commands import until
from conftest import Connect, ask
from msgspec import Raw
from psycopg.rows import dict_row
from support import Workers, log_lines

from taskflow import schedules
from taskflow.database import Connection
from taskflow.errors import InvalidSchedule
from taskflow.maintenance import declare_all, tick_once
from taskflow.model import Missed, NewSchedule, Priority
from taskflow.queue.tick import run_now, tick
from taskflow.registry import Registry
from taskflow.schedules import find_schedule, find_schedules


def scheduled(name: str = "report", rule: str = "every 1h", **columns: Any) -> NewSchedule:
    """A schedule as code or the API gives it."""
    given: dict[str, Any] = {"type": "make_report", "payload": Raw(b'{"of": "sales"}'), "max_attempts": 3} | columns
    return NewSchedule(name=name, rule=rule, **given)


async def missing(conn: Connection, name: str = "report", *, since: timedelta) -> datetime:
    """Let the schedule look as if nobody had looked after it *since* then; its first tick that was missed."""
    (rule, zone, now) = await row(conn, "SELECT rule, time_zone, now() FROM taskflow.schedules WHERE name = %s", name)
    first = schedules.parse_rule(rule, zone).next_after(now - since)
    await conn.execute("UPDATE taskflow.schedules SET next_tick = %s WHERE name = %s", [first, name])
    return first


async def row(conn: Connection, statement: Any, *values: object) -> tuple[Any, ...]:
    found = await (await conn.execute(statement, values)).fetchone()
    assert found is not None
    return found


async def tasks(conn: Connection) -> list[dict[str, Any]]:
    """All tasks, by id."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute("SELECT * FROM taskflow.tasks ORDER BY id")).fetchall()


# --- a tick ---


async def test_a_tick_enqueues_the_task_as_the_schedule_says(conn: Connection):
    given = scheduled("nightly report", priority=Priority.HIGH, tick_field="until")
    await schedules.create(conn, given)
    assert await tick(conn, []) == []
    at = await missing(conn, "nightly report", since=timedelta(hours=1))
    (done,) = await tick(conn, [])
    (task,) = await tasks(conn)
    assert (done.name, done.tasks, done.error) == ("nightly report", 1, None)
    assert task["name"] == "nightly report"
    assert (task["type"], task["priority"], task["max_attempts"]) == ("make_report", "high", 3)
    assert task["payload"] == {"of": "sales", "until": f"{at:%Y-%m-%dT%H:%M:%SZ}"}
    assert task["scheduled_at"] == at
    kept = await find_schedule(conn, "nightly report")
    assert (kept.last_tick, kept.last_task_id, kept.last_status) == (at, task["id"], "queued")
    assert kept.next_ticks == [at + timedelta(hours=n) for n in range(1, 6)]
    assert await tick(conn, []) == []


async def test_however_many_workers_look_each_tick_gets_one_task(conn: Connection, connections: Connect):
    for number in range(20):
        await schedules.create(conn, scheduled(f"number {number}", "every 1s"))
    lookers = await connections(8)
    deadline = time.monotonic() + 3

    async def look(conn: Connection) -> None:
        while time.monotonic() < deadline:
            await tick_once(conn, [])

    await asyncio.gather(*map(look, lookers))
    found = await tasks(conn)
    assert len({(task["name"], task["scheduled_at"]) for task in found}) == len(found)
    for number in range(20):
        moments = [task["scheduled_at"] for task in found if task["name"] == f"number {number}"]
        assert len(moments) >= 2
        assert moments == [moments[0] + timedelta(seconds=n) for n in range(len(moments))]


async def test_a_schedule_that_another_worker_holds_is_passed_over_and_looked_for_again_soon(
    conn: Connection, connections: Connect
):
    await schedules.create(conn, scheduled())
    await missing(conn, since=timedelta(hours=1))
    (other,) = await connections(1)
    async with other.transaction():
        await other.execute("SELECT FROM taskflow.schedules FOR UPDATE")
        assert await tick(conn, []) == []
        assert 0 < (await tick_once(conn, []) or 0) < 0.1
    assert len(await tick(conn, [])) == 1


@pytest.mark.parametrize(("missed", "count"), [(Missed.SKIP, 0), (Missed.ONCE, 1), (Missed.ALL, 5)])
async def test_missed_ticks_get_no_task_one_or_one_each(conn: Connection, missed: Missed, count: int):
    await schedules.create(conn, scheduled(rule="every 7d", missed=missed))
    first = await missing(conn, since=timedelta(days=7 * 5))
    await tick_once(conn, [])
    found = [task["scheduled_at"] for task in await tasks(conn)]
    assert found == [first + timedelta(days=7 * n) for n in range(5)][5 - count :]
    kept = await find_schedule(conn, "report")
    assert kept.next_ticks[0] == first + timedelta(days=7 * 5)
    assert kept.last_tick == (found[-1] if found else None)


async def test_of_very_many_missed_ticks_the_latest_thousand_get_a_task(conn: Connection):
    await schedules.create(conn, scheduled(rule="every 1s", missed=Missed.ALL))
    await missing(conn, since=timedelta(days=30))
    (done,) = await tick(conn, [])
    assert done.tasks == await ask(conn, "SELECT count(*) FROM taskflow.tasks") == 1000
    assert await ask(conn, "SELECT now() - min(scheduled_at) < '20 minutes' FROM taskflow.tasks")


async def test_a_schedule_whose_rule_cannot_be_read_is_paused_and_the_others_go_on(conn: Connection):
    await schedules.create(conn, scheduled("broken"))
    await schedules.create(conn, scheduled("whole"))
    await missing(conn, "whole", since=timedelta(hours=1))
    await missing(conn, "broken", since=timedelta(hours=2))
    await conn.execute("UPDATE taskflow.schedules SET rule = 'nonsense' WHERE name = 'broken'")
    await tick_once(conn, [])
    assert [task["name"] for task in await tasks(conn)] == ["whole"]
    broken = await find_schedule(conn, "broken")
    assert broken.paused_at is not None
    assert "five cron fields" in (broken.pause_reason or "")
    with pytest.raises(InvalidSchedule):
        await schedules.resume(conn, "broken")


# --- pause, resume, run ---


async def test_a_paused_schedule_does_not_tick_and_its_pause_counts_for_nothing(conn: Connection):
    await schedules.create(conn, scheduled(rule="every 7d", missed=Missed.ALL))
    await schedules.pause(conn, "report", "stock-taking")
    await missing(conn, since=timedelta(days=30))
    assert await tick_once(conn, []) is None
    paused = await find_schedule(conn, "report")
    assert (paused.pause_reason, paused.next_ticks) == ("stock-taking", [])
    await schedules.resume(conn, "report")
    assert await tick(conn, []) == []
    resumed = await find_schedule(conn, "report")
    assert (resumed.paused_at, resumed.pause_reason, len(resumed.next_ticks)) == (None, None, 5)


async def test_resuming_what_is_not_paused_changes_no_tick(conn: Connection):
    await schedules.create(conn, scheduled())
    first = await missing(conn, since=timedelta(hours=1))
    await schedules.resume(conn, "report")
    assert (await find_schedule(conn, "report")).next_ticks[0] == first


async def test_a_schedule_is_run_at_once_beside_its_ticks_also_while_it_is_paused(conn: Connection):
    await schedules.create(conn, scheduled(tick_field="until"))
    await schedules.pause(conn, "report", None)
    id = await run_now(conn, "report")
    (task,) = await tasks(conn)
    assert task["id"] == id
    assert task["payload"].keys() == {"of", "until"}
    kept = await find_schedule(conn, "report")
    assert (kept.last_task_id, kept.last_tick) == (id, None)
    assert await run_now(conn, "nobody") is None


# --- declared by code ---


async def test_what_code_declares_again_keeps_its_pause_and_its_next_tick_unless_the_rule_is_another(conn: Connection):
    await declare_all(conn, [scheduled()])
    first = await missing(conn, since=timedelta(hours=2))
    await schedules.pause(conn, "report", "holidays")
    await declare_all(conn, [scheduled(payload=Raw(b"{}"))])
    assert await next_tick(conn) == first
    await declare_all(conn, [scheduled(rule="every 2h", payload=Raw(b"{}"))])
    assert await next_tick(conn) > first + timedelta(hours=1)
    kept = await find_schedule(conn, "report")
    assert (kept.pause_reason, bytes(kept.payload), kept.is_declared) == ("holidays", b"{}", True)


async def next_tick(conn: Connection) -> datetime:
    return await ask(conn, "SELECT next_tick FROM taskflow.schedules")


async def test_a_schedule_of_the_api_is_not_overwritten_by_code(conn: Connection):
    await schedules.create(conn, scheduled(rule="every 5h"))
    await declare_all(conn, [scheduled(rule="every 1h")])
    kept = await find_schedule(conn, "report")
    assert (kept.rule, kept.is_declared) == ("every 5h", False)


async def test_what_code_declared_ticks_only_by_workers_whose_code_still_does(conn: Connection):
    await declare_all(conn, [scheduled()])
    await missing(conn, since=timedelta(hours=1))
    assert await tick_once(conn, ["something else"]) is None
    assert len(await tick(conn, ["report"])) == 1


async def test_it_is_told_when_no_worker_declares_a_schedule_any_more(conn: Connection):
    await declare_all(conn, [scheduled()])
    assert (await find_schedule(conn, "report")).is_kept
    await conn.execute("UPDATE taskflow.schedules SET declared_at = now() - interval '1 day'")
    assert not (await find_schedule(conn, "report")).is_kept
    await schedules.declare_still(conn, ["report"])
    assert (await find_schedule(conn, "report")).is_kept


def test_a_schedule_is_declared_with_its_task_type_or_beside_it():
    registry = Registry()

    @registry.task("clean_up", max_attempts=2, schedule="0  3 * * *", time_zone="Europe/Berlin")
    async def clean_up() -> None: ...

    @registry.task("mail")
    async def mail(payload: dict[str, str]) -> None: ...

    registry.schedule("morning mail", "@daily", type="mail", payload={"to": "ada"}, tick_field="day", priority="high")
    cleaning, mailing = registry.schedules()
    assert (cleaning.name, cleaning.rule, cleaning.time_zone) == ("clean_up", "0 3 * * *", "Europe/Berlin")
    assert (cleaning.type, bytes(cleaning.payload), cleaning.max_attempts) == ("clean_up", b"{}", 2)
    assert (mailing.type, bytes(mailing.payload), mailing.max_attempts) == ("mail", b'{"to":"ada"}', 5)
    assert (mailing.priority, mailing.tick_field) == (Priority.HIGH, "day")


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"rule": "never"}, "rule"),
        ({"time_zone": "Mars"}, "time_zone"),
        ({"name": "a/b"}, "name"),
        ({"name": "taken"}, "name"),
        ({"type": "unknown"}, "type"),
        ({"payload": {"to": 1}}, "payload.to"),
        ({"payload": [1]}, "payload"),
        ({"payload": object()}, "payload"),
        ({"tick_field": "copies"}, "payload.copies"),
    ],
)
def test_a_schedule_that_cannot_be_kept_is_refused_with_the_field_at_fault(columns: dict[str, Any], field: str):
    registry = Registry()

    @registry.task("mail")
    async def mail(payload: dict[str, str]) -> None: ...

    @registry.task("copy")
    async def copy(payload: dict[str, int]) -> None: ...

    registry.schedule("taken", "@daily", type="mail")
    given: dict[str, Any] = {"name": "new", "rule": "@daily", "type": "copy" if "copies" in field else "mail"} | columns

    def declare() -> None:
        registry.schedule(given.pop("name"), given.pop("rule"), **given)
        registry.schedules()

    with pytest.raises(InvalidSchedule) as refused:
        declare()
    assert refused.value.field.startswith(field.partition(".")[0])


# --- rows ---


async def test_schedules_are_listed_by_name_page_by_page(conn: Connection):
    for name in "cab":
        await schedules.create(conn, scheduled(name))
    assert [kept.name for kept in await find_schedules(conn, limit=2)] == ["a", "b"]
    assert [kept.name for kept in await find_schedules(conn, after="b", limit=2)] == ["c"]


async def test_a_name_is_taken_once(conn: Connection):
    await schedules.create(conn, scheduled())
    with pytest.raises(schedules.ScheduleNameTaken):
        await schedules.create(conn, scheduled())


async def test_what_does_not_exist_cannot_be_touched(conn: Connection):
    for touch in (
        find_schedule(conn, "nobody"),
        schedules.pause(conn, "nobody", None),
        schedules.resume(conn, "nobody"),
        schedules.remove(conn, "nobody"),
        schedules.lock_for_change(conn, "nobody"),
    ):
        with pytest.raises(schedules.NoSuchSchedule):
            await touch


# --- workers ---

DECLARING = """
import os
from taskflow import schedule
schedule("often", "every 1s", type="quick", missed="skip")
"""


def test_workers_declare_what_their_code_says_and_tick_on_time_exactly_once(workers: Workers):
    (workers.directory / "declaring.py").write_text(DECLARING)
    started = [workers.start_ready("--app", "declaring", "--id", str(n)) for n in range(3)]
    count = "SELECT count(*) FROM taskflow.tasks WHERE name = 'often' AND status = 'succeeded'"
    until(lambda: workers.database.one(count) >= 4, lambda: "no four ticks")
    lateness = workers.database.rows(
        """
        SELECT extract(epoch FROM entered_at - scheduled_at)::float8
        FROM ledger JOIN taskflow.tasks AS task ON task.id = task_id
        """
    )
    assert sorted(late for (late,) in lateness)[len(lateness) // 2] < 0.5, lateness  # 10 to 20 ms on a quiet machine
    assert workers.database.one("SELECT count(DISTINCT scheduled_at) = count(*) FROM taskflow.tasks")
    for worker in started:
        assert worker.end(signal.SIGTERM) == 0, worker.said


def test_a_worker_notices_within_seconds_what_is_made_or_removed_by_others(workers: Workers):
    worker = workers.start_ready()
    workers.database.conn.execute(
        "INSERT INTO taskflow.schedules (name, rule, type, next_tick) VALUES ('new', 'every 1s', 'quick', now())"
    )
    until(lambda: workers.database.counts().get("succeeded", 0) >= 2, lambda: worker.said)
    workers.database.conn.execute("UPDATE taskflow.schedules SET rule = 'nonsense'")
    until(lambda: workers.database.one("SELECT paused_at IS NOT NULL FROM taskflow.schedules"), lambda: worker.said)
    assert "schedule.paused" in {line["event"] for line in log_lines(worker)}
