"""The state table of the design: each transition by its verb, in the task's row and in its history."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from conftest import MakeTask, MakeWorker, Step, ask, history, look
from psycopg.sql import SQL, Identifier, Placeholder

from taskflow.database import Connection
from taskflow.maintenance import rescue_once
from taskflow.model import Priority, Status
from taskflow.queue.cancel import cancel
from taskflow.queue.claim import claim
from taskflow.queue.finish import fail, release, retry, succeed, succeed_with_results
from taskflow.queue.recover import recover, retry_by_hand

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = Status

TABLE: dict[tuple[Status, str], Status] = {
    (QUEUED, "claim"): RUNNING,
    (QUEUED, "cancel"): CANCELLED,
    (RUNNING, "succeed"): SUCCEEDED,
    (RUNNING, "succeed with a result"): SUCCEEDED,
    (RUNNING, "retry"): QUEUED,
    (RUNNING, "release"): QUEUED,
    (RUNNING, "rescue"): QUEUED,
    (RUNNING, "fail"): FAILED,
    (RUNNING, "rescue the last attempt"): FAILED,
    (RUNNING, "cancel"): CANCELLED,
    (FAILED, "recover"): QUEUED,
    (FAILED, "retry by hand"): QUEUED,
    (CANCELLED, "retry by hand"): QUEUED,
}
"""What each verb makes of a task."""

LENGTH = 5


def paths(status: Status = QUEUED, so_far: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every way through the table that ends in ``succeeded``, or is LENGTH verbs long."""
    ways = [(verb, new) for (old, verb), new in TABLE.items() if old is status]
    if not ways or len(so_far) == LENGTH:
        yield so_far
        return
    for verb, new in ways:
        yield from paths(new, (*so_far, verb))


class Story:
    """One task, the verbs done to it, and what its row and its history must therefore say."""

    def __init__(self, conn: Connection, make_worker: MakeWorker, id: int) -> None:
        self.conn = conn
        self.make_worker = make_worker
        self.id = id
        self.worker: int | None = None
        self.status = QUEUED
        self.attempt = 0
        self.error: str | None = None
        self.result: Any = None
        self.steps: list[Step] = []

    async def do(self, verb: str) -> None:
        new = TABLE[self.status, verb]
        reason = await self._do(verb)
        self.steps.append((self.status.value, new.value, self.attempt, self.worker, reason))
        self.status = new
        if new is QUEUED:
            self.worker = None

    async def _do(self, verb: str) -> str | None:
        """Do it, and answer the reason that the history gives for it."""
        conn, mine = self.conn, (self.worker or 0, [self.id], [self.attempt])
        match verb:
            case "claim":
                self.worker = await self.make_worker(name="w")
                self.attempt += 1
                (task,) = await claim(conn, self.worker, [Priority.NORMAL], 1)
                assert (task.id, task.attempt) == (self.id, self.attempt)
                return None
            case "succeed":
                self.error = None
                assert await succeed(conn, mine[0], self.attempt, [self.id]) == {self.id}
                return None
            case "succeed with a result":
                self.error, self.result = None, {"rows": 7}
                assert await succeed_with_results(conn, *mine, ['{"rows": 7}']) == {self.id}
                return None
            case "fail":
                self.error = "KeyError: 'to'\nTraceback …"
                assert await fail(conn, *mine, [self.error]) == {self.id}
                return "KeyError: 'to'"
            case "retry":
                self.error = "TimeoutError: slow\nTraceback …"
                assert await retry(conn, *mine, [self.error], [timedelta(0)]) == {self.id}
                return "retry: TimeoutError: slow"
            case "release":
                assert await release(conn, *mine) == {self.id}
                return "release"
            case "rescue" | "rescue the last attempt":
                last = verb != "rescue"
                maximum = self.attempt if last else 99
                await conn.execute("UPDATE taskflow.tasks SET max_attempts = %s", [maximum])
                await conn.execute("UPDATE taskflow.workers SET stopped_at = now() WHERE id = %s", [self.worker])
                assert await rescue_once(conn, lease=60) == 1
                self.error = f"worker w (test, pid 1) was lost in attempt {self.attempt} of {maximum}"
                return self.error if last else f"rescue: {self.error}"
            case "cancel":
                self.error = "nobody wants it"
                assert await cancel(conn, [self.id], self.error) == {self.id}
                return self.error
            case "recover":
                assert await recover(conn, FAILED, 0, 1) == 1
                return "recovery"
            case _:
                assert await retry_by_hand(conn, [self.id]) == {self.id}
                return verb


