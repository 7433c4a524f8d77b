"""Workers of other languages, over HTTP: register, claim, beat, finish, leave."""

import asyncio
import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from litestar import delete, post
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from msgspec import Meta, Raw, Struct, field

from taskflow import queries
from taskflow.api.auth import needs
from taskflow.api.body import CENTURY, check_text, decode
from taskflow.api.depth import is_deeper
from taskflow.api.media import media_type
from taskflow.api.problems import SlowBody, UnsupportedMediaType, WorkerNotFound, documented
from taskflow.api.services import ApiRequest, Services, services
from taskflow.api.workers import WorkerId, read_worker_id, wrong_worker_id
from taskflow.database import Connection
from taskflow.errors import InvalidTask, WorkerIdTaken
from taskflow.model import ClaimedTask, Failed, Outcome, Priority, Released, Retry, Succeeded
from taskflow.queue import workers
from taskflow.queue.claim import claim
from taskflow.queue.finish import release
from taskflow.queue.gates import settle
from taskflow.queue.policy import find_policy
from taskflow.queue.record import Ended, record
from taskflow.retry import Backoff
from taskflow.scopes import Scope
from taskflow.storable import is_storable, storable

MOST: Final = 1000
"""Tasks of one claim, and results of one request."""

LOOK_AGAIN: Final = 0.2
"""Seconds between two looks of a claim that waits."""

NOTHING: Final = Raw(b"null")

RESULT_LIMIT: Final = 65_536
ERROR_LIMIT: Final = 8_192

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


class Ending(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    RETRY = "retry"  # it failed: try again later, while attempts are left
    FAILED = "failed"  # it failed for good
    RELEASED = "released"  # it was not ended: somebody else shall run it, and the attempt does not count


class Result(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one attempt ended."""

    id: Id
    attempt: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    outcome: Ending
    result: Annotated[
        Raw, Meta(description=f"of a success: any JSON, up to {RESULT_LIMIT:,} bytes", extra_json_schema={})
    ] = field(default_factory=lambda: NOTHING)  # a default that the description does not have to write
    error: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="of a failure: `Type: message`, then details")
    ] = None
    delay_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=CENTURY)] | None,
        Meta(description="of a retry: when; unless given, what the task type says"),
    ] = None


class Results(Struct, frozen=True, forbid_unknown_fields=True):
    """How attempts ended; each task once."""

    results: Annotated[list[Result], Meta(max_length=MOST)]


class Recorded(Struct, frozen=True):
    """Tasks whose outcome is recorded; those that were not this worker's any more, whose outcome is dropped."""

    recorded: list[int]
    lost: list[int]


class Left(Struct, frozen=True):
    """The worker has left, and so many tasks that it still ran were put back."""

    released: int


_registration: Final = msgspec.json.Decoder(Registration)
_claim: Final = msgspec.json.Decoder(ClaimRequest)
_heartbeat: Final = msgspec.json.Decoder(Heartbeat)
_results: Final = msgspec.json.Decoder(Results)


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


@post(
    "/workers/{id:str}/results",
    **needs(Scope.WORK),
    status_code=200,
    summary="Finish tasks",
    response_description="The outcomes are recorded",
    tags=["workers"],
    responses=refusals(wrong_worker_id(), WorkerNotFound()),
)
async def finish_tasks(request: ApiRequest, id: WorkerId) -> Recorded:
    """Answers once they are durable. What was cancelled, rescued or finished before is lost, and changes nothing.

    It can be sent again when no answer came: then everything that was recorded at first is told as lost.
    """
    given = services(request)
    worker = read_worker_id(id)
    results: list[Result] = (await read_body(request, _results, "results")).results
    _check(results, given.settings.server_max_json_depth)
    async with given.pool.connection() as conn:
        if await workers.beat(conn, worker) is None:
            raise WorkerNotFound
        left = await workers.find_left(conn, worker, [result.id for result in results])
        ended = [_ended(result, *left[result.id][1:], given) for result in results if result.id in left]
        recorded = set[int]()
        await record(conn, worker, ended, recorded)
        await settle(conn, sorted(recorded))
        given.tally.add(ended, recorded)
        await given.tally.look(conn)
    lost = [result.id for result in results if result.id not in recorded]
    return Recorded(sorted(recorded), lost)


async def _claim_allowed(
    conn: Connection, worker: int, priorities: Sequence[Priority], limit: int
) -> list[ClaimedTask]:
    """Claim what is neither paused nor about to be limited."""
    policy = await find_policy(conn)
    return await claim(conn, worker, policy.active(priorities), limit, excluded=policy.excluded)


def _check(results: Sequence[Result], depth: int) -> None:
    """Raises InvalidTask for what cannot be recorded."""
    seen: set[int] = set()
    for index, result in enumerate(results):
        where = f"results[{index}]"
        if result.id in seen:
            raise InvalidTask(f"{where}.id", "given twice")
        seen.add(result.id)
        if (result.error is None) == (result.outcome in {Ending.RETRY, Ending.FAILED}):
            raise InvalidTask(f"{where}.error", "must be given with retry and failed, and only then")
        if result.delay_seconds is not None and result.outcome is not Ending.RETRY:
            raise InvalidTask(f"{where}.delay_seconds", "is for retry only")
        encoded = bytes(result.result)
        if encoded == b"null":
            continue
        if result.outcome is not Ending.SUCCEEDED:
            raise InvalidTask(f"{where}.result", "is for succeeded only")
        if len(encoded) > RESULT_LIMIT or not is_storable(encoded) or is_deeper(encoded, depth):
            problem = rf"at most {RESULT_LIMIT:,} bytes, {depth} deep, without \u0000 and half of a surrogate pair"
            raise InvalidTask(f"{where}.result", problem)


def _ended(result: Result, max_attempts: int, type: str, given: Services) -> Ended:
    task = ClaimedTask(result.id, result.attempt, max_attempts, type, "", "", "")
    return task, _outcome(result, task, given)


def _outcome(result: Result, task: ClaimedTask, given: Services) -> Outcome:
    error = storable(result.error or "")[:ERROR_LIMIT]
    match result.outcome:
        case Ending.SUCCEEDED:
            encoded = bytes(result.result)
            return Succeeded(None if encoded == b"null" else encoded)
        case Ending.RETRY if task.attempt < task.max_attempts:
            task_type = given.registry.find(task.type)
            backoff = task_type.backoff if task_type else Backoff()
            delay = backoff.delay(task.attempt, random.random)
            return Retry(error, delay if result.delay_seconds is None else timedelta(seconds=result.delay_seconds))
        case Ending.RELEASED:
            return Released("its worker gave it back")
        case _:
            return Failed(error)


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
