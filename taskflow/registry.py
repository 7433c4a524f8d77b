"""Task types: a stable name, a typed payload, a handler. Users register theirs with ``@task``."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, get_type_hints

import msgspec
from msgspec import Raw, Struct

from taskflow.context import Context, Middleware
from taskflow.errors import AppNotLoaded, DuplicateTaskType, InvalidSchedule, InvalidTask, UnknownTaskType
from taskflow.lines import MOST as MOST_LINES
from taskflow.model import Limit, Missed, NewSchedule, Priority
from taskflow.recurrence import check_name, parse_rule
from taskflow.retry import Backoff

Handler = Callable[..., Any]

Errors = type[BaseException] | Sequence[type[BaseException]]

SAMPLES = "taskflow.samples"
"""The app that is loaded where the user names none."""


class TaskType(Struct, frozen=True, kw_only=True):
    """What the worker knows of one task type. ``timeout`` is in seconds; None means the worker's own."""

    name: str
    handler: Handler
    payload_type: Any
    takes_payload: bool
    takes_context: bool
    is_async: bool
    is_isolated: bool
    max_attempts: int
    timeout: float | None
    backoff: Backoff
    retry_on: tuple[type[BaseException], ...]
    no_retry_on: tuple[type[BaseException], ...]
    limit: Limit | None
    keep_logs: int
    decode: Callable[[bytes | str], Any]  # the typed payload; raises msgspec.ValidationError where it does not fit
    is_plain: bool  # it takes no more than its payload, and nothing is kept of it

    def schema(self) -> dict[str, Any]:
        """JSON Schema of the payload; `{"type": "object"}` where it has a type that msgspec cannot describe."""
        try:
            return msgspec.json.schema(self.payload_type)
        except TypeError:
            return {"type": "object"}

    def retries(self, error: type[BaseException], *causes: type[BaseException]) -> bool:
        """Whether an attempt that ended in such an *error* is tried again.

        A group of *causes* is if each of them were, or ``retry_on`` names groups.
        """
        if any(issubclass(one, self.no_retry_on) for one in (error, *causes)):
            return False
        return issubclass(error, self.retry_on) or (
            bool(causes) and all(issubclass(one, self.retry_on) for one in causes)
        )

    def call(self, payload: Any, context: Context | None = None) -> Any:
        """Call the handler: an awaitable for an async one, the result for a sync one."""
        if self.takes_context:
            return self.handler(payload, context)
        return self.handler(payload) if self.takes_payload else self.handler()


