"""Groups: tasks that are enqueued together, and what becomes of them."""

from typing import Annotated, Final

import msgspec
from litestar import post, route
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from msgspec import Meta, Raw, Struct

from taskflow.api.auth import needs
from taskflow.api.batch import find_refused, read_tasks, refused_at
from taskflow.api.body import check_text, decode, read_task
from taskflow.api.enqueuer import REFUSED, refusal
from taskflow.api.media import media_type
from taskflow.api.once import read_key, store_once
from taskflow.api.problems import (
    GroupNotFound,
    InvalidBatch,
    InvalidRequest,
    SlowBody,
    TaskError,
    UnsupportedMediaType,
    documented,
)
from taskflow.api.services import GET, ApiRequest, Services, services
from taskflow.api.tasks import TaskId, not_an_integer, read_id
from taskflow.database import Connection
from taskflow.errors import InvalidTask, KeyReused, TaskflowError, UnknownTaskType
from taskflow.model import NewTask, OnConflict
from taskflow.queries import GroupView, find_group
from taskflow.queue.group import enqueue_group, find_members
from taskflow.scopes import Scope
from taskflow.tracing import sending, traced


class GroupRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tasks to enqueue together."""

    tasks: Annotated[list[Raw], Meta(min_length=1, description="as `POST /tasks` takes them")]
    callback: Annotated[Raw, Meta(description="one more task, which runs when all of them have ended, however")] = (
        msgspec.field(default_factory=Raw)  # msgspec knows no Raw | None
    )
    name: Annotated[Annotated[str, Meta(min_length=1, max_length=128)] | None, Meta(description="for people")] = None


class AddedGroup(Struct, frozen=True, kw_only=True):
    """All is stored."""

    added_group_id: int
    added_task_ids: Annotated[list[int], Meta(description="in the order of the tasks")]
    callback_task_id: int | None


_group: Final = msgspec.json.Decoder(GroupRequest)


@post(
    "/groups",
    **needs(Scope.ENQUEUE),
    status_code=200,
    summary="Enqueue a group of tasks",
    response_description="It is stored",
    tags=["groups"],
    responses=documented(
        InvalidTask("callback.type", "unknown task type"),
        InvalidBatch([TaskError(index=3, field="payload.to", detail="Expected `str`, got `int`")], given=10),
        KeyReused(),
        GroupNotFound(),
        RequestEntityTooLarge(),
        UnsupportedMediaType(),
        SlowBody(),
        TimeoutError(),
    ),
)
async def add_group(request: ApiRequest) -> AddedGroup:
    """All or nothing, in one transaction. An `Idempotency-Key` works as with `POST /tasks`."""
    media_type(request, "application/json")
    given = services(request)
    key, body = read_key(request), await request.body()
    asked = decode(_group, body, "a group")
    check_text("name", asked.name or "")
    if len(asked.tasks) > given.settings.server_max_batch_tasks:
        raise InvalidRequest(f"a group has at most {given.settings.server_max_batch_tasks:,} tasks", "tasks")
    tasks = await read_tasks(asked.tasks, given)
    callback = None
    if bytes(asked.callback) not in (b"", b"null"):
        callback = _read_callback(bytes(asked.callback), given)

    async def store(conn: Connection) -> list[int]:
        sent = [*tasks, *([callback] if callback else [])]
        with sending([task.type for task in sent], request.headers) as headers:
            return [await _store(conn, traced(sent, headers), len(tasks), asked.name)]

    stored = None if key is None else await store_once(request, key, body, store)
    async with given.pool.connection() as conn, conn.transaction():
        (id,) = stored or await store(conn)
        return await _added(conn, id)


async def _store(conn: Connection, sent: list[NewTask], count: int, name: str | None) -> int:
    """The id of a group of *count* tasks, what follows them in *sent* being its callback; raises what is refused."""
    try:
        async with conn.transaction():
            return await enqueue_group(conn, sent[:count], sent[count] if len(sent) > count else None, name)
    except REFUSED as error:
        index, refused = await find_refused(conn, sent)
        if index == count:
            raise _of_callback(refusal(refused or error)) from error
        raise refused_at(index, refused or error, given=count) from error


def _read_callback(body: bytes, given: Services) -> NewTask:
    """The task that *body* asks for; raises InvalidTask with its field as one of the group."""
    try:
        callback = read_task(body, given.registry, given.settings)
    except (InvalidTask, UnknownTaskType, InvalidRequest) as error:
        raise _of_callback(error) from error
    if callback.after is not None:
        raise InvalidTask("callback.after", "a callback waits for the tasks of its group, and for no others")
    if callback.on_conflict is not OnConflict.REJECT:
        raise InvalidTask("callback.on_conflict", "a batch can only reject")
    return callback


def _of_callback(error: TaskflowError) -> InvalidTask:
    if isinstance(error, InvalidTask):
        return InvalidTask(f"callback.{error.field}", error.problem)
    return InvalidTask("callback.type" if isinstance(error, UnknownTaskType) else "callback", str(error))


async def _added(conn: Connection, id: int) -> AddedGroup:
    """Group *id* as it was stored; raises GroupNotFound if it was pruned since."""
    group = await find_group(conn, id)
    if group is None:
        raise GroupNotFound
    return AddedGroup(
        added_group_id=id,
        added_task_ids=await find_members(conn, id),
        callback_task_id=group.callback_task_id,
    )


@route(
    "/groups/{id:str}",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="A group of tasks",
    response_description="How many of its tasks have each status",
    tags=["groups"],
    responses=documented(not_an_integer(), GroupNotFound(), TimeoutError()),
)
async def show_group(request: ApiRequest, id: TaskId) -> GroupView:
    """Tasks that were pruned do not count any more."""
    number = read_id(id)
    async with services(request).pool.connection() as conn:
        group = await find_group(conn, number)
    if group is None:
        raise GroupNotFound
    return group
