"""Limits and pauses, in force for all workers within a second."""

from typing import Annotated, Final

import msgspec
from litestar import post, put, route
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.params import PathParameter
from msgspec import Meta, Struct

from taskflow.api.auth import needs
from taskflow.api.body import check_text, decode
from taskflow.api.media import media_type
from taskflow.api.problems import QueueNotFound, SlowBody, UnsupportedMediaType, documented
from taskflow.api.services import GET, ApiRequest, services
from taskflow.errors import InvalidTask, UnknownTaskType
from taskflow.model import Limit, Priority
from taskflow.queries import LimitView, QueueView, find_limits, find_queue_views
from taskflow.queue.policy import pause, pause_type, resume, resume_type, set_limit
from taskflow.scopes import Scope

Name = Annotated[str, PathParameter(description="a task type", schema_extra={"minLength": 1, "maxLength": 128})]
Queue = Annotated[
    str, PathParameter(description="a priority", schema_extra={"enum": [priority.value for priority in Priority]})
]
Number = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Rate = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class Pause(Struct, frozen=True, forbid_unknown_fields=True):
    """Why something is paused."""

    reason: Annotated[
        Annotated[str, Meta(min_length=1, max_length=500)] | None,
        Meta(description="for people", examples=["the mail server is down"]),
    ] = None


class LimitRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many tasks of a type may run at once, and start in `rate_seconds`; null: as many as there are slots."""

    concurrency: Number | None = None
    concurrency_per_key: Annotated[Number | None, Meta(description="of each `limit_key`")] = None
    rate: Rate | None = None
    rate_per_key: Annotated[Rate | None, Meta(description="of each `limit_key`")] = None
    rate_seconds: Annotated[float, Meta(gt=0, le=1e9)] = 1.0


class Queues(Struct, frozen=True):
    """The priorities, in the order of claiming."""

    queues: list[QueueView]


class Limits(Struct, frozen=True):
    """The task types that are limited or paused, by name."""

    limits: list[LimitView]


_pause: Final = msgspec.json.Decoder(Pause)
_limit: Final = msgspec.json.Decoder(LimitRequest)
UNKNOWN: Final = UnknownTaskType("send_emial", ["send_email"])
REFUSED: Final = (RequestEntityTooLarge(), UnsupportedMediaType(), SlowBody(), TimeoutError())


@route(
    "/queues",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="The queues, and which are paused",
    response_description="The queues",
    tags=["policy"],
    responses=documented(TimeoutError()),
)
async def list_queues(request: ApiRequest) -> Queues:
    """One for each priority. `GET /stats` tells how much waits in them."""
    async with services(request).pool.connection() as conn:
        return Queues(await find_queue_views(conn))


@post(
    "/queues/{priority:str}/pause",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Pause a queue",
    response_description="The queues",
    tags=["policy"],
    responses=documented(QueueNotFound(), InvalidTask("reason", "Expected `str`, got `int`"), *REFUSED),
)
async def pause_queue(request: ApiRequest, priority: Queue) -> Queues:
    """No more of its tasks are started; what runs goes on. The body may be left out."""
    queue, reason = _priority(priority), await _reason(request)
    async with services(request).pool.connection() as conn:
        await pause(conn, queue, reason)
        return Queues(await find_queue_views(conn))


@post(
    "/queues/{priority:str}/resume",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Resume a queue",
    response_description="The queues",
    tags=["policy"],
    responses=documented(QueueNotFound(), InvalidTask("priority", "must not be empty"), TimeoutError()),
)
async def resume_queue(request: ApiRequest, priority: Queue) -> Queues:
    """Its tasks are started again."""
    queue = _priority(priority)
    async with services(request).pool.connection() as conn:
        await resume(conn, queue)
        return Queues(await find_queue_views(conn))


@route(
    "/limits",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="The task types that are limited or paused",
    response_description="Their limits",
    tags=["policy"],
    responses=documented(TimeoutError()),
)
async def list_limits(request: ApiRequest) -> Limits:
    """By name."""
    async with services(request).pool.connection() as conn:
        return Limits(await find_limits(conn))


@put(
    "/limits/{type:str}",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Limit a task type",
    response_description="All limits",
    tags=["policy"],
    responses=documented(InvalidTask("concurrency", "Expected `int`, got `str`"), UNKNOWN, *REFUSED),
)
async def limit_type(request: ApiRequest, type: Name) -> Limits:
    """Replaces its limits; `{}` lifts them, also those of a type that this server does not know any more.

    What the code declares is set again by the next worker that starts.
    """
    media_type(request, "application/json")
    asked = decode(_limit, await request.body(), "a limit")
    name = _type(type) if asked == LimitRequest() else _known_type(request, type)
    async with services(request).pool.connection() as conn:
        await set_limit(conn, name, msgspec.convert(asked, Limit, from_attributes=True))
        return Limits(await find_limits(conn))


@post(
    "/limits/{type:str}/pause",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Pause a task type",
    response_description="All limits",
    tags=["policy"],
    responses=documented(InvalidTask("reason", "Expected `str`, got `int`"), UNKNOWN, *REFUSED),
)
async def pause_tasks(request: ApiRequest, type: Name) -> Limits:
    """No more of its tasks are started; what runs goes on. The body may be left out."""
    name, reason = _known_type(request, type), await _reason(request)
    async with services(request).pool.connection() as conn:
        await pause_type(conn, name, reason)
        return Limits(await find_limits(conn))


@post(
    "/limits/{type:str}/resume",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Resume a task type",
    response_description="All limits",
    tags=["policy"],
    responses=documented(InvalidTask("type", "has 1 to 128 characters"), TimeoutError()),
)
async def resume_tasks(request: ApiRequest, type: Name) -> Limits:
    """Its tasks are started again."""
    name = _type(type)
    async with services(request).pool.connection() as conn:
        await resume_type(conn, name)
        return Limits(await find_limits(conn))


def _priority(name: str) -> Priority:
    try:
        return Priority(name)
    except ValueError as error:
        raise QueueNotFound from error


def _type(name: str) -> str:
    check_text("type", name)
    if not 1 <= len(name) <= 128:
        raise InvalidTask("type", "has 1 to 128 characters")
    return name


def _known_type(request: ApiRequest, name: str) -> str:
    registry = services(request).registry
    if registry.find(_type(name)) is None:
        raise UnknownTaskType(name, registry.names())
    return name


async def _reason(request: ApiRequest) -> str | None:
    body = await request.body()
    if not body:
        return None
    media_type(request, "application/json")
    reason = decode(_pause, body, "a pause").reason
    check_text("reason", reason or "")
    return reason
