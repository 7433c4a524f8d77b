"""``taskflow.testing``: what users' own suites stand on."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from commands import environment
from msgspec import Struct

from taskflow import Backoff, Limit, enqueue, enqueue_many, task
from taskflow.errors import InvalidTask, UnknownTaskType
from taskflow.model import Status
from taskflow.registry import registry
from taskflow.testing import StillDue, TaskflowDatabase, TaskNotSucceeded, inline, run_task, run_task_async

PAGE = Path(__file__).parents[1] / "docs" / "testing.md"


class Sum(Struct, frozen=True):
    numbers: list[int]


def adds(payload: Sum) -> int:
    return sum(payload.numbers)


async def fails(payload: dict[str, int]) -> None:
    raise ValueError("not today")


async def sleeps(payload: dict[str, int]) -> None:
    await asyncio.sleep(600)


@pytest.fixture(autouse=True)
def types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Task types of this test."""
    monkeypatch.setattr(registry, "_types", {})
    monkeypatch.setattr(registry, "_schedules", {})
    monkeypatch.setattr(registry, "middlewares", [])
    task("add", max_attempts=2)(adds)
    task("fail", max_attempts=2, backoff=Backoff(first=timedelta(minutes=5), jitter=0))(fails)
    task("sleep", timeout=0.05)(sleeps)


@pytest.fixture
def database(dsn: str) -> Iterator[TaskflowDatabase]:
    database = TaskflowDatabase(dsn)
    database.clear()
    yield database
    database.clear()


def test_the_page_works_in_a_suite_of_its_own(tmp_path: Path, server: str):
    for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(), re.DOTALL):
        (tmp_path / name).write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env=environment(TASKFLOW_TEST_DSN=server),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "6 passed" in done.stdout, done.stdout + done.stderr


# --- one task at once ---


def test_a_task_is_run_with_its_payload_checked_and_its_result_stored():
    assert run_task("add", {"numbers": [1, 2]}).result == 3
    assert run_task("add", Sum([4])).result == 4
    with pytest.raises(InvalidTask, match=r"payload.numbers\[0\]"):
        run_task("add", {"numbers": ["1"]})
    with pytest.raises(UnknownTaskType, match="known are add, fail, sleep"):
        run_task("subtract")


def test_a_failed_attempt_tells_whether_it_is_tried_again():
    first, last = run_task("fail"), run_task("fail", attempt=2)
    assert (first.status, first.retry_in) == (Status.QUEUED, timedelta(minutes=5))
    assert (last.status, last.retry_in) == (Status.FAILED, None)
    with pytest.raises(TaskNotSucceeded, match="fail is queued after attempt 1: ValueError: not today") as raised:
        _ = first.result
    assert "in fails" in str(raised.value)


def test_a_time_limit_holds_inline_too():
    began = time.monotonic()
    assert (run_task("sleep").error or "").startswith("TimeoutError: the attempt took longer than its 0.05 s")
    assert time.monotonic() - began < 30


async def test_a_task_is_run_where_an_event_loop_runs():
    assert run_task("add", {"numbers": [1]}).result == 1
    assert (await run_task_async("add", {"numbers": [2]})).result == 2


async def test_many_inline_tasks_run_one_after_the_other_where_they_are_enqueued():
    tasks = [{"type": "add", "payload": Sum([number, 1])} for number in range(3)]
    with inline() as ran:
        assert enqueue_many(None, tasks) == [1, 2, 3]
        assert [one.result for one in ran] == [1, 2, 3]
        with pytest.raises(TaskNotSucceeded):
            enqueue_many(None, [{"type": "fail", "max_attempts": 1}, *tasks])
        assert len(ran) == 4


async def test_inline_tasks_run_where_they_are_enqueued():
    async def chain(payload: dict[str, int]) -> None:
        enqueue(None, "add", {"numbers": [1, 2, 3]}, name="of a chain")

    class Async:
        async def execute(self) -> None: ...

    task("chain")(chain)
    with inline() as ran:
        assert await enqueue(Async(), "chain") == 1
        with pytest.raises(InvalidTask):
            enqueue(None, "add", {"numbers": 7})
        with pytest.raises(TaskNotSucceeded):
            enqueue(None, "fail")
    assert [(one.task.name, one.status) for one in ran] == [
        ("of a chain", "succeeded"),
        ("chain", "succeeded"),
        ("fail", "queued"),
    ]
    with pytest.raises(TypeError):
        enqueue(None, "add", {"numbers": []})


# --- a database ---


def test_what_is_enqueued_is_found_by_its_payload(database: TaskflowDatabase):
    with database.connect() as conn:
        enqueue(conn, "add", {"numbers": [1]}, priority="low", delay=600)
        id = enqueue(conn, "add", {"numbers": [2]})
    assert database.assert_enqueued("add").priority == "low"
    assert database.assert_enqueued("add", numbers=[2]).id == id
    database.assert_not_enqueued("add", numbers=[])
    with pytest.raises(AssertionError, match=r"no add with \{'numbers': \[3\]\} is enqueued.*\n  add .*\n  add "):
        database.assert_enqueued("add", numbers=[3])
    with pytest.raises(AssertionError, match=r'add \{"numbers":\[2\]\} is enqueued'):
        database.assert_not_enqueued("add", numbers=[2])
    database.clear()
    with pytest.raises(AssertionError, match="what waits: nothing"):
        database.assert_enqueued("add")


def test_a_drain_runs_what_is_due_and_what_that_enqueues(database: TaskflowDatabase):
    def chain(payload: dict[str, int]) -> None:
        with database.connect() as conn:
            enqueue(conn, "add", {"numbers": [payload["left"]]})

    task("chain", limit=Limit(concurrency=1))(chain)
    with database.connect() as conn:
        enqueue(conn, "fail")
        for left in (1, 2):
            enqueue(conn, "chain", {"left": left})
        with pytest.raises(TaskNotSucceeded, match="not today"):
            database.drain()
        ran = database.drain(scheduled=True, succeed=False)
        assert [(one.task.type, one.status) for one in ran] == [("fail", "failed")]
        stored = conn.execute(
            "SELECT type, status::text, attempt, result FROM taskflow.tasks ORDER BY type, id"
        ).fetchall()
        assert stored == [
            ("add", "succeeded", 1, 1),
            ("add", "succeeded", 1, 2),
            ("chain", "succeeded", 1, None),
            ("chain", "succeeded", 1, None),
            ("fail", "failed", 2, None),
        ]
        assert conn.execute("SELECT FROM taskflow.workers WHERE stopped_at IS NULL").fetchall() == []


async def test_a_drain_ends_at_its_limit(database: TaskflowDatabase):
    async def again(payload: dict[str, int]) -> None:
        async with await psycopg.AsyncConnection.connect(database.dsn) as conn:
            await enqueue(conn, "again")

    task("again")(again)
    with database.connect() as conn:
        enqueue(conn, "again")
        with pytest.raises(StillDue, match="after 3 attempts"):
            await database.drain_async(limit=3)
        counts = conn.execute("SELECT status::text, count(*) FROM taskflow.tasks GROUP BY 1 ORDER BY 1").fetchall()
        assert counts == [("queued", 1), ("succeeded", 3)]
