"""Workers of other languages, over HTTP: register, claim, beat, leave."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from litestar import delete, post
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from msgspec import Meta, Raw, Struct

from taskflow import queries
from taskflow.api.auth import needs
from taskflow.api.body import check_text, decode
from taskflow.api.media import media_type
from taskflow.api.problems import SlowBody, UnsupportedMediaType, WorkerNotFound, documented
from taskflow.api.services import ApiRequest, Services, services
from taskflow.api.workers import WorkerId, read_worker_id, wrong_worker_id
from taskflow.database import Connection
from taskflow.errors import InvalidTask, WorkerIdTaken
from taskflow.model import ClaimedTask, Priority
from taskflow.queue import workers
from taskflow.queue.claim import claim
from taskflow.queue.finish import release
from taskflow.queue.policy import find_policy
from taskflow.scopes import Scope

MOST: Final = 1000
"""Tasks of one claim, and results of one request."""

LOOK_AGAIN: Final = 0.2
"""Seconds between two looks of a claim that waits."""

NOTHING: Final = Raw(b"null")

Id = Annotated[int, Meta(ge=1, le=2**63 - 1)]


class Registration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A worker that begins."""

    name: Annotated[
        str, Meta(min_length=1, max_length=128, description="unique among live workers", examples=["node-1"])
    ]
    priorities: Annotated[list[Priority], Meta(min_length=1, max_length=4, description="what it claims")]
    concurrency: Annotated[int, Meta(ge=1, le=10_000, description="how many tasks it runs at once, for people")] = 1
    host: Annotated[str, Meta(max_length=253, description="where it runs, for people")] = ""
    version: Annotated[str, Meta(max_length=128, description="of its program, for people")] = ""


class Registered(Struct, frozen=True):
    """The worker's id, and how often it has to beat; silent for longer than the lease, it is taken for gone."""

    id: int
    heartbeat_seconds: float
    lease_seconds: float


class ClaimRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many tasks a worker has room for."""

    limit: Annotated[int, Meta(ge=1, le=MOST)] = 1
    wait: Annotated[
        float,
        Meta(ge=0, le=20, description="seconds to wait for a task; the server's own time limit may end it before"),
    ] = 0


class Claim(Struct, frozen=True, omit_defaults=True):
    """A task that this worker runs now. Its handler should end within the time limit; nobody else sees to that."""

    id: int
    attempt: int
    max_attempts: int
    type: str
    name: str
    priority: Priority
    payload: Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
    time_limit_seconds: float
    checkpoint: Annotated[
        Raw | None,
        Meta(description="what an earlier attempt saved, if one did", extra_json_schema={"type": "object"}),
    ] = None


class Claims(Struct, frozen=True):
    """What was claimed, of the highest priority first; ``draining``: end what runs, and leave."""

    tasks: list[Claim]
    draining: bool


class Heartbeat(Struct, frozen=True, forbid_unknown_fields=True):
    """What the worker runs."""

    running: Annotated[list[Id], Meta(max_length=10_000, description="ids of the tasks whose handlers run now")]


class Beat(Struct, frozen=True):
    """``lost``: tasks that are no longer this worker's, as they were cancelled: end their handlers."""

    lost: list[int]
    draining: bool


class Left(Struct, frozen=True):
    """The worker has left, and so many tasks that it still ran were put back."""

    released: int


_registration: Final = msgspec.json.Decoder(Registration)
_claim: Final = msgspec.json.Decoder(ClaimRequest)
_heartbeat: Final = msgspec.json.Decoder(Heartbeat)


def refusals(*more: Exception) -> dict[int, Any]:
    """What a route for workers may answer, beside success."""
    return documented(
        InvalidTask("limit", "Expected `int` <= 1000"),
        RequestEntityTooLarge(),
        UnsupportedMediaType(),
        SlowBody(),
        TimeoutError(),
        *more,
    )


async def read_body(request: ApiRequest, decoder: msgspec.json.Decoder[Any], what: str) -> Any:
    """The body of *request*; raises what ``decode`` raises."""
    media_type(request, "application/json")
    return decode(decoder, await request.body(), what)


@post(
    "/workers",
    **needs(Scope.WORK),
    status_code=200,
    summary="Register a worker over HTTP",
    response_description="It is registered",
    tags=["workers"],
    responses=refusals(WorkerIdTaken("node-1", "a host", 0, datetime(2026, 1, 31, tzinfo=UTC))),
)
async def register_worker(request: ApiRequest) -> Registered:
    """The others see it as a worker like any; it has to beat, and what it runs is rescued when it falls silent."""
    given = services(request)
    asked: Registration = await read_body(request, _registration, "a worker")
    for part in ("name", "host", "version"):
        check_text(part, getattr(asked, part))
    priorities = [priority for priority in Priority if priority in asked.priorities]
    lease = given.settings.worker_lease_in_seconds
    host = asked.host or (request.client.host if request.client else "")
    async with given.pool.connection() as conn:
        id = await workers.register(conn, asked.name, host, asked.version, priorities, asked.concurrency, lease)
    return Registered(id, lease / 3, lease)


