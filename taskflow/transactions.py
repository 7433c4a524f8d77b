"""Enqueue in the caller's own transaction, whatever library that is open in."""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast, overload

import msgspec
from msgspec import Struct

from taskflow.errors import InvalidTask
from taskflow.model import Priority
from taskflow.registry import registry
from taskflow.storable import is_storable, storable
from taskflow.tracing import find_tracer, sending

if TYPE_CHECKING:
    import psycopg

Payload = Mapping[str, Any] | Struct | None

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
    values = _values(type, payload, {name: value for name, value in options.items() if value is not None})
    adapter = adapter_of(conn)
    return adapter(conn, values) if find_tracer() is None else _traced(adapter, conn, values)


def _traced(adapter: Callable[[Any, dict[str, Any]], Any], conn: Any, values: dict[str, Any]) -> Any:
    """The same within a span, which goes with the task."""

    async def run() -> int:
        with sending([values["type"]]) as headers:
            return await adapter(conn, values | headers)

    if inspect.iscoroutinefunction(getattr(conn, "execute", None)):
        return run()
    with sending([values["type"]]) as headers:
        return adapter(conn, values | headers)


def _values(type: str, payload: Payload, options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the SQL function, checked: a statement that fails would end the caller's transaction."""
    encoded = encode_payload(payload)
    for field, text in (("type", type), ("name", options.get("name", type))):
        if not 1 <= len(text) <= 128 or storable(text) != text:
            raise InvalidTask(field, "has 1 to 128 characters, without U+0000 and lone surrogates")
    if "priority" in options:
        options["priority"] = _priority(options["priority"])
    if "delay" in options and "scheduled_at" in options:
        raise InvalidTask("scheduled_at", "must not be given beside delay")
    if (given := options.get("scheduled_at")) is not None and given.tzinfo is None:
        raise InvalidTask("scheduled_at", "must have a time zone")
    if not 1 <= options.get("max_attempts", 1) < 2**31:
        raise InvalidTask("max_attempts", "must be from 1 to 2,147,483,647")
    if wrong := [name for name in options if not OPTION.fullmatch(name)]:
        raise InvalidTask(wrong[0], "is no parameter of taskflow.enqueue")
    if type in registry:
        options.setdefault("max_attempts", registry.validate(type, encoded).max_attempts)
    return {"type": type, "payload": encoded.decode(), **options}


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
    if TRACEPARENT not in names:
        return call
    traced = """
    WITH task AS MATERIALIZED ({call}), kept AS (
        INSERT INTO taskflow.traces (task_id, traceparent)
        SELECT id, CAST({traceparent} AS text) FROM task
        ON CONFLICT DO NOTHING
    )
    SELECT id FROM task
    """
    return traced.replace("{call}", call).replace("{traceparent}", placeholder % TRACEPARENT)


def _psycopg(conn: Any, values: dict[str, Any]) -> Any:
    from psycopg.rows import tuple_row

    statement = _call(values, "%%(%s)s").encode()
    if not inspect.iscoroutinefunction(conn.execute):
        with conn.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(statement, values).fetchone()[0]

    async def run() -> int:
        async with conn.cursor(row_factory=tuple_row) as cursor:
            return (await (await cursor.execute(statement, values)).fetchone())[0]

    return run()


def _sqlalchemy(conn: Any, values: dict[str, Any]) -> Any:
    from sqlalchemy import text

    statement = text(_call(values, ":%s"))
    if not inspect.iscoroutinefunction(conn.execute):
        return conn.execute(statement, values).scalar_one()

    async def run() -> int:
        return (await conn.execute(statement, values)).scalar_one()

    return run()


def _django(conn: Any, values: dict[str, Any]) -> int:
    with conn.cursor() as cursor:
        cursor.execute(_call(values, "%%(%s)s"), values)
        return cursor.fetchone()[0]


ADAPTERS: Final = {"psycopg": _psycopg, "sqlalchemy": _sqlalchemy, "django": _django}


def adapter_of(conn: Any) -> Callable[[Any, dict[str, Any]], Any]:
    """The adapter of the library that the class of *conn*, or one of its bases, comes from."""
    for base in type(conn).__mro__:
        if adapter := ADAPTERS.get(base.__module__.partition(".")[0]):
            return cast(Callable[[Any, dict[str, Any]], Any], adapter)
    raise TypeError(f"enqueue() takes a connection of {', '.join(ADAPTERS)}; got {type(conn).__qualname__}")
