"""Outcomes are recorded in batches, once, and survive lost connections; one that is refused harms no other."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from conftest import MakeTask, MakeWorker
from structlog.typing import EventDict
from support import PATIENCE, Database, claimed, eventually, record_log, watching

from taskflow.model import Cancelled, ClaimedTask, Failed, Outcome, Released, Retry, Status, Succeeded
from taskflow.queue.record import RESULTS, RESULTS_LENGTH
from taskflow.worker import finisher as finisher_module
from taskflow.worker import link as link_module
from taskflow.worker.finisher import BATCH, Finisher
from taskflow.worker.link import Link

PURPOSE = "taskflow finish test"


class Desk:
    """A finisher that runs, over tasks that its worker runs."""

    def __init__(
        self, finisher: Finisher, worker: int, woken: asyncio.Event, make_task: MakeTask, db: Database
    ) -> None:
        self.finisher = finisher
        self.worker = worker
        self.woken = woken
        self.db = db
        self._make_task = make_task

    async def task(self, attempt: int = 1, **columns: Any) -> ClaimedTask:
        """A task that this worker runs."""
        id = await self._make_task(Status.RUNNING, worker=self.worker, attempt=attempt, **columns)
        return claimed(id, attempt=attempt)

    async def tasks(self, count: int) -> list[ClaimedTask]:
        return [await self.task() for _ in range(count)]

    async def drained(self) -> None:
        assert await self.finisher.drain(PATIENCE)

    async def is_waiting(self) -> int:
        """Wait until the finisher's statement waits for a lock; the server process that serves it."""
        pids = await eventually(
            lambda: self.db.rows(
                """
                SELECT pid FROM pg_stat_activity
                WHERE application_name = %s AND datname = current_database() AND wait_event_type = 'Lock'
                """,
                PURPOSE,
            )
        )
        return pids[0][0]

    def row(self, task: ClaimedTask) -> tuple[str, int, str | None]:
        """A task's status, attempt and error."""
        (row,) = self.db.rows("SELECT status::text, attempt, error FROM taskflow.tasks WHERE id = %s", task.id)
        return row


@pytest.fixture
def db(dsn: str) -> Iterator[Database]:
    with watching(dsn) as database:
        yield database


@pytest.fixture
async def desk(dsn: str, db: Database, make_task: MakeTask, make_worker: MakeWorker) -> AsyncIterator[Desk]:
    await eventually(lambda: not db.sessions(PURPOSE))  # of the desk before
    link = Link(dsn, PURPOSE, statement_timeout=60)
    woken = asyncio.Event()
    worker = await make_worker()
    finisher = Finisher(link, worker, woken)
    job = asyncio.create_task(finisher.run())
    yield Desk(finisher, worker, woken, make_task, db)
    job.cancel()
    with suppress(asyncio.CancelledError):
        await job
    await link.close()


@pytest.mark.usefixtures("desk")
async def test_its_session_is_there_before_the_first_outcome(db: Database):
    await eventually(lambda: db.sessions(PURPOSE))


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[EventDict]:
    return record_log(monkeypatch, finisher_module)


@asynccontextmanager
async def locked(dsn: str, task: ClaimedTask) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
    """Hold the task's row, in a transaction of another session, so that its outcome has to wait."""
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await conn.execute("SELECT FROM taskflow.tasks WHERE id = %s FOR UPDATE", [task.id])
        yield conn


