"""Enqueue many tasks at once: all of them, or none."""

import asyncio
import re
from collections.abc import Sequence
from itertools import islice
from typing import Final

import msgspec
import psycopg
from litestar import post
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from msgspec import Raw, Struct

from taskflow import events
from taskflow.api.auth import needs
from taskflow.api.body import TaskRequest, read_task
from taskflow.api.enqueuer import LARGEST, REFUSED, refusal
from taskflow.api.media import media_type
from taskflow.api.once import read_key, store_once
from taskflow.api.problems import (
    InvalidBatch,
    InvalidRequest,
    SlowBody,
    TaskError,
    UnsupportedMediaType,
    documented,
    problem_of,
)
from taskflow.api.services import ApiRequest, Services, services
from taskflow.database import Connection
from taskflow.errors import InvalidTask, KeyReused, TaskflowError, UnknownTaskType
from taskflow.model import NewTask, OnConflict
from taskflow.queue.enqueue import enqueue_many
from taskflow.scopes import Scope
from taskflow.tracing import sending, traced

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"

BREATH: Final = 50_000
"""Bytes to read before other requests have their turn; a few milliseconds."""

MANY_COMMAS: Final = 1_000_000
"""An array that may have more elements is checked for tasks before it is taken apart: `1,` takes 70 bytes as a Raw."""

LINES: Final = re.compile(rb"\S[^\n]*")
"""What is not blank of a line."""

ESCAPES: Final = re.compile(rb"\\(?:(u[dD][89abAB]..\\u[dD][c-fC-F]..)|(u[dD][89a-fA-F]..)|.)", re.DOTALL)
"""Escapes in JSON: the first group is a surrogate pair, the second is half of one."""

MANY_ESCAPES: Final = 100_000
"""Where there are more, no half of a surrogate pair is looked for: it would take longer than 50 ms."""

_array: Final = msgspec.json.Decoder(list[Raw])
_tasks: Final = msgspec.json.Decoder(list[TaskRequest])


class AddedTasks(Struct, frozen=True):
    """All tasks are stored; the ids come in the order of the tasks."""

    added_task_ids: list[int]


@post(
    "/tasks/batch",
    **needs(Scope.ENQUEUE),
    status_code=200,
    summary="Enqueue many tasks",
    response_description="They are stored",
    tags=["tasks"],
    responses=documented(
        InvalidBatch([TaskError(index=3, field="payload.to", detail="Expected `str`, got `int`")], given=10),
        KeyReused(),
        RequestEntityTooLarge(),
        UnsupportedMediaType(detail="the body must be application/json or application/x-ndjson"),
        SlowBody(),
        TimeoutError(),
    ),
)
async def add_tasks(request: ApiRequest) -> AddedTasks:
    """All or nothing, in one transaction: either a JSON array of tasks, or one task a line as `application/x-ndjson`.

    Each error comes with the index of its task, counted from 0; blank lines do not count. With an `Idempotency-Key` it
    can be sent again for a day without storing anything twice.
    """
    is_array = media_type(request, JSON, NDJSON) == JSON
    given = services(request)
    body = await request.body()
    most = given.settings.server_max_batch_tasks
    pieces = split_array(body) if is_array else split_lines(body, most)
    if len(pieces) > most:
        raise InvalidRequest(f"a batch has at most {most:,} tasks")
    tasks = await read_tasks(pieces, given)
    with sending([task.type for task in tasks], request.headers) as headers:
        return AddedTasks(await _add(request, traced(tasks, headers), body))


async def _add(request: ApiRequest, tasks: Sequence[NewTask], body: bytes) -> list[int]:
    given, stored = services(request), 0

    async def store_all(conn: Connection) -> list[int]:
        nonlocal stored
        stored = len(ids := await store(conn, tasks))
        return ids

    if key := read_key(request):
        ids = await store_once(request, key, body, store_all)
    else:
        async with given.pool.connection() as conn:
            ids = await store_all(conn)
    given.enqueuer.stored += stored
    return ids


