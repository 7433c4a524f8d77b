"""Enqueue in the caller's own transaction, whatever library that is open in."""

import inspect
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, overload

import msgspec
from msgspec import Raw, Struct

from taskflow.errors import InvalidTask
from taskflow.model import Priority
from taskflow.registry import registry
from taskflow.storable import is_storable, storable
from taskflow.tracing import find_tracer, sending

if TYPE_CHECKING:
    import psycopg

Payload = Mapping[str, Any] | Struct | None

Call = Callable[[Mapping[str, Any], str], str]
"""Makes the statement, given its parameters and how the driver writes one: ``%%(%s)s``."""

Adapter = Callable[[Any, Call, dict[str, Any]], Any]
"""Executes a call with its parameters on a connection of one library; the only value of its answer."""

CASTS: Final = {"payload": "jsonb", "priority": "taskflow.priority", "scheduled_at": "timestamptz"}

TRACEPARENT: Final = "traceparent"
"""No parameter of the SQL function: the header of W3C that a span which enqueues has."""

OPTION: Final = re.compile(r"[a-z][a-z_]{0,62}")
"""The name of a parameter of the SQL function."""


@overload
def enqueue(
    conn: "psycopg.Connection[Any]",
    type: str,
    payload: Payload = None,
    *,
    name: str | None = None,
    priority: Priority | str | None = None,
    delay: float | None = None,
    scheduled_at: datetime | None = None,
    max_attempts: int | None = None,
    **options: Any,
) -> int: ...
@overload
def enqueue(
    conn: "psycopg.AsyncConnection[Any]",
    type: str,
    payload: Payload = None,
    *,
    name: str | None = None,
    priority: Priority | str | None = None,
    delay: float | None = None,
    scheduled_at: datetime | None = None,
    max_attempts: int | None = None,
    **options: Any,
) -> Awaitable[int]: ...
@overload
def enqueue(
    conn: Any,
    type: str,
    payload: Payload = None,
    *,
    name: str | None = None,
    priority: Priority | str | None = None,
    delay: float | None = None,
    scheduled_at: datetime | None = None,
    max_attempts: int | None = None,
    **options: Any,
) -> Any: ...
def enqueue(conn: Any, type: str, payload: Payload = None, **options: Any) -> Any:
    """Store a task in the transaction that is open on *conn*; its id, to be awaited if *conn* is asynchronous.

    *conn* is a connection of psycopg (3), a connection or session of SQLAlchemy, or one of Django's ``connections``.
    The task is there when the caller's transaction commits, and never if it rolls back.

    *payload* is a dict or a msgspec Struct. If the task type is registered in this process, the payload must fit it,
    and its ``max_attempts`` holds. *delay* is in seconds, by the database's clock. Further *options* go to the SQL
    function ``taskflow.enqueue`` by name. Raises InvalidTask before anything reaches the database, and what the
    library raises.
    """
    encoded, options = _check(type, payload, options)
    return _execute(conn, _call, {"type": type, "payload": encoded.decode(), **options}, [type])


@overload
def enqueue_many(conn: "psycopg.Connection[Any]", tasks: Sequence[Mapping[str, Any]]) -> list[int]: ...
@overload
def enqueue_many(conn: "psycopg.AsyncConnection[Any]", tasks: Sequence[Mapping[str, Any]]) -> Awaitable[list[int]]: ...
@overload
def enqueue_many(conn: Any, tasks: Sequence[Mapping[str, Any]]) -> Any: ...
def enqueue_many(conn: Any, tasks: Sequence[Mapping[str, Any]]) -> Any:
    """Store *tasks* with one statement in the transaction that is open on *conn*; their ids in order, to be awaited if
    *conn* is asynchronous. All or none.

    Each task is a dict of what ``enqueue`` takes: ``type``, ``payload`` and the options by name, which are those of the
    SQL function ``taskflow.enqueue_many``. A thousand a call are as fast as it gets. Raises as ``enqueue`` does; the
    field of InvalidTask begins with the task's index: ``[7].payload.to``.
    """
    checked = [_values_of(index, task) for index, task in enumerate(tasks)]
    try:
        values = {"tasks": msgspec.json.encode(checked).decode()}
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidTask("tasks", f"cannot be written as JSON: {error}") from error
    return _execute(conn, _call_many, values, [task["type"] for task in checked])


def _execute(conn: Any, call: Call, values: dict[str, Any], types: Sequence[str]) -> Any:
    """Execute *call* with *values*; while spans are recorded within one, which goes with the tasks."""
    adapter = adapter_of(conn)
    if find_tracer() is None:
        return adapter(conn, call, values)

    async def run() -> Any:
        with sending(types) as headers:
            return await adapter(conn, call, values | headers)

    if inspect.iscoroutinefunction(getattr(conn, "execute", None)):
        return run()
    with sending(types) as headers:
        return adapter(conn, call, values | headers)


def _values_of(index: int, task: Mapping[str, Any]) -> dict[str, Any]:
    """The object that the SQL function takes for *task*, which is the one at *index*."""
    options = dict(task)
    try:
        type = options.pop("type", "")
        encoded, options = _check(type, options.pop("payload", None), options)
    except InvalidTask as error:
        raise InvalidTask(f"[{index}].{error.field}", error.problem) from error
    return {"type": type, "payload": Raw(encoded), **options}


# The same types, names and options come again and again.
@lru_cache
def _is_label(text: str) -> bool:
    return 1 <= len(text) <= 128 and storable(text) == text