@pytest.mark.parametrize("path", list(paths()), ids=", ".join)
async def test_every_path_through_the_states_is_told_by_the_row_and_by_the_history(
    conn: Connection, make_task: MakeTask, make_worker: MakeWorker, path: tuple[str, ...]
):
    story = Story(conn, make_worker, await make_task())
    for verb in path:
        before = await look(conn, story.id)
        await story.do(verb)
        row = await look(conn, story.id)
        told = (row["status"], row["attempt"], row["worker_id"], row["error"], row["result"])
        assert told == (story.status.value, story.attempt, story.worker, story.error, story.result)
        assert (row["started_at"] is None) == (story.worker is None)
        assert (row["finished_at"] is not None) == story.status.is_final
        assert row["updated_at"] > before["updated_at"]
        assert row["created_at"] == before["created_at"]
        assert await history(conn, story.id) == story.steps


def test_the_paths_use_each_row_of_the_table():
    assert {verb for path in paths() for verb in path} == {verb for _, verb in TABLE}


async def test_a_path_takes_time_so_the_history_is_in_the_order_of_its_times(
    conn: Connection, make_task: MakeTask, make_worker: MakeWorker
):
    story = Story(conn, make_worker, await make_task())
    for verb in ("claim", "retry", "claim", "cancel", "retry by hand", "claim", "fail", "recover", "claim", "succeed"):
        await story.do(verb)
    cursor = await conn.execute("SELECT created_at FROM taskflow.task_history WHERE task_id = %s", [story.id])
    times = [time for (time,) in await cursor.fetchall()]
    assert times == sorted(set(times))
    assert len(times) == 10


@pytest.mark.parametrize("status", Status)
async def test_only_queued_and_running_tasks_can_be_cancelled(conn: Connection, make_task: MakeTask, status: Status):
    id = await make_task(status)
    assert await cancel(conn, [id]) == ({id} if status in {QUEUED, RUNNING} else set())
    assert (await look(conn, id))["status"] == (status if status.is_final else "cancelled")


@pytest.mark.parametrize("status", Status)
async def test_only_failed_and_cancelled_tasks_can_be_retried_by_hand(
    conn: Connection, make_task: MakeTask, status: Status
):
    id = await make_task(status)
    before = await look(conn, id)
    if status in {FAILED, CANCELLED}:
        assert await retry_by_hand(conn, [id]) == {id}
        assert (await look(conn, id))["status"] == "queued"
    else:
        assert await retry_by_hand(conn, [id]) == set()
        assert await look(conn, id) == before


async def test_cancel_answers_each_id_that_it_cancelled_and_leaves_the_rest(conn: Connection, make_task: MakeTask):
    ids = [await make_task(status) for status in Status]
    bystander = await make_task()
    assert await cancel(conn, [*ids, 2**60]) == set(ids[:2])
    assert (await look(conn, bystander))["status"] == "queued"
    assert (await look(conn, ids[0]))["error"] is None


VALID = {"name": "n", "type": "t"}
ENDED = {"started_at": "now", "finished_at": "now", "worker_id": 1}