class Registry:
    """The task types of one app."""

    def __init__(self) -> None:
        self._types: dict[str, TaskType] = {}
        self._schedules: dict[str, NewSchedule] = {}
        self.middlewares: list[Middleware] = []

    def __iter__(self) -> Iterator[TaskType]:
        return iter(self._types.values())

    def __contains__(self, name: str) -> bool:
        return name in self._types

    def find(self, name: str) -> TaskType | None:
        """The task type of this name, or None."""
        return self._types.get(name)

    def names(self) -> list[str]:
        """The registered names, sorted."""
        return sorted(self._types)

    def task(
        self,
        name: str,
        *,
        payload: Any = None,
        max_attempts: int = 5,
        timeout: float | None = None,
        backoff: Backoff | None = None,
        retry_on: Errors = (BaseException,),
        no_retry_on: Errors = (),
        schedule: str | None = None,
        time_zone: str = "UTC",
        limit: Limit | None = None,
        keep_logs: int = 0,
        isolation: Literal["process"] | None = None,
    ) -> Callable[[Handler], Handler]:
        """Register the decorated function, sync or async, as the handler of task type *name*.

        The payload's type is the annotation of the function's first parameter, or *payload*: a msgspec Struct, or
        anything msgspec can decode from a JSON object. A function without parameters ignores its payload; one with two
        gets its ``Context`` as well.
        *timeout* is in seconds per attempt. An attempt that ends in an error of *retry_on*, but none of *no_retry_on*,
        is tried again after the *backoff*; one that runs into its time limit ends in TimeoutError. *limit* holds for
        all workers together. Of each attempt the last *keep_logs* lines of its logs are kept, 1,000 at most.
        With the *isolation* ``process``, a sync function runs in a process of its own, which is killed to stop it.
        *schedule* is the rule of a schedule of this name, with an empty payload. Raises DuplicateTaskType if the name
        is taken, InvalidSchedule for a rule that cannot be read.
        """
        if not 1 <= len(name) <= 128:
            raise ValueError(f"a task type's name has 1 to 128 characters; got {len(name)}")
        if not 1 <= max_attempts < 2**31 or not (timeout is None or timeout > 0):
            raise ValueError(f"task type {name!r} wants 1 <= max_attempts < 2**31 and timeout > 0")

        if not 0 <= keep_logs <= MOST_LINES:
            raise ValueError(f"task type {name!r} wants 0 <= keep_logs <= {MOST_LINES}")

        def register(function: Handler) -> Handler:
            if (other := self._types.get(name)) is not None:
                raise DuplicateTaskType(name, _where(other.handler), _where(function))
            if isolation is not None and inspect.iscoroutinefunction(function):
                raise TypeError(f"{_where(function)} is async; only a sync function runs in a process of its own")
            parameters, payload_type = _payload_of(function, payload)
            self._types[name] = TaskType(
                name=name,
                handler=function,
                payload_type=payload_type,
                takes_payload=parameters > 0,
                takes_context=parameters == 2,
                is_plain=parameters < 2 and not keep_logs and isolation is None,
                is_async=inspect.iscoroutinefunction(function),
                is_isolated=isolation == "process",
                max_attempts=max_attempts,
                timeout=timeout,
                backoff=backoff or Backoff(),
                retry_on=_classes(retry_on),
                no_retry_on=_classes(no_retry_on),
                limit=limit,
                keep_logs=keep_logs,
                decode=msgspec.json.Decoder(payload_type).decode,
            )
            if schedule is not None:
                self.schedule(name, schedule, type=name, time_zone=time_zone)
            return function

        return register

    def middleware(self, function: Middleware) -> Middleware:
        """Have *function* called around each call of a handler, within those that were registered before it.

        It is awaited with the attempt's ``Context`` and ``call_next``, and answers the result; what it raises is what
        the handler raised, as far as the attempt is concerned.
        """
        if not inspect.iscoroutinefunction(function):
            raise TypeError(f"{_where(function)} must be an async function of (context, call_next)")
        self.middlewares.append(function)
        return function

    def schedule(
        self,
        name: str,
        rule: str,
        *,
        type: str,
        payload: object = None,
        time_zone: str = "UTC",
        priority: Priority | str = Priority.NORMAL,
        max_attempts: int | None = None,
        missed: Missed | str = Missed.ONCE,
        tick_field: str | None = None,
    ) -> None:
        """Declare the schedule *name*: at each tick of *rule*, a task of *type* with *payload* is enqueued.

        *payload* is anything that JSON can write as an object; the time of the tick is put into its *tick_field*.
        *max_attempts* is what the task type says, unless given. Raises InvalidSchedule.
        """
        check_name(name)
        if name in self._schedules:
            raise InvalidSchedule("name", f"there are two schedules {name!r}; give one another name")
        parsed = parse_rule(rule, time_zone)
        try:
            body = Raw(msgspec.json.encode({} if payload is None else payload))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidSchedule("payload", f"cannot be written as JSON: {error}") from error
        self._schedules[name] = NewSchedule(
            name=name,
            rule=parsed.text,
            time_zone=time_zone,
            type=type,
            payload=body,
            priority=Priority(priority),
            max_attempts=max_attempts or 0,
            missed=Missed(missed),
            tick_field=tick_field,
        )

    def schedules(self) -> list[NewSchedule]:
        """What was declared, by name; raises InvalidSchedule if the payload of one does not fit its task type."""
        return [self.check_schedule(schedule) for _, schedule in sorted(self._schedules.items())]

    def check_schedule(self, schedule: NewSchedule) -> NewSchedule:
        """*schedule*, with its task type's max_attempts unless it has its own; raises InvalidSchedule."""
        payload = bytes(schedule.payload)
        if schedule.tick_field is not None and payload.startswith(b"{"):
            payload = msgspec.json.encode({**msgspec.json.decode(payload), schedule.tick_field: "2000-01-01T00:00:00Z"})
        try:
            task_type = self.validate(schedule.type, payload)
        except InvalidTask as error:
            raise InvalidSchedule(error.field, f"{error.problem} (schedule {schedule.name!r})") from error
        except UnknownTaskType as error:
            raise InvalidSchedule("type", f"{error} (schedule {schedule.name!r})") from error
        return msgspec.structs.replace(schedule, max_attempts=schedule.max_attempts or task_type.max_attempts)

    def validate(self, name: str, payload: bytes | Raw) -> TaskType:
        """The task type that *payload* fits; raises UnknownTaskType or InvalidTask (field ``payload…``)."""
        task_type = self._types.get(name)
        if task_type is None:
            raise UnknownTaskType(name, self.names())
        try:
            task_type.decode(bytes(payload))
        except (msgspec.ValidationError, ValueError, RecursionError) as error:
            raise InvalidTask(*_fault(error)) from error
        return task_type


def _where(function: Handler) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _classes(errors: Errors) -> tuple[type[BaseException], ...]:
    return (errors,) if isinstance(errors, type) else tuple(errors)


def _payload_of(function: Handler, given: Any) -> tuple[int, Any]:
    """How many of payload and context *function* takes, and the payload's type."""
    parameters = list(inspect.signature(function).parameters.values())
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if not required:
        return 0, dict[str, Any] if given is None else given
    hints = get_type_hints(function, include_extras=True)
    payload_type, *others = (hints.get(p.name) for p in required)
    if payload_type is Context or len(others) > 1 or (others and others[0] not in (Context, None)):
        raise TypeError(f"{_where(function)} must take the payload, or the payload and its taskflow.Context")
    return len(required), given or payload_type or dict[str, Any]


def _fault(error: Exception) -> tuple[str, str]:
    """The payload's field at fault, and what is wrong, out of msgspec's message (``… - at `$.to` ``)."""
    problem, _, path = str(error).partition(" - at `$")
    return "payload" + path.rstrip("`"), problem


registry = Registry()
"""Where ``@task`` registers."""

task = registry.task
middleware = registry.middleware
schedule = registry.schedule


def load(modules: Iterable[str]) -> Registry:
    """Import the modules that hold the user's task types, as seen from the working directory too.

    Raises AppNotLoaded with the reason if one cannot be imported, or none of them registers a task type, and
    InvalidSchedule if the payload of a schedule does not fit its task type.
    """
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    names = list(modules) or [SAMPLES]
    for module in names:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise AppNotLoaded(module, f"{type(error).__name__}: {error}") from error
    if not registry.names():
        raise AppNotLoaded(", ".join(names), "it registers no task type with @task")
    registry.schedules()
    return registry
