"""Every error that Taskflow raises on purpose: one base, a message that says what to do, data as attributes."""

import re
from datetime import datetime, timedelta
from typing import Final

LONGEST_DELAY: Final = 366 * 86_400
"""Seconds."""


FIELD_NAMED: Final = re.compile(r"field `([^`]*)`")
"""In msgspec's message about a missing or an unknown field."""


def fault(error: Exception) -> tuple[str, str]:
    """The field at fault, such as ``after[0]`` (empty: all of it), and what is wrong, out of msgspec's message."""
    problem, _, path = str(error).partition(" - at `$")
    if named := FIELD_NAMED.search(problem):
        path = f"{path.strip('.`')}.{named[1]}"
    return path.strip(".`"), problem


class TaskflowError(Exception):
    """The base of all errors raised by Taskflow."""


class Fail(TaskflowError):
    """Raised by a handler: the task fails for good, whatever attempts are left."""


class RetryAfter(TaskflowError):
    """Raised by a handler: the attempt failed; the next one, if any are left, is due after *delay* (seconds)."""

    def __init__(self, delay: float | timedelta, reason: str = "") -> None:
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
        if not 0 <= seconds <= LONGEST_DELAY:
            raise ValueError(f"a retry comes after 0 to {LONGEST_DELAY} seconds; got {seconds}")
        super().__init__(reason or f"try again in {seconds:g} s")
        self.seconds = seconds


class HandlerDied(TaskflowError):
    """The process of an isolated handler ended before the handler did."""

    def __init__(self, how: str) -> None:
        super().__init__(f"the handler's process is gone: {how}")


class SettingsError(TaskflowError):
    """A setting cannot be used; the message names its variable."""

    def __init__(self, variable: str, problem: str) -> None:
        super().__init__(f"{variable}: {problem}")
        self.variable = variable


class UnknownTaskType(TaskflowError):
    """No handler is registered for this task type."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"unknown task type {name!r}; known are {', '.join(sorted(known)) or 'none'}")
        self.name = name
        self.known = known


class InvalidTask(TaskflowError):
    """A task cannot be enqueued as given; *field* names what is at fault (a path such as ``payload.to``)."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class KeyTaken(TaskflowError):
    """A live task has this unique_key already."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"unique_key: {problem}")


class KeyReused(TaskflowError):
    """The Idempotency-Key was sent before, with another request."""

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was sent with another request; use a new key for each")


class InvalidSchedule(TaskflowError):
    """A schedule cannot be kept as given; *field* names what is at fault."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class DuplicateTaskType(TaskflowError):
    """Two handlers are registered under one task type."""

    def __init__(self, name: str, first: str, second: str) -> None:
        super().__init__(f"task type {name!r} is registered by {first} and by {second}; give one another name")
        self.name = name


class AppNotLoaded(TaskflowError):
    """The module that holds the user's task types cannot be imported."""

    def __init__(self, module: str, reason: str) -> None:
        super().__init__(f"cannot load {module!r}: {reason}; check --app or TASKFLOW_APP")
        self.module = module


class WorkerIdTaken(TaskflowError):
    """Another live worker holds this id."""

    def __init__(self, name: str, host: str, pid: int, since: datetime) -> None:
        super().__init__(
            f"worker {name} is already running on {host} (pid {pid}) since {since:%Y-%m-%d %H:%M:%S %Z}; "
            "choose another --id"
        )
        self.name = name
        self.host = host
        self.pid = pid
        self.since = since


class PresenceLost(TaskflowError):
    """The others took this worker for gone: its tasks run elsewhere, so it must stop."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"worker {name} stops: {reason}; start it again under any id")
        self.name = name
        self.reason = reason


class DatabaseUnavailable(TaskflowError):
    """Postgres cannot be reached, or has no connection left."""