async def test_every_kind_of_outcome_is_recorded_as_what_it_is(desk: Desk, lines: list[EventDict]):
    plain, late_plain, with_result, failed, retried, released, cancelled = [
        await desk.task(attempt) for attempt in (1, 3, 2, 2, 2, 2, 2)
    ]
    outcomes: list[tuple[ClaimedTask, Outcome]] = [
        (plain, Succeeded()),
        (late_plain, Succeeded()),
        (with_result, Succeeded(b'{"total":[1,"\xc3\xa4"]}')),
        (failed, Failed("ValueError: x\nTraceback")),
        (retried, Retry("KeyError: y\nTraceback", timedelta(seconds=90))),
        (released, Released("its worker stops")),
        (cancelled, Cancelled()),
    ]
    for task, outcome in outcomes:
        desk.finisher.add(task, outcome)
    await desk.drained()
    assert [desk.row(task) for task, _ in outcomes] == [
        ("succeeded", 1, None),
        ("succeeded", 3, None),
        ("succeeded", 2, None),
        ("failed", 2, "ValueError: x\nTraceback"),
        ("queued", 2, "KeyError: y\nTraceback"),
        ("queued", 2, None),
        ("running", 2, None),  # whoever cancelled it has written that already
    ]
    assert desk.db.one("SELECT result FROM taskflow.tasks WHERE id = %s", with_result.id) == {"total": [1, "ä"]}
    assert desk.db.one("SELECT scheduled_at - updated_at FROM taskflow.tasks WHERE id = %s", retried.id) == timedelta(
        seconds=90
    )
    assert desk.db.one("SELECT max_attempts FROM taskflow.tasks WHERE id = %s", released.id) == 6
    assert [(line["event"], line["task_id"], line.get("error")) for line in lines] == [
        ("task.failed", failed.id, "ValueError: x"),
        ("task.retried", retried.id, "KeyError: y"),
    ]


async def test_while_one_batch_is_being_recorded_the_next_gathers(desk: Desk, dsn: str):
    first, *others = await desk.tasks(51)
    async with locked(dsn, first):
        desk.finisher.add(first, Succeeded())
        await desk.is_waiting()
        for task in others:
            desk.finisher.add(task, Succeeded())
        assert desk.finisher.pending == 51
    await desk.drained()
    transactions = desk.db.rows(
        "SELECT xmin::text, count(*) FROM taskflow.tasks WHERE status = 'succeeded' GROUP BY xmin ORDER BY count(*)"
    )
    assert [count for _, count in transactions] == [1, 50]


