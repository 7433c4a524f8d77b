"""Coalescing enqueue, over a real database."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import psycopg
import pytest
from msgspec import Raw
from serving import holds, until, waiting_for_a_lock, wire

from taskflow.api import enqueuer as module
from taskflow.api.enqueuer import SENDERS, Enqueuer, open_enqueuer
from taskflow.database import Connection, open_pool
from taskflow.errors import InvalidTask
from taskflow.model import NewTask
from taskflow.queue.enqueue import enqueue_many


def task(name: str, payload: str = "{}") -> NewTask:
    """A task to enqueue."""
    return NewTask(name=name, type="send_email", payload=Raw(payload.encode()))


@asynccontextmanager
async def opened(dsn: str, *, statement_timeout: float = 60, wait: float = 3) -> AsyncGenerator[Enqueuer]:
    """An Enqueuer over a pool of its own."""
    async with (
        open_pool(dsn, "enqueuer", max_size=SENDERS, statement_timeout=statement_timeout, wait=wait) as pool,
        open_enqueuer(pool) as enqueuer,
    ):
        yield enqueuer


@pytest.fixture
async def enqueuer(dsn: str) -> AsyncIterator[Enqueuer]:
    """An Enqueuer over the emptied database."""
    async with opened(dsn) as enqueuer:
        yield enqueuer


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the tasks of each statement, as it is sent."""
    sent: list[list[str]] = []

    async def record(conn: Connection, tasks: Sequence[NewTask]) -> list[int]:
        sent.append([task.name for task in tasks])
        return await enqueue_many(conn, tasks)

    monkeypatch.setattr(module, "enqueue_many", record)
    return sent


async def names(conn: Connection) -> dict[int, str]:
    """The stored tasks' names by id."""
    return dict(await (await conn.execute("SELECT id, name FROM taskflow.tasks")).fetchall())


async def outcomes(enqueues: Sequence[asyncio.Task[int]]) -> list[int | BaseException]:
    """What became of each."""
    return await asyncio.gather(*enqueues, return_exceptions=True)


def start(enqueuer: Enqueuer, *tasks: NewTask) -> list[asyncio.Task[int]]:
    """Enqueue each of *tasks* as a caller of its own."""
    return [asyncio.create_task(enqueuer.enqueue(task)) for task in tasks]


async def test_many_callers_share_few_statements_and_each_gets_its_own_id(
    enqueuer: Enqueuer, conn: Connection, batches: list[list[str]]
):
    given = [f"number {n}" for n in range(200)]
    ids = await asyncio.gather(*start(enqueuer, *map(task, given)))
    assert dict(zip(ids, given, strict=True)) == await names(conn)
    assert len(batches) < 20


async def test_a_batch_has_an_upper_bound(
    enqueuer: Enqueuer, conn: Connection, batches: list[list[str]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "LARGEST", 7)
    await asyncio.gather(*start(enqueuer, *(task("one of many") for _ in range(50))))
    assert max(map(len, batches)) == 7
    assert len(await names(conn)) == 50


async def test_a_row_that_postgres_refuses_fails_alone(enqueuer: Enqueuer, conn: Connection):
    enqueues = start(enqueuer, task("before"), task("bad", '{"a": 1e400000}'), task("after"))
    before, bad, after = await outcomes(enqueues)
    assert isinstance(bad, InvalidTask)
    assert await names(conn) == {before: "before", after: "after"}


async def test_a_row_that_breaks_a_constraint_fails_alone(enqueuer: Enqueuer, conn: Connection):
    bad, good = await outcomes(start(enqueuer, task("n" * 129), task("good")))
    assert isinstance(bad, InvalidTask)
    assert await names(conn) == {good: "good"}


async def test_a_caller_that_left_before_its_row_was_sent_stores_nothing(
    enqueuer: Enqueuer, conn: Connection, batches: list[list[str]]
):
    async with conn.transaction():
        await conn.execute("LOCK TABLE taskflow.tasks IN SHARE MODE")
        sent: list[asyncio.Task[int]] = []
        for n in range(1, SENDERS + 1):
            sent += start(enqueuer, task(f"sent {n}"))
            await until(partial(waiting_for_a_lock, conn, "enqueuer", n))
        left, stayed = start(enqueuer, task("left"), task("stayed"))
        await asyncio.sleep(0)
        left.cancel()
    await outcomes([*sent, left, stayed])
    assert sorted((await names(conn)).values()) == ["sent 1", "sent 2", "stayed"]
    assert ["left"] not in batches


async def test_a_caller_that_leaves_its_batch_stores_nothing_and_the_others_are_stored(
    enqueuer: Enqueuer, conn: Connection, batches: list[list[str]]
):
    async with conn.transaction():
        await conn.execute("LOCK TABLE taskflow.tasks IN SHARE MODE")
        left, stayed = start(enqueuer, task("left"), task("stayed"))
        await until(lambda: waiting_for_a_lock(conn, "enqueuer", 1))
        left.cancel()
        await until(lambda: holds(batches == [["left", "stayed"], ["stayed"]]))
        await until(lambda: waiting_for_a_lock(conn, "enqueuer", 1))
    assert {await stayed: "stayed"} == await names(conn)
    assert left.cancelled()


async def test_nobody_is_answered_before_its_row_is_durable(enqueuer: Enqueuer, conn: Connection):
    async with conn.transaction():
        await conn.execute("LOCK TABLE taskflow.tasks IN SHARE MODE")
        enqueues = start(enqueuer, task("a"), task("b"))
        await until(lambda: waiting_for_a_lock(conn, "enqueuer", 1))
        assert not any(enqueue.done() for enqueue in enqueues)
    assert dict(zip(await outcomes(enqueues), "ab", strict=True)) == await names(conn)


async def test_callers_are_told_when_postgres_is_away_and_the_next_are_served_when_it_is_back(
    dsn: str, conn: Connection
):
    async with wire(dsn) as way, opened(way.dsn, wait=0.5) as enqueuer:
        assert await enqueuer.enqueue(task("first")) in await names(conn)
        await way.cut()
        for outcome in await outcomes(start(enqueuer, task("lost"), task("lost as well"))):
            assert isinstance(outcome, psycopg.OperationalError)
        await way.mend()

        async def is_served() -> bool:
            return isinstance((await outcomes(start(enqueuer, task("last"))))[0], int)

        await until(is_served)
    assert sorted((await names(conn)).values()) == ["first", "last"]


async def test_an_error_that_nobody_foresaw_reaches_the_callers_and_the_next_are_served(
    enqueuer: Enqueuer, conn: Connection, monkeypatch: pytest.MonkeyPatch
):
    async def crash(*_: object) -> list[int]:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(module, "enqueue_many", crash)
        for outcome in await outcomes(start(enqueuer, task("a"), task("b"))):
            assert isinstance(outcome, RuntimeError)
    assert {await enqueuer.enqueue(task("c")): "c"} == await names(conn)
