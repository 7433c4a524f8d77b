"""Enqueue in the caller's own transaction, whatever library that is open in."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, overload

import msgspec
from msgspec import Meta, Raw, Struct

from taskflow.errors import InvalidTask, fault
from taskflow.model import CENTURY, OnConflict, Priority, Time, is_within
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

Label = Annotated[str, Meta(min_length=1, max_length=128)]


class _Asked(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A task as the SQL functions take it. What is None is left to them."""

    type: Label
    payload: Any = None
    name: Label | None = None
    priority: Priority | None = None
    delay: Annotated[float, Meta(ge=-CENTURY / 4, le=CENTURY)] | None = None  # seconds
    scheduled_at: Time | None = None
    max_attempts: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    after: list[Annotated[int, Meta(ge=1, le=2**63 - 1)]] | None = None
    after_failure: Literal["cancel", "run"] | None = None
    order_key: Label | None = None
    tenant: Label | None = None
    limit_key: Label | None = None
    unique_key: Label | None = None
    on_conflict: OnConflict | None = None


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
    and its ``max_attempts`` holds. *delay* is in seconds, by the database's clock. Further *options* are those of the
    SQL function ``taskflow.enqueue``: ``after``, ``after_failure``, ``order_key``, ``tenant``, ``limit_key``,
    ``unique_key``, ``on_conflict``; None is as if not given. Raises InvalidTask before anything reaches the
    database, and what the library raises.
    """
    asked = _read({"type": type, "payload": payload, **options})
    asked.payload = bytes(asked.payload).decode()
    return _execute(conn, _call, msgspec.to_builtins(asked, builtin_types=(datetime,)), [type])


@overload
def enqueue_many(conn: "psycopg.Connection[Any]", tasks: Sequence[Mapping[str, Any]]) -> list[int]: ...
@overload
def enqueue_many(conn: "psycopg.AsyncConnection[Any]", tasks: Sequence[Mapping[str, Any]]) -> Awaitable[list[int]]: ...
@overload
def enqueue_many(conn: Any, tasks: Sequence[Mapping[str, Any]]) -> Any: ...
def enqueue_many(conn: Any, tasks: Sequence[Mapping[str, Any]]) -> Any:
    """Store *tasks* with one statement in the transaction that is open on *conn*; their ids in order, to be awaited if
    *conn* is asynchronous. All or none.

    Each task is a dict of what ``enqueue`` takes: ``type``, ``payload`` and the options by name, of which
    ``on_conflict`` can only be to reject. A thousand a call are as fast as it gets. Raises as ``enqueue`` does; the
    field of InvalidTask begins with the task's index: ``[7].payload.to``.
    """
    asked: list[_Asked] = []
    keys: set[str] = set()
    for index, task in enumerate(tasks):
        try:
            asked.append(one := _read(task))
            if one.unique_key is not None:
                _check_key(one, keys)
        except InvalidTask as error:
            raise InvalidTask(f"[{index}].{error.field}".rstrip("."), error.problem) from error
    values = {"tasks": msgspec.json.encode(asked).decode()}
    return _execute(conn, _call_many, values, [one.type for one in asked])


def _execute(conn: Any, call: Call, values: dict[str, Any], types: Sequence[str]) -> Any:
    """Execute *call* with *values*; while spans are recorded within one, which goes with the tasks."""
    adapter = adapter_of(conn)
    if find_tracer() is None:
        return adapter(conn, call, values)

    async def run() -> Any:
        with sending(types) as headers:
            return await adapter(conn, call, values | _trace_of(headers))

    if inspect.iscoroutinefunction(getattr(conn, "execute", None)):
        return run()
    with sending(types) as headers:
        return adapter(conn, call, values | _trace_of(headers))


def _trace_of(headers: Mapping[str, str]) -> dict[str, str]:
    """What is kept of *headers*, which may tell more of a span."""
    return {TRACEPARENT: headers[TRACEPARENT]} if TRACEPARENT in headers else {}


# The same types, names and keys come again and again.
@lru_cache
def _is_text(text: str) -> bool:
    return storable(text) == text


def _read(task: Mapping[str, Any]) -> _Asked:
    """What is asked for, its payload as JSON; raises InvalidTask, for a statement that fails would end the caller's
    transaction.
    """
    try:
        asked = msgspec.convert(task, _Asked)
    except (msgspec.ValidationError, UnicodeEncodeError):
        asked = _convert_plain(task)
    for field in ("type", "name", "order_key", "tenant", "limit_key", "unique_key"):
        text = getattr(asked, field)
        if text is None:
            continue
        if not _is_text(text):
            raise InvalidTask(field, "must not hold the character U+0000, or half of a surrogate pair")
        if text.__class__ is not str:  # a subclass cannot be written as JSON
            setattr(asked, field, str(text))
    if (moment := asked.scheduled_at) is not None:
        asked.scheduled_at = _read_time(moment, asked.delay)
    if asked.on_conflict not in (None, OnConflict.REJECT) and asked.unique_key is None:
        raise InvalidTask("on_conflict", "is for tasks with a unique_key")
    encoded = encode_payload(asked.payload)
    if asked.type in registry:
        max_attempts = registry.validate(asked.type, encoded).max_attempts
        asked.max_attempts = asked.max_attempts or max_attempts
    asked.payload = Raw(encoded)
    return asked


def _convert_plain(task: Mapping[str, Any]) -> _Asked:
    """The same for what has subclasses of datetime, float and str, as other libraries make; raises InvalidTask."""
    try:
        # It may be no mapping at all, whatever the types say.
        named = {str(name): _plain(value) for name, value in task.items()} if hasattr(task, "items") else task
        return msgspec.convert(named, _Asked)
    except msgspec.ValidationError as error:
        raise InvalidTask(*fault(error)) from error
    except UnicodeEncodeError as error:
        field = next((name for name, value in task.items() if value == error.object), "")
        raise InvalidTask(field, f"must not hold half of a surrogate pair: {error.object!r}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return datetime.combine(value.date(), value.timetz())
    return float(value) if isinstance(value, float) else value


def _read_time(moment: datetime, delay: float | None) -> datetime:
    if delay is not None:
        raise InvalidTask("scheduled_at", "must not be given beside delay")
    if moment.utcoffset() is None:
        raise InvalidTask("scheduled_at", "must have a time zone")
    if not is_within(moment):
        raise InvalidTask("scheduled_at", "must lie in the years 1970 to 9998")
    return moment.astimezone(UTC)  # JSON has no offsets of seconds


def _check_key(asked: _Asked, keys: set[str]) -> None:
    """Raises InvalidTask if the unique_key is among the earlier *keys*; adds it to them."""
    if asked.on_conflict not in (None, OnConflict.REJECT):
        raise InvalidTask("on_conflict", "many tasks can only reject")
    assert asked.unique_key is not None
    if asked.unique_key in keys:
        raise InvalidTask("unique_key", "an earlier task has it")
    keys.add(asked.unique_key)


def encode_payload(payload: Payload) -> bytes:
    """*payload* as the JSON object that jsonb can hold; raises InvalidTask."""
    given = dict(payload or {}) if payload is None or isinstance(payload, Mapping) else payload
    try:
        encoded = msgspec.json.encode(given)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidTask("payload", f"cannot be written as JSON: {error}") from error
    if not encoded.startswith(b"{"):
        raise InvalidTask("payload", "expected a dict, or a msgspec Struct that is written as an object")
    if not is_storable(encoded):
        raise InvalidTask("payload", r"its texts must not hold \u0000 or half of a surrogate pair")
    return encoded


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
    call = f"SELECT taskflow.enqueue({', '.join(arguments)}) AS id"
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
