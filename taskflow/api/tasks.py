"""Enqueue tasks, and look at them."""

import re
from typing import Annotated, Final

from litestar import post, route
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.openapi.spec import OpenAPIType
from litestar.params import PathParameter, QueryParameter
from msgspec import Meta, Struct, structs

from taskflow import events, queries
from taskflow.api.auth import needs
from taskflow.api.body import read_task
from taskflow.api.enqueuer import REFUSED, refusal
from taskflow.api.media import media_type
from taskflow.api.once import read_key, store_once
from taskflow.api.problems import InvalidRequest, SlowBody, TaskNotFound, UnsupportedMediaType, documented
from taskflow.api.services import GET, ApiRequest, services
from taskflow.api.waiting import Wait, find, read_wait, wait_for_end
from taskflow.api.watch import TooManyWatch
from taskflow.database import Connection
from taskflow.errors import InvalidTask, KeyReused, KeyTaken
from taskflow.model import KeptLines, NewTask, Status, Time
from taskflow.queries import TaskView
from taskflow.queue.enqueue import enqueue_unique
from taskflow.scopes import Scope
from taskflow.tracing import sending, traced

LARGEST_ID: Final = 2**63 - 1

TaskId = Annotated[
    str,
    PathParameter(
        description="the id that `POST /tasks` gave",
        schema_extra={"type": OpenAPIType.INTEGER, "format": "int64", "minimum": 1, "maximum": LARGEST_ID},
    ),
]


class Added(Struct, frozen=True, omit_defaults=True):
    """The task is stored; a worker runs it when its turn comes."""

    added_task_id: int
    conflict: Annotated[
        str | None,
        Meta(
            description="where a task had the `unique_key`: this is that task, `existing` as it was, or its payload "
            "`replaced`"
        ),
    ] = None


class HistoryEntry(Struct, frozen=True, kw_only=True):
    """One change of a task's status."""

    task_id: int
    old_status: Status
    new_status: Status
    created_at_stamp: Annotated[int, Meta(description="Unix time in seconds")]
    created_at: Time
    attempt: int
    worker: str | None
    reason: str | None


class Logs(Struct, frozen=True):
    """What is kept of the logs of a task's attempts, oldest first."""

    logs: list[KeptLines]


class History(Struct, frozen=True):
    """A task's changes of status, oldest first."""

    history: list[HistoryEntry]


def not_an_integer() -> InvalidRequest:
    """What is said of an id that is none."""
    return InvalidRequest("id: expected an integer", "id")


def read_id(id: str) -> int:
    """The id as a number that Postgres can look up; Python's int() would read more than ASCII digits."""
    if not re.fullmatch(r"-?[0-9]+", id):
        raise not_an_integer()
    if len(id) > len(str(-LARGEST_ID)) or abs(int(id)) > LARGEST_ID:
        raise TaskNotFound
    return int(id)


@post(
    "/tasks",
    **needs(Scope.ENQUEUE),
    status_code=200,
    summary="Enqueue a task",
    response_description="It is stored",
    tags=["tasks"],
    responses=documented(
        InvalidTask("payload.to", "Expected `str`, got `int`"),
        KeyTaken("task 7 is queued and has it"),
        KeyReused(),
        RequestEntityTooLarge(),
        UnsupportedMediaType(),
        SlowBody(),
        TimeoutError(),
    ),
)
async def add_task(request: ApiRequest) -> Added:
    """Answers once the task is durable. `payload` must fit the task type.

    A request with an `Idempotency-Key` can be sent again for a day without storing anything twice; what is answered
    then has the header `Idempotent-Replayed`.
    """
    media_type(request, "application/json")
    given = services(request)
    body = await request.body()
    task = read_task(body, given.registry, given.settings)
    with sending([task.type], request.headers) as headers:
        return await _add(request, traced([task], headers)[0], body)


async def _add(request: ApiRequest, task: NewTask, body: bytes) -> Added:
    given = services(request)
    key = read_key(request)
    if key is None and task.unique_key is None:
        return Added(await given.enqueuer.enqueue(task))
    outcome = "added"

    async def store(conn: Connection) -> list[int]:
        nonlocal outcome
        id, outcome = await _store(conn, task)
        given.enqueuer.stored += outcome == "added"
        return [id]

    if key is None:
        async with given.pool.connection() as conn:
            (id,) = await store(conn)
    else:
        (id,) = await store_once(request, key, body, store)
    return Added(id, None if outcome == "added" else outcome)


async def _store(conn: Connection, task: NewTask) -> tuple[int, str]:
    """Store *task* in a statement of its own: its id and the outcome; raises KeyTaken or InvalidTask."""
    try:
        stored = await enqueue_unique(conn, task)
    except REFUSED as error:
        raise refusal(error) from error
    await events.tell_within(conn, [stored.id])
    return stored.id, stored.outcome


@route(
    "/tasks/{id:str}",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="A task as it stands",
    response_description="The task",
    tags=["tasks"],
    responses=documented(not_an_integer(), TaskNotFound(), TooManyWatch(), TimeoutError()),
)
async def show_task(request: ApiRequest, id: TaskId, wait: Wait = "0") -> TaskView:
    """Its status, and what is known beside it. With `wait`, as soon as the task has ended, or the seconds are over."""
    number, seconds = read_id(id), read_wait(wait)
    task = await find(request, number)
    return task if task.status.is_final or not seconds else await wait_for_end(request, number, seconds)


@route(
    "/tasks/{id:str}/history",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="A task's changes of status",
    response_description="Its history",
    tags=["tasks"],
    responses=documented(not_an_integer(), TaskNotFound(), TimeoutError()),
)
async def show_history(request: ApiRequest, id: TaskId) -> History:
    """Oldest first; empty while the task waits for its first attempt."""
    number = read_id(id)
    async with services(request).pool.connection() as conn:
        transitions = await queries.find_history(conn, number)
    if transitions is None:
        raise TaskNotFound
    return History(
        [
            HistoryEntry(**structs.asdict(transition), created_at_stamp=int(transition.created_at.timestamp()))
            for transition in transitions
        ]
    )


Attempt = Annotated[
    str | None,
    QueryParameter(
        description="of this attempt only",
        schema_extra={"type": OpenAPIType.INTEGER, "minimum": 1, "maximum": 2**31 - 1},
    ),
]


@route(
    "/tasks/{id:str}/logs",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="What a task's handler logged",
    response_description="Its lines",
    tags=["tasks"],
    responses=documented(not_an_integer(), TaskNotFound(), TimeoutError()),
)
async def show_logs(request: ApiRequest, id: TaskId, attempt: Attempt = None) -> Logs:
    """The last lines of each of its latest 20 attempts that have ended, if its task type has `keep_logs`."""
    number = read_id(id)
    if attempt is not None and not (re.fullmatch("[0-9]{1,10}", attempt) and 1 <= int(attempt) < 2**31):
        raise InvalidRequest("attempt: expected an integer from 1 to 2147483647", "attempt")
    async with services(request).pool.connection() as conn:
        lines = await queries.find_lines(conn, number, None if attempt is None else int(attempt))
        if not lines and await queries.find_task(conn, number) is None:
            raise TaskNotFound
    return Logs(lines)
