"""`taskflow.enqueue` in transactions of the libraries that people use, committed and rolled back."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from inspect import isawaitable
from typing import Any

import psycopg
import pytest
from conftest import ask, look
from msgspec import Struct
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import DictRow, dict_row
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from taskflow import enqueue, enqueue_many, task
from taskflow.database import Connection
from taskflow.errors import InvalidTask
from taskflow.registry import registry

ENQUEUE: Any = enqueue
ENQUEUE_MANY: Any = enqueue_many
Opened = AsyncGenerator[tuple[Any, Callable[[], Any]]]
"""A connection, and how to commit."""


@asynccontextmanager
async def psycopg_sync(dsn: str) -> Opened:
    with psycopg.Connection[DictRow].connect(dsn, row_factory=dict_row) as conn:
        yield conn, conn.commit
        conn.rollback()


@asynccontextmanager
async def psycopg_async(dsn: str) -> Opened:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        yield conn, conn.commit
        await conn.rollback()


@asynccontextmanager
async def sqlalchemy_connection(dsn: str) -> Opened:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with engine.connect() as conn:
        yield conn, conn.commit
    engine.dispose()


@asynccontextmanager
async def sqlalchemy_session(dsn: str) -> Opened:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with Session(engine) as session:
        yield session, session.commit
    engine.dispose()


@asynccontextmanager
async def sqlalchemy_async_connection(dsn: str) -> Opened:
    engine = create_async_engine("postgresql+psycopg://", async_creator=lambda: psycopg.AsyncConnection.connect(dsn))
    async with engine.connect() as conn:
        yield conn, conn.commit
    await engine.dispose()


@asynccontextmanager
async def sqlalchemy_async_session(dsn: str) -> Opened:
    engine = create_async_engine("postgresql+psycopg://", async_creator=lambda: psycopg.AsyncConnection.connect(dsn))
    async with AsyncSession(engine) as session:
        yield session, session.commit
    await engine.dispose()


@asynccontextmanager
async def django(dsn: str) -> Opened:
    from django.db.backends.postgresql.base import DatabaseWrapper

    parts = conninfo_to_dict(dsn)
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    given = {name: str(parts.get(part) or "") for part, name in names.items()}
    more: dict[str, Any] = {
        "OPTIONS": {},
        "TIME_ZONE": None,
        "CONN_HEALTH_CHECKS": False,
        "CONN_MAX_AGE": 0,
        "AUTOCOMMIT": False,
    }
    conn: Any = DatabaseWrapper({**given, **more})
    try:
        yield conn, conn.commit
        conn.rollback()
    finally:
        conn.close()


@pytest.fixture(scope="module", autouse=True)
def django_settings() -> None:
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(USE_TZ=True)
        django.setup()


LIBRARIES = [
    psycopg_sync,
    psycopg_async,
    sqlalchemy_connection,
    sqlalchemy_session,
    sqlalchemy_async_connection,
    sqlalchemy_async_session,
    django,
]


async def settle(value: Any) -> Any:
    return await value if isawaitable(value) else value


@pytest.mark.filterwarnings("ignore:.*async-unsafe")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)
async def test_a_task_is_there_when_its_transaction_commits_and_never_if_it_rolls_back(
    conn: Connection, dsn: str, library: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    async with library(dsn) as (mine, _):
        await settle(ENQUEUE(mine, "print", {"to": "nobody"}))
    assert await ask(conn, "SELECT count(*) FROM taskflow.tasks") == 0
    async with library(dsn) as (mine, commit):
        id = await settle(
            ENQUEUE(mine, "print", {"to": "100 %: é"}, name="a print", priority="high", delay=60, max_attempts=2)
        )
        assert await ask(conn, "SELECT count(*) FROM taskflow.tasks") == 0
        await settle(commit())
    row = await look(conn, id)
    assert (row["name"], row["type"], row["payload"]) == ("a print", "print", {"to": "100 %: é"})
    assert (row["priority"], row["max_attempts"]) == ("high", 2)
    assert row["scheduled_at"] - row["created_at"] == timedelta(seconds=60)


@pytest.mark.filterwarnings("ignore:.*async-unsafe")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)
async def test_many_tasks_are_there_when_their_transaction_commits_and_never_if_it_rolls_back(
    conn: Connection, dsn: str, library: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    tasks: list[dict[str, Any]] = [{"type": "print", "payload": {"to": f"100 %: é {n}"}} for n in range(1500)]
    tasks[7] |= {"name": "the seventh", "priority": "high", "delay": 60, "max_attempts": 2, "order_key": "a key"}
    async with library(dsn) as (mine, _):
        await settle(ENQUEUE_MANY(mine, tasks))
    assert await ask(conn, "SELECT count(*) FROM taskflow.tasks") == 0
    async with library(dsn) as (mine, commit):
        ids = await settle(ENQUEUE_MANY(mine, tasks))
        assert await settle(ENQUEUE_MANY(mine, [])) == []
        assert await ask(conn, "SELECT count(*) FROM taskflow.tasks") == 0
        await settle(commit())
    cursor = await conn.execute("SELECT id, payload FROM taskflow.tasks ORDER BY id")
    assert await cursor.fetchall() == [(id, task["payload"]) for id, task in zip(ids, tasks, strict=True)]
    row = await look(conn, ids[7])
    assert (row["name"], row["priority"], row["max_attempts"], row["held"]) == ("the seventh", "high", 2, True)
    assert row["scheduled_at"] - row["created_at"] == timedelta(seconds=60)
    assert (await look(conn, ids[8]))["name"] == "print"


async def test_what_is_left_out_is_what_the_sql_function_says(conn: Connection):
    row = await look(conn, await enqueue(conn, "print"))
    assert (row["name"], row["priority"], row["payload"], row["max_attempts"]) == ("print", "normal", {}, 5)
    when = datetime(2030, 1, 1, tzinfo=UTC)
    assert (await look(conn, await enqueue(conn, "print", scheduled_at=when)))["scheduled_at"] == when


class Parcel(Struct):
    weight: int


@pytest.fixture
def parcels() -> Any:
    @task("send_parcel", max_attempts=2)
    async def send(payload: Parcel) -> None: ...

    yield send
    registry._types.pop("send_parcel")  # pyright: ignore[reportPrivateUsage]


async def test_a_registered_type_checks_its_payload_and_brings_its_attempts(conn: Connection, parcels: Any):
    row = await look(conn, await enqueue(conn, "send_parcel", Parcel(7)))
    assert (row["payload"], row["max_attempts"]) == ({"weight": 7}, 2)
    with pytest.raises(InvalidTask, match=r"payload\.weight"):
        await enqueue(conn, "send_parcel", {"weight": "heavy"})
    light, heavy = (
        {"type": "send_parcel", "payload": Parcel(1)},
        {"type": "send_parcel", "payload": {"weight": "heavy"}},
    )
    with pytest.raises(InvalidTask, match=r"\[1\]\.payload\.weight"):
        await enqueue_many(conn, [light, heavy])
    (id,) = await enqueue_many(conn, [light])
    assert (await look(conn, id))["max_attempts"] == 2


class Pair(Struct, array_like=True):
    left: int


class Moment(datetime): ...


class Number(float): ...


class Name(str): ...


class Nowhere(tzinfo):
    def utcoffset(self, dt: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("payload", {"payload": [1]}),
        ("payload", {"payload": Pair(1)}),
        ("payload", {"payload": {"text": "\0"}}),
        ("payload", {"payload": {"text": "\ud800"}}),
        ("payload", {"payload": {"object": object()}}),
        ("type", {"type": ""}),
        ("type", {"type": "x" * 129}),
        ("name", {"name": "\0"}),
        ("name", {"name": "\ud800"}),
        ("priority", {"priority": "urgent"}),
        ("delay", {"delay": float("nan")}),
        ("max_attempts", {"max_attempts": 0}),
        ("scheduled_at", {"scheduled_at": datetime(2030, 1, 1)}),
        ("scheduled_at", {"scheduled_at": datetime(2030, 1, 1, tzinfo=UTC), "delay": 1}),
        ("scheduled_at", {"scheduled_at": datetime(2030, 1, 1, tzinfo=Nowhere())}),
        ("scheduled_at", {"scheduled_at": datetime(1969, 1, 1, tzinfo=UTC)}),
        ("scheduled_at", {"scheduled_at": 1}),
        ("x) -- ", {"x) -- ": 1}),
        ("colour", {"colour": "red"}),
        ("traceparent", {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}),
        ("payload", {"payload": []}),
        ("payload", {"payload": 0}),
        ("type", {"type": None}),
        ("type", {"type": 5}),
        ("delay", {"delay": "5"}),
        ("delay", {"delay": timedelta(seconds=5)}),
        ("delay", {"delay": 1e12}),
        ("delay", {"delay": -2e9}),
        ("priority", {"priority": "\ud800"}),
        ("after_failure", {"after_failure": "\ud800"}),
        ("max_attempts", {"max_attempts": True}),
        ("after[1]", {"after": [1, "2"]}),
        ("after_failure", {"after_failure": "bogus"}),
        ("tenant", {"tenant": ""}),
        ("order_key", {"order_key": "\0"}),
        ("limit_key", {"limit_key": object()}),
        ("unique_key", {"unique_key": "x" * 129}),
        ("on_conflict", {"on_conflict": "existing"}),
    ],
)
async def test_what_cannot_be_stored_is_refused_before_it_could_end_the_transaction(
    conn: Connection, field: str, wrong: dict[str, Any]
):
    async with conn.transaction():
        with pytest.raises(InvalidTask) as refused:
            ENQUEUE(conn, **({"type": "print"} | wrong))
        assert refused.value.field == field
        with pytest.raises(InvalidTask) as refused:
            ENQUEUE_MANY(conn, [{"type": "print"}, {"type": "print"} | wrong])
        assert refused.value.field == f"[1].{field}"
        assert await ask(conn, "SELECT 1") == 1


@pytest.mark.parametrize("task", [None, "print", 5, [("type", "print")], {}])
async def test_what_is_no_task_is_refused_with_its_index(conn: Connection, task: Any):
    with pytest.raises(InvalidTask, match=r"^\[1\]"):
        enqueue_many(conn, [{"type": "print"}, task])


async def test_of_many_one_may_have_a_key_and_none_may_do_but_reject(conn: Connection):
    one: dict[str, Any] = {"type": "print", "unique_key": "a"}
    with pytest.raises(InvalidTask, match=r"^\[2\]\.unique_key: an earlier"):
        enqueue_many(conn, [one, one | {"unique_key": "b"}, one])
    with pytest.raises(InvalidTask, match=r"^\[0\]\.on_conflict"):
        enqueue_many(conn, [one | {"on_conflict": "existing"}])
    (id,) = await enqueue_many(conn, [one | {"on_conflict": "reject"}])
    assert await enqueue(conn, "print", unique_key="a", on_conflict="existing") == id


async def test_what_is_asked_for_is_what_it_was_at_the_call(conn: Connection):
    first = await enqueue(conn, "print")
    after, payload = [first], {"n": 1}
    one, many = enqueue(conn, "print", payload, after=after), enqueue_many(conn, [{"type": "print", "after": after}])
    after.clear()
    payload["n"] = 2
    ids = [await one, *await many]
    assert [(await look(conn, id))["held"] for id in ids] == [True, True]
    assert (await look(conn, ids[0]))["payload"] == {"n": 1}


async def test_what_other_libraries_make_of_moments_numbers_and_names_is_taken(conn: Connection):
    when = Moment(2030, 1, 1, tzinfo=UTC)
    at, later = await enqueue_many(
        conn, [{Name("type"): "print", "scheduled_at": when}, {"type": Name("print"), "delay": Number(60)}]
    )
    one = await enqueue(conn, "print", scheduled_at=when)
    assert [(await look(conn, id))["scheduled_at"] for id in (at, one)] == [when, when]
    row = await look(conn, later)
    assert row["scheduled_at"] - row["created_at"] == timedelta(seconds=60)


async def test_one_and_many_store_the_same_moment_of_an_odd_offset(conn: Connection):
    when = datetime(2030, 1, 1, tzinfo=timezone(timedelta(seconds=30)))
    ids = [
        await enqueue(conn, "print", scheduled_at=when),
        *await enqueue_many(conn, [{"type": "print", "scheduled_at": when}]),
    ]
    assert [(await look(conn, id))["scheduled_at"] for id in ids] == [when, when]


def test_other_connections_are_refused_by_name():
    with pytest.raises(TypeError, match="psycopg, sqlalchemy, django; got object"):
        enqueue(object(), "print")
