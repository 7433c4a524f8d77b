"""What happens to tasks, as server-sent events."""

import re
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Any, Final, Generic, TypeVar, cast

import structlog
from litestar import HttpMethod, Response, route
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec
from litestar.params import HeaderParameter
from litestar.response import Stream

from taskflow import events, queries
from taskflow.api.auth import needs, recheck
from taskflow.api.inbox import Inbox
from taskflow.api.problems import InvalidRequest, TaskNotFound, documented
from taskflow.api.services import GET, ApiRequest, services
from taskflow.api.tasks import TaskId, not_an_integer, read_id
from taskflow.api.timing import take_time
from taskflow.api.watch import TaskTold, Told, TooManyWatch, Watch, render, render_all
from taskflow.database import AWAY
from taskflow.events import Batch, Change
from taskflow.scopes import Scope

log = structlog.get_logger(__name__)

T = TypeVar("T")

HEARTBEAT: Final = 15.0
"""Seconds after which a silent stream says that it lives."""

RECHECK: Final = 1.5
"""Seconds after which a stream, silent or not, asks whether its reader's token still lives."""

MEDIA_TYPE: Final = "text/event-stream"
ALIVE: Final = b": alive\n\n"
END: Final = b"event: end\ndata: {}\n\n"

ENDED: Final = (*AWAY, HTTPException)
"""What ends a stream: the database is away, the token is not good any more, the task is gone."""

LastEventId = Annotated[
    str,
    HeaderParameter(
        name="Last-Event-ID",
        description="what comes after this event; browsers send it when they connect again",
        schema_extra={"pattern": r"^[0-9]{1,19}(\.[0-9]{1,9})?$"},
    ),
]

STREAM: Final = {
    200: ResponseSpec(
        str, description="Events, until the client or the server leaves", media_type=MEDIA_TYPE, generate_examples=False
    )
}


def read_event_id(text: str) -> tuple[int, int] | None:
    """The batch and the index in it, or behind it all; raises InvalidRequest."""
    if not text:
        return None
    if not (found := re.fullmatch(r"([0-9]{1,19})(?:\.([0-9]{1,9}))?", text)):
        raise InvalidRequest("Last-Event-ID: expected an id of this stream", "Last-Event-ID")
    return int(found[1]), int(found[2] or 10**9)


@route(
    "/events",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="What happens to all tasks",
    tags=["events"],
    responses={**documented(InvalidRequest("", "Last-Event-ID"), TooManyWatch(), TimeoutError()), **STREAM},
)
async def stream_events(request: ApiRequest, last_event_id: LastEventId = "") -> Response[None] | Stream:
    """Server-sent events, as browsers' EventSource reads them.

    `ready`: from now on, changes are told. `task`: a task stands otherwise than before. `reset`: some changes were
    missed, so look again at what you show. Tasks that were enqueued by SQL are told when they are claimed.
    """
    after = read_event_id(last_event_id)
    if request.method == HttpMethod.HEAD:
        return Response(None, media_type=MEDIA_TYPE)
    given = services(request)
    inbox = await given.watch.stream()
    position = given.watch.position
    try:
        first = b"id: %d\nevent: ready\ndata: {}\n\n" % position
        if after is not None:
            async with given.pool.connection() as conn:
                batches = await events.find_since(conn, after[0])
            first = _reset(position) if batches is None else _replay(batches, after, position)
    except BaseException:
        given.watch.leave(inbox)
        raise
    return _answer(request, _all(request, given.watch, inbox, first))


def _reset(position: int) -> bytes:
    return b"id: %d\nevent: reset\ndata: {}\n\n" % position


def _replay(batches: list[Batch], after: tuple[int, int], position: int) -> bytes:
    """What was told after *after* and up to *position*: the rest comes through the inbox."""
    told = [render_all(batch, after[1] if batch.id == after[0] else -1) for batch in batches if batch.id <= position]
    return b"".join(told) or ALIVE


@contextmanager
def attending(request: ApiRequest, watch: Watch, inbox: Inbox[Any]) -> Generator[None]:
    """A stream of *request* that reads *inbox*: what ends it is logged, and the inbox is left."""
    try:
        yield
    except ENDED as error:
        log.info("stream.ended", path=request.url.path, reason=str(error).strip())
    finally:
        watch.leave(inbox)