def split_array(body: bytes) -> list[Raw]:
    """The elements of the array; raises InvalidRequest if it is none."""
    try:
        if body.count(b",") > MANY_COMMAS:
            _tasks.decode(body)
        return _array.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the body: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
    except ValueError as error:
        if body.count(b"\\") <= MANY_ESCAPES:
            without_halves = ESCAPES.sub(lambda escape: rb"\u0000" if escape[2] else escape[0], body)
            if without_halves != body:  # its tasks are refused for U+0000 instead, each with its index
                return split_array(without_halves)
        raise InvalidRequest(f"the body is not JSON in UTF-8: {error}") from error


def split_lines(body: bytes, most: int) -> list[bytes]:
    """The lines that are not blank, *most* and one at most."""
    return [line[0] for line in islice(LINES.finditer(body), most + 1)]


async def read_tasks(pieces: Sequence[Raw | bytes], given: Services) -> list[NewTask]:
    """The tasks that *pieces* ask for; raises InvalidBatch with what is wrong with each."""
    tasks: list[NewTask] = []
    errors: list[TaskError] = []
    keys: set[str] = set()
    largest = given.settings.server_max_body_bytes
    read = 0
    for index, piece in enumerate(pieces):
        body = bytes(piece)
        if (read := read + len(body)) > BREATH:
            await asyncio.sleep(0)
            read = 0
        try:
            if len(body) > largest:
                raise InvalidRequest(f"a task has at most {largest:,} bytes")
            task = read_task(body, given.registry, given.settings)
            _check_key(task, keys)
            tasks.append(task)
        except (InvalidTask, UnknownTaskType, InvalidRequest) as error:
            errors.append(_error(index, error))
    if errors:
        raise InvalidBatch(errors, given=len(pieces))
    return tasks


def _check_key(task: NewTask, keys: set[str]) -> None:
    """Raises InvalidTask if the unique_key of *task* is among the earlier *keys*; adds it to them."""
    if task.unique_key is None:
        return
    if task.on_conflict is not OnConflict.REJECT:
        raise InvalidTask("on_conflict", "a batch can only reject")
    if task.unique_key in keys:
        raise InvalidTask("unique_key", "an earlier task of the batch has it")
    keys.add(task.unique_key)


async def store(conn: Connection, tasks: Sequence[NewTask]) -> list[int]:
    """Store *tasks* in one transaction; raises InvalidBatch if Postgres refuses one of them."""
    ids: list[int] = []
    first = 0
    try:
        async with conn.transaction():
            for first in range(0, len(tasks), LARGEST):
                ids += await enqueue_many(conn, tasks[first : first + LARGEST])
            await events.tell_within(conn, ids)
    except REFUSED as error:
        index, refused = await find_refused(conn, tasks[first : first + LARGEST])
        raise refused_at(first + index, refused or error, given=len(tasks)) from error
    return ids


def refused_at(index: int, error: psycopg.Error, given: int) -> InvalidBatch:
    """What to tell of the task at *index*, of so many *given*, that Postgres refuses."""
    return InvalidBatch([_error(index, refusal(error))], given)


def _error(index: int, error: TaskflowError) -> TaskError:
    problem = problem_of(error)
    return TaskError(index=index, field=problem.field, detail=problem.detail)


async def find_refused(conn: Connection, tasks: Sequence[NewTask]) -> tuple[int, psycopg.Error | None]:
    """The index of the first of *tasks* that Postgres refuses, by halves, and with what words; it stores none of them.

    No words if Postgres would take that one by now.
    """
    low, high = 0, len(tasks) - 1
    while low < high:
        middle = (low + high) // 2
        if await _refusal_of(conn, tasks[low : middle + 1]):
            high = middle
        else:
            low = middle + 1
    return low, await _refusal_of(conn, tasks[low : low + 1])  # the words for several may be another one's


async def _refusal_of(conn: Connection, tasks: Sequence[NewTask]) -> psycopg.Error | None:
    try:
        async with conn.transaction(force_rollback=True):
            await enqueue_many(conn, tasks)
    except REFUSED as error:
        return error
    return None
