"""One attempt: from a claimed task to its outcome."""

import asyncio
import inspect
import random
import traceback
from collections.abc import Iterator
from concurrent.futures import Executor
from contextvars import copy_context
from datetime import timedelta
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import structlog
from msgspec import Struct

from taskflow.context import Context
from taskflow.errors import Fail, HandlerDied, RetryAfter, TaskflowError
from taskflow.model import DONE, Cancelled, ClaimedTask, Failed, Outcome, Released, Retry, Succeeded
from taskflow.registry import TaskType
from taskflow.retry import Backoff
from taskflow.storable import is_storable, storable

if TYPE_CHECKING:
    from taskflow.worker.runner import Runner

log = structlog.get_logger(__name__)

ERROR_LIMIT: Final = 8_192
"""Characters of a kept error, its traceback included."""

RESULT_LIMIT: Final = 65_536
"""Bytes of a kept result as JSON."""


class Interruption(Enum):
    """Why a running attempt is stopped from outside."""

    TIMED_OUT = "it ran into its time limit"
    RELEASED = "its worker stops"
    CANCELLED = "its task was cancelled"


class IsolatedFailure(TaskflowError):
    """The handler failed in its own process; the message is what is kept, with the traceback of there."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error if isinstance(outcome, Retry | Failed) else "")
        self.outcome = outcome


class Attempt(Struct, eq=False):
    """A claimed task that runs. ``limit`` is in seconds, ``began`` on the monotonic clock."""

    task: ClaimedTask
    task_type: TaskType | None
    limit: float
    began: float
    interruption: Interruption | None = None
    job: asyncio.Task[Any] | None = None
    reported: bool = False
    context: Context | None = None

    @property
    def deadline(self) -> float:
        """When the attempt has to end, on the monotonic clock."""
        return self.began + self.limit

    @property
    def can_be_stopped(self) -> bool:
        """Whether it can be ended from outside, as a thread cannot."""
        return self.task_type is not None and (self.task_type.is_async or self.task_type.is_isolated)

    def interrupt(self, why: Interruption) -> None:
        """Stop the handler: one in a thread can only be told, through its context; any other is ended now."""
        self.interruption = why
        if self.context is not None:
            self.context.stop()
        if self.job is not None and self.can_be_stopped:
            self.job.cancel()

    def interrupted(self) -> Outcome:
        """The outcome of an attempt that was interrupted."""
        match self.interruption:
            case Interruption.TIMED_OUT:
                error = f"TimeoutError: the attempt took longer than its {self.limit:g} s"
                return self._failed(error, TimeoutError)
            case Interruption.RELEASED:
                return Released(Interruption.RELEASED.value)
            case Interruption.CANCELLED:
                return Cancelled()
            case None:
                return self._failed("CancelledError: the handler cancelled itself", asyncio.CancelledError)

    def _failed(self, error: str, kind: type[BaseException]) -> Outcome:
        task_type = self.task_type
        if task_type is not None and not task_type.retries(kind):
            return Failed(error)
        return after_failure(self.task, task_type.backoff if task_type is not None else Backoff(), error)


async def run_attempt(attempt: Attempt, threads: Executor, runner: "Runner | None" = None) -> Outcome:
    """Run the handler of *attempt*, a sync one in *threads*, and say what came of it. Never raises."""
    task, task_type = attempt.task, attempt.task_type
    if task_type is None:
        return Failed(f"UnknownTaskType: this worker knows no task type {task.type!r}; check its --app")
    try:
        payload = task_type.decode(task.payload)
    except BaseException as error:  # noqa: BLE001 – a payload type's own code may raise anything
        return Failed(describe_error(error, "the payload does not fit the task type"))
    try:
        if runner is not None and not (task_type.is_plain and runner.is_plain):
            result = await runner.call(attempt, payload, threads)
        elif task_type.is_async:
            result = await task_type.call(payload)
        else:
            result = await call_in_thread(threads, task_type, payload)
    except asyncio.CancelledError:
        return attempt.interrupted()
    except BaseException as error:  # noqa: BLE001 – the handler's own: data here
        if attempt.interruption is not None and attempt.can_be_stopped:
            log.warning("attempt.cleanup_failed", error=describe_error(error).partition("\n")[0])
            return attempt.interrupted()
        return outcome_of_error(task, task_type, error)
    return DONE if result is None else Succeeded(encode_result(result))


async def call_in_thread(
    threads: Executor, task_type: TaskType, payload: object, context: Context | None = None
) -> object:
    """Call a sync handler in *threads*, with the context variables of the caller."""
    variables = copy_context()
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(threads, lambda: variables.run(call_sync, task_type, payload, context))


def call_sync(task_type: TaskType, payload: object, context: Context | None) -> object:
    """Call a sync handler; what it raises can be passed on by any future."""
    try:
        result = task_type.call(payload, context)
    except (StopIteration, GeneratorExit) as error:  # no future can pass them on, and the attempt would never end
        raise RuntimeError(f"the handler raised {type(error).__name__}") from error
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("the handler returned a coroutine; register the async function itself, or await it")
    return result


def outcome_of_error(task: ClaimedTask, task_type: TaskType, error: BaseException) -> Outcome:
    """What comes of an attempt whose handler raised *error*."""
    if isinstance(error, IsolatedFailure):
        return error.outcome
    described = describe_error(error, with_trace=not isinstance(error, Fail | RetryAfter | HandlerDied))
    causes = list(causes_of(error))
    others = [type(cause) for cause in causes if not isinstance(cause, RetryAfter)]
    is_final = bool(others) and not task_type.retries(type(error), *others)
    if is_final or any(isinstance(cause, Fail) for cause in causes):
        return Failed(described)
    if delays := [cause.seconds for cause in causes if isinstance(cause, RetryAfter)]:
        return Retry(described, timedelta(seconds=max(delays))) if _is_not_last(task) else Failed(described)
    return after_failure(task, task_type.backoff, described)


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """*error*, or the errors that it holds if it is a group, such as those of ``asyncio.TaskGroup``."""
    unread = [error]
    while unread:
        one = unread.pop()
        if isinstance(one, BaseExceptionGroup):
            unread += reversed(cast("BaseExceptionGroup[BaseException]", one).exceptions)
        else:
            yield one


def after_failure(task: ClaimedTask, backoff: Backoff, error: str) -> Outcome:
    """Try again later while attempts are left."""
    return Retry(error, backoff.delay(task.attempt, random.random)) if _is_not_last(task) else Failed(error)


def _is_not_last(task: ClaimedTask) -> bool:
    return task.attempt < task.max_attempts


def describe_error(error: BaseException, context: str = "", *, with_trace: bool = True) -> str:
    """What is kept of *error*: ``Type: message`` on the first line, then the traceback; text that Postgres can hold."""
    head = f"{type(error).__name__}: {_message(error)}" + (f" ({context})" if context else "")
    trace = "".join(traceback.format_exception(error)) if with_trace and not context and error.__traceback__ else ""
    half = ERROR_LIMIT // 2 - 1
    return f"{storable(head[:half])[:half]}\n{storable(trace[-half:])[-half:]}".strip()


def _message(error: BaseException) -> str:
    """The message of *error*, and of a group the first lines of what it holds."""
    try:
        if not isinstance(error, BaseExceptionGroup):
            return str(error)
        inner = islice(causes_of(cast("BaseExceptionGroup[BaseException]", error)), 10)
        told = [f"{type(one).__name__}: {_message(one)}".partition("\n")[0] for one in inner]
        return f"{error}: {'; '.join(told)}"
    except BaseException as broken:  # noqa: BLE001 – the user's __str__
        return f"(its message cannot be had: {type(broken).__name__})"


def encode_result(result: object) -> bytes | None:
    """*result* as JSON, or None, with a line in the log, if it cannot be kept."""
    try:
        encoded = msgspec.json.encode(result)
        encoded.decode()
        msgspec.json.decode(encoded, type=msgspec.Raw)  # a msgspec.Raw may hold any bytes, and results share a document
    except BaseException as error:  # noqa: BLE001 – the user's own types may raise anything
        log.warning("result.dropped", reason=f"it cannot be written as JSON: {_message(error)}")
        return None
    if len(encoded) > RESULT_LIMIT:
        log.warning("result.dropped", reason=f"{len(encoded)} bytes are more than {RESULT_LIMIT}")
        return None
    if not is_storable(encoded):
        log.warning("result.dropped", reason="its texts hold a NUL or half of a surrogate pair")
        return None
    return encoded