IMPOSSIBLE_TASKS: list[tuple[str, dict[str, Any]]] = [
    ("a_label_has_1_to_128_characters", {"name": ""}),
    ("a_label_has_1_to_128_characters", {"name": "ä" * 129}),
    ("a_label_has_1_to_128_characters", {"type": ""}),
    ("a_label_has_1_to_128_characters", {"type": "t" * 129}),
    ("a_payload_is_an_object", {"payload": "[]"}),
    ("a_payload_is_an_object", {"payload": "null"}),
    ("a_schedule_is_a_date_of_our_time", {"scheduled_at": "1969-12-31"}),
    ("a_schedule_is_a_date_of_our_time", {"scheduled_at": "infinity"}),
    ("a_schedule_is_a_date_of_our_time", {"scheduled_at": "-infinity"}),
    ("attempts_are_counted_from_zero", {"attempt": -1}),
    ("a_task_may_be_attempted_once", {"max_attempts": 0}),
    ("a_queued_task_belongs_to_nobody", {"worker_id": 1}),
    ("a_queued_task_belongs_to_nobody", {"started_at": "now"}),
    ("a_running_task_has_a_worker", {"status": "running", "started_at": "now"}),
    ("a_running_task_has_a_worker", {"status": "running", "worker_id": 1}),
    ("a_task_with_an_outcome_has_run", {"status": "succeeded", "finished_at": "now"}),
    ("a_task_with_an_outcome_has_run", {"status": "failed", "finished_at": "now", "error": "e", "started_at": "now"}),
    ("a_final_task_says_when_it_ended", ENDED | {"status": "succeeded", "finished_at": None}),
    ("a_final_task_says_when_it_ended", ENDED | {"status": "failed", "error": "e", "finished_at": None}),
    ("a_final_task_says_when_it_ended", {"status": "cancelled"}),
    ("a_final_task_says_when_it_ended", {"finished_at": "now"}),
    ("a_final_task_says_when_it_ended", ENDED | {"status": "running"}),
    ("a_failed_task_says_why", ENDED | {"status": "failed"}),
]

IMPOSSIBLE_ATTEMPTS: list[tuple[str, dict[str, Any]]] = [
    ("only_a_cancelled_attempt_may_not_have_started", {"started_at": None}),
    ("a_cancelled_task_is_requeued_later", {"outcome": "cancelled"}),
]


async def insert(conn: Connection, table: LiteralString, row: dict[str, Any]) -> None:
    columns = SQL(", ").join(map(Identifier, row))
    values = SQL(", ").join([Placeholder()] * len(row))
    into = SQL("INSERT INTO taskflow.{} ({}) VALUES ({})")
    await conn.execute(into.format(Identifier(table), columns, values), list(row.values()))


@pytest.mark.parametrize(("constraint", "wrong"), IMPOSSIBLE_TASKS)
async def test_an_impossible_task_is_refused_by_the_constraint_that_says_why(
    conn: Connection, constraint: str, wrong: dict[str, Any]
):
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        await insert(conn, "tasks", VALID | wrong)
    assert refused.value.diag.constraint_name == constraint
    assert await ask(conn, "SELECT count(*) FROM taskflow.tasks") == 0


@pytest.mark.parametrize(("constraint", "wrong"), IMPOSSIBLE_ATTEMPTS)
async def test_an_impossible_attempt_is_refused_by_the_constraint_that_says_why(
    conn: Connection, constraint: str, wrong: dict[str, Any]
):
    attempt = {"task_id": 1, "attempt": 1, "started_at": "now", "ended_at": "now", "outcome": "failed", "reason": "r"}
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        await insert(conn, "attempts", attempt | wrong)
    assert refused.value.diag.constraint_name == constraint


async def test_each_constraint_of_tasks_and_attempts_is_tried(conn: Connection):
    cursor = await conn.execute(
        """
        SELECT conname FROM pg_constraint
        WHERE contype = 'c' AND connamespace = 'taskflow'::regnamespace
          AND conrelid IN ('taskflow.tasks'::regclass, 'taskflow.attempts'::regclass, 0)  -- 0: of a domain
        """
    )
    named = {name for (name,) in await cursor.fetchall()}
    assert named == {name for name, _ in IMPOSSIBLE_TASKS + IMPOSSIBLE_ATTEMPTS}


@pytest.mark.parametrize(
    "row",
    [
        VALID,
        {"name": "ä" * 128, "type": "t" * 128},
        VALID | {"scheduled_at": "1970-01-01Z"},
        VALID | {"status": "cancelled", "finished_at": "now"},
    ],
)
async def test_a_task_at_the_edge_of_the_possible_is_stored(conn: Connection, row: dict[str, Any]):
    await insert(conn, "tasks", row)
    assert await ask(conn, "SELECT count(*) FROM taskflow.tasks") == 1