@lru_cache
def _is_option(name: str) -> bool:
    return OPTION.fullmatch(name) is not None


def _check(type: str, payload: Payload, options: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """The payload as JSON and the options that are given: a statement that fails would end the caller's transaction."""
    options = {name: value for name, value in options.items() if value is not None}
    encoded = encode_payload(payload)
    for field, text in (("type", type), ("name", options.get("name", type))):
        if not _is_label(text):
            raise InvalidTask(field, "has 1 to 128 characters, without U+0000 and lone surrogates")
    if "priority" in options:
        options["priority"] = _priority(options["priority"])
    if not math.isfinite(options.get("delay", 0)):
        raise InvalidTask("delay", "must be a number of seconds")
    if "delay" in options and "scheduled_at" in options:
        raise InvalidTask("scheduled_at", "must not be given beside delay")
    if (given := options.get("scheduled_at")) is not None and given.tzinfo is None:
        raise InvalidTask("scheduled_at", "must have a time zone")
    if not 1 <= options.get("max_attempts", 1) < 2**31:
        raise InvalidTask("max_attempts", "must be from 1 to 2,147,483,647")
    if wrong := [name for name in options if not _is_option(name)]:
        raise InvalidTask(wrong[0], "is no parameter of taskflow.enqueue")
    if type in registry:
        options.setdefault("max_attempts", registry.validate(type, encoded).max_attempts)
    return encoded, options


def encode_payload(payload: Payload) -> bytes:
    """*payload* as the JSON object that jsonb can hold; raises InvalidTask."""
    try:
        encoded = msgspec.json.encode(dict(payload) if isinstance(payload, Mapping) else payload or {})
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidTask("payload", f"cannot be written as JSON: {error}") from error
    if not encoded.startswith(b"{"):
        raise InvalidTask("payload", "expected a dict, or a msgspec Struct that is written as an object")
    if not is_storable(encoded):
        raise InvalidTask("payload", r"its texts must not hold \u0000 or half of a surrogate pair")
    return encoded


def _priority(given: str) -> str:
    try:
        return Priority(given).value
    except ValueError:
        raise InvalidTask("priority", f"{given!r} is none of {', '.join(Priority)}") from None


def _call(names: Mapping[str, Any], placeholder: str) -> str:
    """The statement that calls the SQL function with *names* as arguments, in the driver's notation."""
    arguments: list[str] = []
    for name in names:
        if name == TRACEPARENT:
            continue
        value = placeholder % name
        if name == "delay":
            name, value = "scheduled_at", f"now() + make_interval(secs => CAST({value} AS double precision))"
        elif cast_to := CASTS.get(name):
            value = f"CAST({value} AS {cast_to})"
        arguments.append(f"{name} => {value}")
    call = f"SELECT taskflow.enqueue({', '.join(arguments)}) AS id"  # OPTION has checked the names
    return call if TRACEPARENT not in names else _traced(call, "SELECT id FROM task", placeholder)


def _call_many(names: Mapping[str, Any], placeholder: str) -> str:
    call = f"SELECT taskflow.enqueue_many(CAST({placeholder % 'tasks'} AS jsonb)) AS id"
    if TRACEPARENT in names:
        return _traced(call, "SELECT array_agg(id ORDER BY id) FROM task", placeholder)
    return f"SELECT ARRAY({call})"


def _traced(call: str, answer: str, placeholder: str) -> str:
    """The statement that gives *answer* from the ids of *call*, and keeps the span that their tasks come from."""
    traced = """
    WITH task AS MATERIALIZED ({call}), kept AS (
        INSERT INTO taskflow.traces (task_id, traceparent)
        SELECT id, CAST({traceparent} AS text) FROM task
        ON CONFLICT DO NOTHING
    )
    {answer}
    """
    return (
        traced.replace("{call}", call).replace("{traceparent}", placeholder % TRACEPARENT).replace("{answer}", answer)
    )


def _psycopg(conn: Any, call: Call, values: dict[str, Any]) -> Any:
    from psycopg.rows import tuple_row

    statement = call(values, "%%(%s)s").encode()
    if not inspect.iscoroutinefunction(conn.execute):
        with conn.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(statement, values).fetchone()[0]

    async def run() -> Any:
        async with conn.cursor(row_factory=tuple_row) as cursor:
            return (await (await cursor.execute(statement, values)).fetchone())[0]

    return run()


def _sqlalchemy(conn: Any, call: Call, values: dict[str, Any]) -> Any:
    from sqlalchemy import text

    statement = text(call(values, ":%s"))
    if not inspect.iscoroutinefunction(conn.execute):
        return conn.execute(statement, values).scalar_one()

    async def run() -> Any:
        return (await conn.execute(statement, values)).scalar_one()

    return run()


def _django(conn: Any, call: Call, values: dict[str, Any]) -> Any:
    with conn.cursor() as cursor:
        cursor.execute(call(values, "%%(%s)s"), values)
        return cursor.fetchone()[0]


ADAPTERS: Final[dict[str, Adapter]] = {"psycopg": _psycopg, "sqlalchemy": _sqlalchemy, "django": _django}


def adapter_of(conn: Any) -> Adapter:
    """The adapter of the library that the class of *conn*, or one of its bases, comes from."""
    for base in type(conn).__mro__:
        if adapter := ADAPTERS.get(base.__module__.partition(".")[0]):
            return adapter
    raise TypeError(f"enqueue() takes a connection of {', '.join(ADAPTERS)}; got {type(conn).__qualname__}")
