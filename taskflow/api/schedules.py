"""Schedules: look at them, make and change them, pause and run them."""

from typing import Annotated, Final

import msgspec
from litestar import delete, patch, post, route
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.params import PathParameter
from msgspec import Meta, Struct

from taskflow import schedules
from taskflow.api.auth import needs
from taskflow.api.body import check_text, decode
from taskflow.api.enqueuer import REFUSED
from taskflow.api.listing import LARGEST_PAGE, LIMIT_RULE, read_query
from taskflow.api.media import media_type
from taskflow.api.policy import Pause
from taskflow.api.problems import InvalidRequest, SlowBody, UnsupportedMediaType, documented
from taskflow.api.schedule_body import ScheduleChanges, ScheduleRequest, change, read_schedule
from taskflow.api.services import GET, ApiRequest, services
from taskflow.api.tasks import Added
from taskflow.errors import InvalidSchedule
from taskflow.queue.tick import run_now
from taskflow.recurrence import check_name
from taskflow.schedules import DeclaredInCode, NoSuchSchedule, ScheduleNameTaken, ScheduleView
from taskflow.scopes import Scope

ScheduleName = Annotated[
    str, PathParameter(description="the schedule's name", schema_extra={"minLength": 1, "maxLength": 128})
]

_INVALID: Final = InvalidSchedule("rule", "bad hour")
_IMPOSSIBLE: Final = InvalidSchedule("name", "has 1 to 128 printable characters, none of them /")
_UNKNOWN: Final = NoSuchSchedule("report")
_BODY: Final = (RequestEntityTooLarge(), UnsupportedMediaType(), SlowBody(), TimeoutError())

_request: Final = msgspec.json.Decoder(ScheduleRequest)
_changes: Final = msgspec.json.Decoder(ScheduleChanges)


