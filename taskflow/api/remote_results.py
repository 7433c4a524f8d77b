"""How the attempts of workers over HTTP ended."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from litestar import post
from msgspec import Meta, Raw, Struct, field

from taskflow.api.auth import needs
from taskflow.api.depth import is_deeper
from taskflow.api.problems import WorkerNotFound
from taskflow.api.remote import MOST, NOTHING, Id, read_body, refusals
from taskflow.api.services import ApiRequest, Services, services
from taskflow.api.workers import WorkerId, read_worker_id, wrong_worker_id
from taskflow.errors import InvalidTask
from taskflow.lines import LONGEST, Tail, without_passwords
from taskflow.lines import MOST as LINES
from taskflow.model import (
    CENTURY,
    ClaimedTask,
    Failed,
    KeptLines,
    Line,
    Outcome,
    Released,
    Retry,
    Succeeded,
    Time,
    is_within,
)
from taskflow.queue import workers
from taskflow.queue.gates import settle
from taskflow.queue.keep_lines import keep_lines
from taskflow.queue.record import Ended, record
from taskflow.retry import Backoff
from taskflow.scopes import Scope
from taskflow.storable import is_storable, storable

RESULT_LIMIT: Final = 65_536
ERROR_LIMIT: Final = 8_192


class Ending(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    RETRY = "retry"  # it failed: try again later, while attempts are left
    FAILED = "failed"  # it failed for good
    RELEASED = "released"  # it was not ended: somebody else shall run it, and the attempt does not count


class LoggedLine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a handler logged."""

    text: Annotated[
        str, Meta(description=f"one line, or several with a traceback; the first {LONGEST:,} characters are kept")
    ]
    level: Annotated[str, Meta(min_length=1, max_length=16)] = "info"
    at: Annotated[Time | None, Meta(description="when, with a time zone; unless given, now")] = None


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

    logs: Annotated[
        list[LoggedLine],
        Meta(max_length=LINES, description="the last lines of the attempt, oldest first"),
    ] = []


class Results(Struct, frozen=True, forbid_unknown_fields=True):
    """How attempts ended; each task once."""

    results: Annotated[list[Result], Meta(max_length=MOST)]


class Recorded(Struct, frozen=True):
    """Tasks whose outcome is recorded; those that were not this worker's any more, whose outcome is dropped."""

    recorded: list[int]
    lost: list[int]


_results: Final = msgspec.json.Decoder(Results)


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
        if kept := [(result.id, _kept(result)) for result in results if result.logs and result.id in left]:
            await keep_lines(conn, worker, kept)
        recorded = set[int]()
        await record(conn, worker, ended, recorded)
        await settle(conn, sorted(recorded))
        given.tally.add(ended, recorded)
        await given.tally.look(conn)
    lost = [result.id for result in results if result.id not in recorded]
    return Recorded(sorted(recorded), lost)


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
        for number, line in enumerate(result.logs):
            if line.at is not None and not is_within(line.at):
                raise InvalidTask(f"{where}.logs[{number}].at", "must lie in the years 1970 to 9998")
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


def _kept(result: Result) -> KeptLines:
    """The lines of *result* that have room."""
    tail, now = Tail(LINES), datetime.now(UTC)
    for line in result.logs:
        tail.hear(Line(line.at or now, storable(line.level), storable(without_passwords(line.text))[:LONGEST]))
    lines, left_out = tail.kept()
    return KeptLines(result.attempt, left_out, lines)


def _ended(result: Result, max_attempts: int, type: str, priority: str, given: Services) -> Ended:
    task = ClaimedTask(result.id, result.attempt, max_attempts, type, "", "", priority)
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