@pytest.mark.parametrize(
    ("outcome", "size"),
    [
        (Succeeded(), BATCH),
        (Succeeded(b"[17]"), RESULTS),
        (Succeeded(b'"%s"' % (b"x" * (RESULTS_LENGTH // 200 - 2))), 200),
    ],
    ids=["none", "small", "large"],
)
async def test_a_batch_has_a_largest_size(desk: Desk, dsn: str, outcome: Succeeded, size: int):
    gate, *others = await desk.tasks(2)
    ids = desk.db.rows(
        """
        INSERT INTO taskflow.tasks (name, type, status, attempt, worker_id, started_at)
        SELECT 'many', 'work', 'running', 1, %s, now() FROM generate_series(1, %s) RETURNING id
        """,
        desk.worker,
        2 * BATCH,
    )
    async with locked(dsn, gate):
        desk.finisher.add(gate, Succeeded())
        await desk.is_waiting()
        for task in [*others, *(claimed(id) for (id,) in ids)]:
            desk.finisher.add(task, outcome)
    await desk.drained()
    assert desk.db.counts() == {"succeeded": 2 * BATCH + 2}
    results = desk.db.rows("SELECT result::text, count(*) FROM taskflow.tasks WHERE name = 'many' GROUP BY result")
    assert results == [(outcome.result and outcome.result.decode(), 2 * BATCH)]
    sizes = desk.db.rows("SELECT count(*) FROM taskflow.tasks GROUP BY xmin ORDER BY count(*)")
    assert sizes == [(1,), (1,), *(2 * BATCH // size) * [(size,)]]


async def test_an_outcome_survives_the_loss_of_the_connection_that_records_it(
    desk: Desk, dsn: str, lines: list[EventDict]
):
    tasks = await desk.tasks(3)
    async with locked(dsn, tasks[1]):
        for task in tasks:
            desk.finisher.add(task, Succeeded(b"1"))
        for _ in range(3):
            pid = await desk.is_waiting()
            assert desk.db.one("SELECT pg_terminate_backend(%s)", pid)
            await eventually(lambda lost=pid: lost not in desk.db.sessions(PURPOSE))
        assert desk.finisher.pending == 3
    await desk.drained()
    assert {desk.row(task) for task in tasks} == {("succeeded", 1, None)}
    assert lines == []


async def test_a_connection_that_works_again_is_said_to_be_back_and_its_next_loss_is_retried_at_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    lines = record_log(monkeypatch, link_module)
    for _ in range(4):
        task = await desk.task()
        desk.finisher.add(task, Succeeded())
        await desk.drained()
        assert desk.db.cut(PURPOSE) == 1
        await eventually(lambda: not desk.db.sessions(PURPOSE))
    desk.finisher.add(await desk.task(), Succeeded())
    await desk.drained()
    assert [line["event"] for line in lines] == ["database.away", "database.back"] * 4
    assert desk.db.counts() == {"succeeded": 5}


async def test_an_outcome_that_was_recorded_before_the_connection_was_lost_is_not_recorded_twice(
    desk: Desk, dsn: str, lines: list[EventDict]
):
    task = await desk.task()
    async with locked(dsn, task) as other:
        desk.finisher.add(task, Failed("boom"))
        pid = await desk.is_waiting()
        # As if the commit had come through and only its answer had been lost.
        await other.execute(
            "UPDATE taskflow.tasks SET status = 'failed', error = 'boom', finished_at = now() WHERE id = %s", [task.id]
        )
        assert desk.db.one("SELECT pg_terminate_backend(%s)", pid)
        await other.commit()
        finished = desk.db.one("SELECT finished_at FROM taskflow.tasks WHERE id = %s", task.id)
    await desk.drained()
    assert desk.row(task) == ("failed", 1, "boom")
    assert desk.db.one("SELECT finished_at FROM taskflow.tasks WHERE id = %s", task.id) == finished
    assert [line["event"] for line in lines] == ["outcome.unconfirmed"]


@pytest.mark.parametrize(
    "outcome",
    [Succeeded(), Succeeded(b"1"), Failed("x"), Retry("x", timedelta(0)), Released("stops")],
    ids=lambda outcome: type(outcome).__name__,
)
async def test_the_outcome_of_a_lost_claim_is_dropped_and_logged(desk: Desk, lines: list[EventDict], outcome: Outcome):
    task, kept = await desk.tasks(2)
    desk.db.conn.execute("UPDATE taskflow.tasks SET attempt = 2 WHERE id = %s", [task.id])
    desk.finisher.add(task, outcome)
    desk.finisher.add(kept, Succeeded())
    await desk.drained()
    assert desk.row(task) == ("running", 2, None)
    assert desk.row(kept) == ("succeeded", 1, None)
    assert [(line["event"], line["task_id"], line["attempt"], line["outcome"]) for line in lines] == [
        ("outcome.dropped", task.id, 1, type(outcome).__name__)
    ]


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Succeeded(b'{"no": json}'), "InvalidTextRepresentation"),
        (Succeeded(b'"\\u0000"'), "UntranslatableCharacter"),
        (Succeeded(b"1e999999"), "NumericValueOutOfRange"),
        (Succeeded(b"[" * 30_000 + b"]" * 30_000), "StatementTooComplex"),
        (Failed("a NUL \x00 within"), "DataError"),
        (Retry("x", timedelta(days=999_999_999)), ""),
    ],
    ids=[
        "no JSON",
        "NUL in a result",
        "huge number",
        "nested too deep",
        "NUL in an error",
        "delay beyond the calendar",
    ],
)
async def test_an_outcome_that_postgres_refuses_fails_its_own_task_only(
    desk: Desk, dsn: str, lines: list[EventDict], outcome: Outcome, reason: str
):
    gate, refused, *others = await desk.tasks(22)
    async with locked(dsn, gate):
        desk.finisher.add(gate, Succeeded())
        await desk.is_waiting()
        for task in others[:10]:
            desk.finisher.add(task, Succeeded())
        desk.finisher.add(refused, outcome)
        for task in others[10:]:
            desk.finisher.add(task, Succeeded(b"1"))
    await desk.drained()
    status, attempt, error = desk.row(refused)
    assert (status, attempt) == ("failed", 1)
    assert error is not None
    assert error.startswith(f"OutcomeRefused: {reason}")
    assert {desk.row(task) for task in others} == {("succeeded", 1, None)}
    assert {(line["event"], line["task_id"]) for line in lines} >= {("outcome.refused", refused.id)}
    assert "outcome.dropped" not in {line["event"] for line in lines}  # what was recorded before is not tried again


async def test_a_retry_wakes_its_worker_when_it_becomes_due(desk: Desk):
    desk.finisher.add(await desk.task(), Retry("x", timedelta(seconds=0.2)))
    desk.finisher.add(await desk.task(), Retry("x", timedelta(hours=1)))
    await desk.drained()
    assert not desk.woken.is_set()
    await asyncio.wait_for(desk.woken.wait(), PATIENCE)
    assert desk.db.one("SELECT count(*) FROM taskflow.tasks WHERE status = 'queued' AND scheduled_at <= now()") == 1


LATER = Retry("boom", timedelta(hours=1))


@pytest.mark.parametrize(
    ("of_the_higher", "of_the_lower"),
    [
        *[(outcome, outcome) for outcome in (Succeeded(), Succeeded(b"1"), Failed("boom"), LATER, Released(""))],
        *[(Succeeded(), outcome) for outcome in (Succeeded(b"1"), Failed("boom"), LATER, Released(""))],
    ],
)
async def test_a_batch_that_waits_for_a_task_holds_none_of_a_higher_id(
    desk: Desk, dsn: str, of_the_higher: Outcome, of_the_lower: Outcome
):
    """Otherwise whoever changes the same tasks, as a cancellation does, and the worker could wait for each other."""
    lower, higher = await desk.tasks(2)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT FROM taskflow.tasks WHERE id = %s FOR UPDATE", [lower.id])
        desk.finisher.add(higher, of_the_higher)
        desk.finisher.add(lower, of_the_lower)
        await desk.is_waiting()
        other.execute("SELECT FROM taskflow.tasks WHERE id = %s FOR UPDATE NOWAIT", [higher.id])
    await desk.drained()


async def test_too_many_unrecorded_outcomes_hold_up_those_who_would_make_more(
    desk: Desk, dsn: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(finisher_module, "BACKLOG", 3)
    tasks = await desk.tasks(4)
    async with locked(dsn, tasks[0]):
        for task in tasks[:2]:
            desk.finisher.add(task, Succeeded())
            await desk.is_waiting()
        await asyncio.wait_for(desk.finisher.wait_for_room(), PATIENCE)
        desk.finisher.add(tasks[2], Succeeded())
        waiting = asyncio.create_task(desk.finisher.wait_for_room())
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done
    await asyncio.wait_for(waiting, PATIENCE)
    await desk.drained()
    assert desk.finisher.pending == 0


async def test_draining_gives_up_after_its_seconds_and_says_so(desk: Desk, dsn: str):
    task = await desk.task()
    assert await desk.finisher.drain(0.01)
    async with locked(dsn, task):
        desk.finisher.add(task, Succeeded())
        assert not await desk.finisher.drain(0.05)
        assert desk.finisher.pending == 1
    await desk.drained()


async def test_outcomes_wait_for_a_database_that_is_away(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, lines: list[EventDict]
):
    link = Link(empty_database + " port=1", PURPOSE, statement_timeout=60)
    link_lines = record_log(monkeypatch, link_module)
    finisher = Finisher(link, 1, asyncio.Event())
    job = asyncio.create_task(finisher.run())
    finisher.add(claimed(), Succeeded())
    await eventually(lambda: link_lines)
    assert not await finisher.drain(0.05)
    assert [line["event"] for line in link_lines] == ["database.away"]  # said once, not at each try
    assert lines == []
    job.cancel()
    with suppress(asyncio.CancelledError):
        await job