class ListSchedules(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `GET /schedules` may be asked."""

    limit: Annotated[int, Meta(ge=1, le=LARGEST_PAGE, description="schedules of one page")] = 100
    after: Annotated[Annotated[str, Meta(max_length=128)] | None, Meta(description="the `next` of the page before")] = (
        None
    )


class SchedulePage(Struct, frozen=True):
    """Schedules by name."""

    schedules: list[ScheduleView]
    next: Annotated[str | None, Meta(description="the `after` of the next page; null: there is none")]


_pause: Final = msgspec.json.Decoder(Pause)


@route(
    "/schedules",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="The schedules and their next ticks",
    response_description="The schedules",
    tags=["schedules"],
    responses=documented(InvalidRequest(LIMIT_RULE, "limit"), TimeoutError()),
)
async def list_schedules(request: ApiRequest) -> SchedulePage:
    """By name, page by page."""
    asked = read_query(request, ListSchedules)
    after = asked.after or ""
    check_text("after", after)
    async with services(request).pool.connection() as conn:
        found = await schedules.find_schedules(conn, after, asked.limit)
    return SchedulePage(found, found[-1].name if len(found) == asked.limit else None)


@post(
    "/schedules",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Make a schedule",
    response_description="The schedule",
    tags=["schedules"],
    responses=documented(_INVALID, ScheduleNameTaken("report"), *_BODY),
)
async def add_schedule(request: ApiRequest) -> ScheduleView:
    """It ticks from now on. `payload` must fit the task type."""
    media_type(request, "application/json")
    given = services(request)
    schedule = read_schedule(decode(_request, await request.body(), "a schedule"), given.registry, given.settings)
    async with given.pool.connection() as conn:
        try:
            await schedules.create(conn, schedule)
        except REFUSED as error:
            raise InvalidSchedule("payload", str(error).partition("\n")[0]) from error
        return await schedules.find_schedule(conn, schedule.name)


@route(
    "/schedules/{name:str}",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="A schedule and its next ticks",
    response_description="The schedule",
    tags=["schedules"],
    responses=documented(_IMPOSSIBLE, _UNKNOWN, TimeoutError()),
)
async def show_schedule(request: ApiRequest, name: ScheduleName) -> ScheduleView:
    """`is_kept` is false where it is declared by the code of no worker that runs; then it does not tick."""
    check_name(name)
    async with services(request).pool.connection() as conn:
        return await schedules.find_schedule(conn, name)


@patch(
    "/schedules/{name:str}",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Change a schedule",
    response_description="The schedule",
    tags=["schedules"],
    responses=documented(_INVALID, _UNKNOWN, DeclaredInCode("report"), *_BODY),
)
async def change_schedule(request: ApiRequest, name: ScheduleName) -> ScheduleView:
    """What is left out stays. Another rule or time zone counts from now on."""
    check_name(name)
    media_type(request, "application/json")
    given = services(request)
    changes = decode(_changes, await request.body(), "changes of a schedule")
    async with given.pool.connection() as conn:
        async with conn.transaction():
            kept = await schedules.lock_for_change(conn, name)
            schedule = read_schedule(change(kept, changes), given.registry, given.settings)
            try:
                await schedules.change(conn, schedule)
            except REFUSED as error:
                raise InvalidSchedule("payload", str(error).partition("\n")[0]) from error
        return await schedules.find_schedule(conn, name)


@delete(
    "/schedules/{name:str}",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Remove a schedule",
    response_description="The schedule that was removed",
    tags=["schedules"],
    responses=documented(_IMPOSSIBLE, _UNKNOWN, TimeoutError()),
)
async def remove_schedule(request: ApiRequest, name: ScheduleName) -> ScheduleView:
    """Its tasks stay. One that code declares comes back with the next worker that starts: pause it instead."""
    check_name(name)
    async with services(request).pool.connection() as conn:
        removed = await schedules.find_schedule(conn, name)
        await schedules.remove(conn, name)
    return removed


@post(
    "/schedules/{name:str}/pause",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Pause a schedule",
    response_description="The schedule",
    tags=["schedules"],
    responses=documented(InvalidRequest("not a pause: Expected `object`, got `array`"), _UNKNOWN, *_BODY),
)
async def pause_schedule(request: ApiRequest, name: ScheduleName) -> ScheduleView:
    """It does not tick until it is resumed. The body may be left out."""
    check_name(name)
    reason = None
    if body := await request.body():
        media_type(request, "application/json")
        reason = decode(_pause, body, "a pause").reason
        check_text("reason", reason or "")
    async with services(request).pool.connection() as conn:
        await schedules.pause(conn, name, reason)
        return await schedules.find_schedule(conn, name)


@post(
    "/schedules/{name:str}/resume",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Resume a schedule",
    response_description="The schedule",
    tags=["schedules"],
    responses=documented(_INVALID, _UNKNOWN, TimeoutError()),
)
async def resume_schedule(request: ApiRequest, name: ScheduleName) -> ScheduleView:
    """Ticks of the pause were not missed: it goes on with the next one."""
    check_name(name)
    async with services(request).pool.connection() as conn:
        await schedules.resume(conn, name)
        return await schedules.find_schedule(conn, name)


@post(
    "/schedules/{name:str}/run",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Run a schedule now",
    response_description="Its task is enqueued",
    tags=["schedules"],
    responses=documented(_IMPOSSIBLE, _UNKNOWN, TimeoutError()),
)
async def run_schedule(request: ApiRequest, name: ScheduleName) -> Added:
    """Beside its ticks, and also while it is paused."""
    check_name(name)
    async with services(request).pool.connection() as conn:
        id = await run_now(conn, name, request.headers)
    if id is None:
        raise NoSuchSchedule(name)
    return Added(id)


ROUTES: Final = (
    list_schedules,
    add_schedule,
    show_schedule,
    change_schedule,
    remove_schedule,
    pause_schedule,
    resume_schedule,
    run_schedule,
)