@post(
    "/workers/{id:str}/claims",
    **needs(Scope.WORK),
    status_code=200,
    summary="Claim tasks",
    response_description="The claimed tasks",
    tags=["workers"],
    responses=refusals(wrong_worker_id(), WorkerNotFound()),
)
async def claim_tasks(request: ApiRequest, id: WorkerId) -> Claims:
    """For the room that the worker has; none, if none is due within the time to wait. It counts as a heartbeat."""
    given = services(request)
    worker = read_worker_id(id)
    asked: ClaimRequest = await read_body(request, _claim, "a claim")
    until = time.monotonic() + min(asked.wait, given.settings.server_time_out_in_seconds - 1)
    while True:
        async with given.pool.connection() as conn:
            beaten = await workers.beat(conn, worker)
            if beaten is None:
                raise WorkerNotFound
            tasks = [] if beaten.is_draining else await _claim_allowed(conn, worker, beaten.priorities, asked.limit)
            again = [task.id for task in tasks if task.attempt > 1]
            checkpoints = await queries.find_checkpoints(conn, again) if again else {}
        if tasks or beaten.is_draining or time.monotonic() + LOOK_AGAIN > until:
            return Claims([_told(task, given, checkpoints.get(task.id)) for task in tasks], beaten.is_draining)
        await asyncio.sleep(LOOK_AGAIN)


def _told(task: ClaimedTask, given: Services, checkpoint: bytes | None) -> Claim:
    task_type = given.registry.find(task.type)
    limit = (task_type.timeout if task_type else None) or given.settings.worker_time_out_in_seconds
    payload = Raw(task.payload.encode())
    return Claim(
        id=task.id,
        attempt=task.attempt,
        max_attempts=task.max_attempts,
        type=task.type,
        name=task.name,
        priority=Priority(task.priority),
        payload=payload,
        time_limit_seconds=limit,
        checkpoint=None if checkpoint is None else Raw(checkpoint),
    )


@post(
    "/workers/{id:str}/heartbeat",
    **needs(Scope.WORK),
    status_code=200,
    summary="Say that a worker lives",
    response_description="It was heard",
    tags=["workers"],
    responses=refusals(wrong_worker_id(), WorkerNotFound()),
)
async def beat(request: ApiRequest, id: WorkerId) -> Beat:
    """Tasks that it was given but does not run, because an answer was lost, are put back after a lease."""
    given = services(request)
    worker = read_worker_id(id)
    known: list[int] = (await read_body(request, _heartbeat, "a heartbeat")).running
    async with given.pool.connection() as conn:
        beaten = await workers.beat(conn, worker)
        if beaten is None:
            raise WorkerNotFound
        left = {id for id, _ in await queries.find_running(conn, worker)} if known else set[int]()
        strays = await workers.find_strays(conn, worker, known, given.settings.worker_lease_in_seconds)
        if strays:
            await release(conn, worker, *map(list, zip(*strays, strict=True)))
        await given.warden.look(conn)
        await given.tally.look(conn)
    return Beat(sorted(set(known) - left), beaten.is_draining)


async def _claim_allowed(
    conn: Connection, worker: int, priorities: Sequence[Priority], limit: int
) -> list[ClaimedTask]:
    """Claim what is neither paused nor about to be limited."""
    policy = await find_policy(conn)
    return await claim(conn, worker, policy.active(priorities), limit, excluded=policy.excluded)


@delete(
    "/workers/{id:str}",
    **needs(Scope.WORK),
    status_code=200,
    summary="Leave",
    response_description="It has left",
    tags=["workers"],
    responses=documented(wrong_worker_id(), WorkerNotFound(), TimeoutError()),
)
async def leave(request: ApiRequest, id: WorkerId) -> Left:
    """What it still runs is put back, without loss of an attempt."""
    worker = read_worker_id(id)
    async with services(request).pool.connection() as conn, conn.transaction():
        if await workers.beat(conn, worker) is None:
            raise WorkerNotFound
        running = sorted(await queries.find_running(conn, worker))
        if running:
            await release(conn, worker, *map(list, zip(*running, strict=True)))
        await workers.stop(conn, worker)
    return Left(len(running))