class Reader(Generic[T]):
    """Who reads *inbox* for *request*, as long as its token lives."""

    def __init__(self, request: ApiRequest, inbox: Inbox[T]) -> None:
        self._request = request
        self._inbox = inbox
        self._good_at = self._checked_at = time.monotonic()

    async def take(self) -> tuple[list[T], bool]:
        """As Inbox.take, for at most HEARTBEAT; raises one of ENDED."""
        silent_until = time.monotonic() + HEARTBEAT
        while True:
            if (now := time.monotonic()) >= self._checked_at + RECHECK:
                await self._check(now)
            patience = min(silent_until, self._checked_at + RECHECK) - time.monotonic()
            told, has_missed = await self._inbox.take(max(patience, 0.0))
            if told or has_missed or self._inbox.is_closed or time.monotonic() >= silent_until:
                return told, has_missed

    async def _check(self, now: float) -> None:
        try:
            await recheck(self._request)
            self._good_at = now
        except AWAY:
            if now > self._good_at + HEARTBEAT:
                raise
        self._checked_at = time.monotonic()


async def _all(request: ApiRequest, watch: Watch, inbox: Inbox[Told], first: bytes) -> AsyncGenerator[bytes]:
    with attending(request, watch, inbox):
        yield first
        reader = Reader(request, inbox)
        while not inbox.is_closed:
            told, has_missed = await reader.take()
            if not told and not has_missed:
                yield ALIVE
            else:
                chunks = [chunk for _, chunk in told]
                yield b"".join([_reset(watch.position), *chunks] if has_missed else chunks)


@route(
    "/tasks/{id:str}/events",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="What happens to a task, until it ends",
    tags=["events"],
    responses={**documented(not_an_integer(), TaskNotFound(), TooManyWatch(), TimeoutError()), **STREAM},
)
async def stream_task_events(
    request: ApiRequest, id: TaskId, last_event_id: LastEventId = ""
) -> Response[None] | Stream:
    """Server-sent events: `task`, at first as it stands, then at each change; `end`, after which the stream ends.

    Whoever connects again though he has seen the end is answered with 204, which browsers take for an end.
    """
    number, after = read_id(id), read_event_id(last_event_id)
    given = services(request)
    async with given.pool.connection() as conn:
        if (task := await queries.find_task(conn, number)) is None:
            raise TaskNotFound
        batches = await events.find_since(conn, after[0]) if after else None
    told = _replayed(batches, after, number) if batches is not None and after is not None else []
    if batches is not None and not told and task.status.is_final:
        return Response(None, status_code=HTTPStatus.NO_CONTENT)
    if request.method == HttpMethod.HEAD:
        return Response(None, media_type=MEDIA_TYPE)
    return _answer(request, _one(request, given.watch.follow(number), told))


def _replayed(batches: list[Batch], after: tuple[int, int], task_id: int) -> list[TaskTold]:
    return [
        (f"{batch.id}.{index}", change)
        for batch in batches
        for index, change in enumerate(batch.changes)
        if change.task_id == task_id and (batch.id, index) > after
    ]


async def _one(request: ApiRequest, inbox: Inbox[TaskTold], told: list[TaskTold]) -> AsyncGenerator[bytes]:
    """What was *told* already, then how the task stands, then each change, until the last."""
    watch = services(request).watch
    latest: Change | None = None
    has_missed = True
    reader = Reader(request, inbox)
    with attending(request, watch, inbox):
        while True:
            if has_missed:
                told = [*told, (str(watch.position), await _look(request, cast(int, inbox.topic)))]
            for id, change in told:
                if latest is None or (change.status, change.attempt) != (latest.status, latest.attempt):
                    latest = change
                    yield render(id, change)
            if latest is None or latest.status.is_final:
                yield END
                return
            if inbox.is_closed:
                return
            told, has_missed = await reader.take()
            if not told and not has_missed:
                yield ALIVE


async def _look(request: ApiRequest, id: int) -> Change:
    """How the task stands now; raises TaskNotFound."""
    async with services(request).pool.connection() as conn:
        task = await queries.find_task(conn, id)
    if task is None:
        raise TaskNotFound
    return Change(
        task_id=task.id,
        name=task.name,
        type=task.type,
        priority=task.priority,
        status=task.status,
        attempt=task.attempt,
        at=task.updated_at,
    )


def _answer(request: ApiRequest, chunks: AsyncGenerator[bytes]) -> Stream:
    take_time(request, None)
    return Stream(chunks, media_type=MEDIA_TYPE, headers={"X-Accel-Buffering": "no"})  # which nginx would do
