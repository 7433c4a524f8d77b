"""What people read in SQL; and each example of docs/sql.md runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import MakeTask, MakeWorker
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier

from taskflow.database import Connection
from taskflow.model import Status

PAGE = Path(__file__).parents[1] / "docs" / "sql.md"
EXAMPLES = [
    statement for block in re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    for statement in re.split(r"(?<=;)\n", block.strip())
]  # fmt: skip

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = Status


async def view(conn: Connection, name: str) -> list[dict[str, Any]]:
    """All rows of a view."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(SQL("TABLE taskflow.{}").format(Identifier(name)))).fetchall()


@pytest.mark.parametrize("statement", EXAMPLES)
async def test_an_example_of_the_page_runs(conn: Connection, make_task: MakeTask, statement: str):
    for status in Status:
        await make_task(status)
    await conn.execute(statement.encode())


def test_the_page_shows_each_view_and_function():
    text = "\n".join(EXAMPLES)
    names = [
        "queue",
        "running",
        "failed",
        "throughput",
        "stuck",
        "enqueue",
        "enqueue_many",
        "cancel",
        "retry",
        "recover",
    ]
    assert [name for name in names if f"taskflow.{name}" not in text] == []


async def test_the_queue_is_in_the_order_of_claiming(conn: Connection, make_task: MakeTask):
    low = await make_task(priority="low")
    later = await make_task(scheduled_at="2100-01-01")
    held = await make_task(held=True, scheduled_at="2020-01-01")
    high = await make_task(priority="high")
    for status in (RUNNING, SUCCEEDED, FAILED, CANCELLED):
        await make_task(status)
    rows = await view(conn, "queue")
    assert [(row["id"], row["held"], row["waits"].total_seconds() >= 0) for row in rows] == [
        (high, False, True),
        (held, True, True),
        (later, False, False),
        (low, False, True),
    ]


async def test_running_tells_who_runs_what(conn: Connection, make_task: MakeTask, make_worker: MakeWorker):
    id = await make_task(RUNNING, worker=await make_worker(name="w1"), attempt=2)
    await make_task()
    ((row),) = await view(conn, "running")
    assert (row["id"], row["attempt"], row["worker"], row["host"]) == (id, 2, "w1", "test")


async def test_failed_tells_the_first_line_of_each_error_the_latest_first(conn: Connection, make_task: MakeTask):
    first = await make_task(FAILED, error="KeyError: 'to'\nTraceback …", updated_at="2026-01-01")
    second = await make_task(FAILED, error="boom", updated_at="2026-01-02")
    await make_task(SUCCEEDED)
    assert [(row["id"], row["error"]) for row in await view(conn, "failed")] == [
        (second, "boom"),
        (first, "KeyError: 'to'"),
    ]


async def test_throughput_counts_what_ended_by_the_minute(conn: Connection, make_task: MakeTask):
    for status in (QUEUED, RUNNING, SUCCEEDED, SUCCEEDED, FAILED, CANCELLED):
        await make_task(status)
    await conn.execute("UPDATE taskflow.tasks SET finished_at = date_trunc('minute', now()) WHERE status > 'running'")
    ((row),) = await view(conn, "throughput")
    assert (row["succeeded"], row["failed"], row["cancelled"]) == (2, 1, 1)
    await conn.execute("UPDATE taskflow.tasks SET finished_at = now() - interval '61 minutes' WHERE status > 'running'")
    assert await view(conn, "throughput") == []


async def test_stuck_is_what_runs_on_a_worker_that_is_gone_or_waits_for_none(
    conn: Connection, make_task: MakeTask, make_worker: MakeWorker
):
    gone, stopped, live = await make_worker(silent_for=60), await make_worker(stopped=True), await make_worker()
    lost = {await make_task(RUNNING, worker=worker) for worker in (gone, stopped, 2**40)}
    unclaimed = await make_task(priority="test", scheduled_at="2020-01-01")
    for columns in ({"scheduled_at": "2020-01-01"}, {"priority": "test"}, {"priority": "test", "held": True}):
        await make_task(**columns)
    await make_task(RUNNING, worker=live)
    rows = {row["id"]: row["why"] for row in await view(conn, "stuck")}
    assert rows.keys() == lost | {unclaimed}
    assert rows[unclaimed] == "no worker claims priority test"


async def test_the_small_indexes_serve_the_views(own_database: str):
    with psycopg.connect(own_database, autocommit=True) as conn:
        conn.execute(
            """INSERT INTO taskflow.tasks (name, type, status, worker_id, started_at, finished_at)
            SELECT 'n', 't', 'succeeded', 1, now(), now() FROM generate_series(1, 20000)"""
        )
        conn.execute(
            """INSERT INTO taskflow.tasks (name, type, held)
            SELECT 'n', 't', n % 2 = 0 FROM generate_series(1, 20000) AS n"""
        )
        conn.execute("ANALYZE taskflow.tasks")
        for name in ("queue", "running", "failed", "stuck"):
            rows = conn.execute(SQL("EXPLAIN SELECT * FROM taskflow.{} LIMIT 9").format(Identifier(name))).fetchall()
            plan = "\n".join(line for (line,) in rows)
            assert "Seq Scan on tasks" not in plan, plan
            assert name != "queue" or "Merge Append" in plan, plan  # it is not sorted
