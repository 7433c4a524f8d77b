"""Change tasks by hand."""

from typing import Annotated, Final

import msgspec
from litestar import post
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from msgspec import Meta, Struct

from taskflow import queries
from taskflow.api.auth import needs
from taskflow.api.body import check_text, decode
from taskflow.api.media import media_type
from taskflow.api.problems import SlowBody, TaskNotFound, UnsupportedMediaType, WrongStatus, documented
from taskflow.api.services import ApiRequest, services
from taskflow.api.tasks import TaskId, not_an_integer, read_id
from taskflow.database import Connection
from taskflow.model import Status
from taskflow.queries import TaskView
from taskflow.queue.cancel import cancel
from taskflow.queue.recover import retry_by_hand
from taskflow.scopes import Scope


class Cancellation(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a task is cancelled."""

    reason: Annotated[
        Annotated[str, Meta(min_length=1, max_length=500)] | None,
        Meta(description="kept as the task's `error`", examples=["ordered twice"]),
    ] = None


_cancellation: Final = msgspec.json.Decoder(Cancellation)


@post(
    "/tasks/{id:str}/cancel",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Cancel a task",
    response_description="The task, cancelled",
    tags=["tasks"],
    responses=documented(
        not_an_integer(),
        TaskNotFound(),
        WrongStatus(Status.SUCCEEDED, "only queued and running tasks can be cancelled"),
        RequestEntityTooLarge(),
        UnsupportedMediaType(),
        SlowBody(),
        TimeoutError(),
    ),
)
async def cancel_task(request: ApiRequest, id: TaskId) -> TaskView:
    """A queued task never starts. The handler of a running one is interrupted, and its outcome is dropped.

    An async handler is cancelled; a sync one is only told. The body may be left out.
    """
    number = read_id(id)
    reason = None
    if body := await request.body():
        media_type(request, "application/json")
        reason = decode(_cancellation, body, "a cancellation").reason
        check_text("reason", reason or "")
    async with services(request).pool.connection() as conn:
        done = await cancel(conn, [number], reason)
        return await _changed(conn, number, done, "only queued and running tasks can be cancelled")


@post(
    "/tasks/{id:str}/retry",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Retry a task",
    response_description="The task, queued again",
    tags=["tasks"],
    responses=documented(
        not_an_integer(),
        TaskNotFound(),
        WrongStatus(Status.RUNNING, "only failed and cancelled tasks can be retried"),
        TimeoutError(),
    ),
)
async def retry_task(request: ApiRequest, id: TaskId) -> TaskView:
    """It is due at once, with a fresh budget of attempts. Its history is kept."""
    number = read_id(id)
    async with services(request).pool.connection() as conn:
        done = await retry_by_hand(conn, [number])
        return await _changed(conn, number, done, "only failed and cancelled tasks can be retried")


async def _changed(conn: Connection, id: int, done: set[int], rule: str) -> TaskView:
    """The task as it is after the change; raises WrongStatus with the *rule* if nothing was *done*."""
    task = await queries.find_task(conn, id)
    if task is None:
        raise TaskNotFound
    if not done:
        raise WrongStatus(task.status, rule)
    return task
