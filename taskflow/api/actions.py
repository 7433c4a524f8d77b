"""Change tasks by hand."""

from typing import Annotated, Final

import msgspec
from litestar import post
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from msgspec import Meta, Struct

from taskflow import events, queries
from taskflow.api.auth import needs
from taskflow.api.body import check_priority, check_text, decode
from taskflow.api.media import media_type
from taskflow.api.problems import SlowBody, TaskNotFound, UnsupportedMediaType, WrongStatus, documented
from taskflow.api.services import ApiRequest, services
from taskflow.api.tasks import TaskId, not_an_integer, read_id
from taskflow.bulk import APPLIES_TO, Action, Order, carry_out
from taskflow.database import Connection
from taskflow.errors import InvalidTask, KeyTaken
from taskflow.filters import TaskFilter, read_cursor, write_cursor
from taskflow.model import Priority, Status
from taskflow.queries import TaskView
from taskflow.queue.cancel import cancel
from taskflow.queue.recover import retry_by_hand
from taskflow.scopes import Scope

CANCEL_RULE: Final = "only queued and running tasks can be cancelled"
RETRY_RULE: Final = "only failed and cancelled tasks can be retried"

SHARE: Final = 0.25
"""Of the time of a request, after which no further step of an action begins."""

Reason = Annotated[str, Meta(min_length=1, max_length=500)]


class Cancellation(Struct, frozen=True, forbid_unknown_fields=True):
    """Why a task is cancelled."""

    reason: Annotated[
        Reason | None,
        Meta(description="kept as the task's `error`", examples=["ordered twice"]),
    ] = None


class ActionRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What shall be done to which tasks."""

    action: Annotated[Action, Meta(description="tasks whose status it is not for are passed over")]
    filter: Annotated[TaskFilter, Meta(description="the tasks that meet all that is given; `{}`: all")]
    priority: Annotated[Priority | None, Meta(description="the new one, for `reprioritise`")] = None
    reason: Annotated[Reason | None, Meta(description="for `cancel`; kept as the tasks' `error`")] = None
    dry_run: Annotated[bool, Meta(description="count the tasks, and change nothing")] = False
    cursor: Annotated[
        Annotated[str, Meta(max_length=64)] | None, Meta(description="the `next` that the same request was answered")
    ] = None


class ActionResult(Struct, frozen=True):
    """What was done within the time of one request."""

    count: Annotated[int, Meta(description="tasks that were changed, or with `dry_run` would be")]
    next: Annotated[str | None, Meta(description="null: that is all; else send the same again with this as `cursor`")]


_action: Final = msgspec.json.Decoder(ActionRequest)
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
        WrongStatus(Status.SUCCEEDED, CANCEL_RULE),
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
        return await _changed(conn, number, done, CANCEL_RULE)


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
        WrongStatus(Status.RUNNING, RETRY_RULE),
        TimeoutError(),
    ),
)
async def retry_task(request: ApiRequest, id: TaskId) -> TaskView:
    """It is due at once, with a fresh budget of attempts. Its history is kept."""
    number = read_id(id)
    async with services(request).pool.connection() as conn:
        done = await retry_by_hand(conn, [number])
        return await _changed(conn, number, done, RETRY_RULE)


@post(
    "/tasks/actions",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Change many tasks",
    response_description="How many it were",
    tags=["tasks"],
    responses=documented(
        InvalidTask("filter.status", "retry is for failed and cancelled tasks only"),
        RequestEntityTooLarge(),
        UnsupportedMediaType(),
        SlowBody(),
        TimeoutError(),
    ),
)
async def act(request: ApiRequest) -> ActionResult:
    """Retry, cancel, reprioritise or delete the tasks that meet the filter, oldest first.

    They are changed 1,000 at a time, in transactions of their own: if it breaks off, what was done stays. What does
    not fit into the time of one request is left for the next, which goes on with `next` as its `cursor`.
    """
    media_type(request, "application/json")
    given = services(request)
    asked = decode(_action, await request.body(), "an action")
    for field, text in (
        ("filter.type", asked.filter.type),
        ("filter.name", asked.filter.name),
        ("filter.tenant", asked.filter.tenant),
        ("filter.key", asked.filter.key),
        ("reason", asked.reason),
    ):
        check_text(field, text or "")
    check_priority(asked.priority, given.settings)
    order = Order(action=asked.action, filter=asked.filter, priority=asked.priority, reason=asked.reason)
    cursor = None if asked.cursor is None else read_cursor(asked.cursor, order.filter, order.action)
    async with given.pool.connection() as conn:
        seconds = SHARE * given.settings.server_time_out_in_seconds
        done = await carry_out(conn, order, cursor, seconds=seconds, dry_run=asked.dry_run)
    next = None if done.next is None else write_cursor(done.next, order.filter, order.action)
    return ActionResult(done.count, next)


async def _changed(conn: Connection, id: int, done: set[int], rule: str) -> TaskView:
    """The task as it is after the change; raises WrongStatus with the *rule*, or KeyTaken, if nothing was *done*."""
    task = await queries.find_task(conn, id)
    if task is None:
        raise TaskNotFound
    if not done and rule == RETRY_RULE and task.status in APPLIES_TO[Action.RETRY]:
        raise KeyTaken("a queued or running task has it")
    if not done:
        raise WrongStatus(task.status, rule)
    await events.tell_within(conn, [id])
    return task
