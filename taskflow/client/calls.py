"""What both clients can do, written once."""

import random
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import httpx
import msgspec
from msgspec import Struct

from taskflow.client.answers import Page, Step, Task
from taskflow.client.errors import ERRORS, ApiError, Problem, StillRunning, Unreachable
from taskflow.client.steps import Ask, Steps, call

LONGEST_PAUSE: Final = 1.0
"""Seconds between two looks at a task that is waited for, at most; they begin with FIRST_PAUSE and double."""
FIRST_PAUSE: Final = 0.05


class Calls:
    """What both clients can do."""

    retries = 3
    """So often a request that is safe to repeat is sent again after 503, 429 or no answer."""

    @call
    def enqueue(self, type: str, payload: Mapping[str, Any] | Struct | None = None, **options: Any) -> Steps[int]:
        """Store a task; its id. *options* are the fields of ``POST /tasks``: ``name`` (unless given, the type),
        ``priority``, ``delay_seconds``, ``scheduled_at``, ``max_attempts``, …
        """
        given = {name: value for name, value in options.items() if value is not None}
        body: dict[str, Any] = {"name": type, "type": type, "payload": {} if payload is None else payload, **given}
        answer = yield from self._send(Ask(method="POST", path="/tasks", body=body))
        return answer["added_task_id"]

    @call
    def enqueue_many(self, tasks: Iterable[Mapping[str, Any]]) -> Steps[list[int]]:
        """Store all of *tasks* or none, each a dict of the fields of ``POST /tasks``; their ids, in order."""
        body: list[dict[str, Any]] = [{"name": task.get("type"), "payload": {}, **task} for task in tasks]
        answer = yield from self._send(Ask(method="POST", path="/tasks/batch", body=body))
        return answer["added_task_ids"]

    @call
    def get(self, id: int) -> Steps[Task]:
        """The task as it stands; raises NotFound."""
        return msgspec.convert((yield from self._send(Ask(path=f"/tasks/{id}", again=True))), Task)

    @call
    def find(self, **filter: Any) -> Steps[Page]:
        """A page of tasks; *filter* takes the parameters of ``GET /tasks``: ``status``, ``type``, ``cursor``, …"""
        return msgspec.convert((yield from self._send(_get("/tasks", filter))), Page)

    @call
    def history(self, id: int) -> Steps[list[Step]]:
        """The task's changes of status, oldest first; raises NotFound."""
        answer = yield from self._send(Ask(path=f"/tasks/{id}/history", again=True))
        return msgspec.convert(answer["history"], list[Step])

    @call
    def cancel(self, id: int, reason: str | None = None) -> Steps[Task]:
        """Cancel a queued or running task; raises NotFound, or Conflict if it has ended."""
        body = None if reason is None else {"reason": reason}
        return msgspec.convert((yield from self._send(Ask(method="POST", path=f"/tasks/{id}/cancel", body=body))), Task)

    @call
    def retry(self, id: int) -> Steps[Task]:
        """Queue a failed or cancelled task again; raises NotFound, or Conflict if it is neither."""
        return msgspec.convert((yield from self._send(Ask(method="POST", path=f"/tasks/{id}/retry"))), Task)

    @call
    def wait(self, id: int, seconds: float = 60.0) -> Steps[Task]:
        """The task once it has ended, however it did; raises StillRunning after *seconds*."""
        began, pause = time.monotonic(), FIRST_PAUSE
        while True:
            answer = yield from self._send(Ask(path=f"/tasks/{id}", again=True))
            task = msgspec.convert(answer, Task)
            left = seconds - (time.monotonic() - began)
            if task.status.is_final:
                return task
            if left <= 0:
                raise StillRunning(task, seconds)
            yield min(pause, left)
            pause = min(2 * pause, LONGEST_PAUSE)

    @call
    def read(self, path: str, **query: Any) -> Steps[Any]:
        """The JSON that ``GET`` *path* answers, as ``read("/stats")``."""
        return (yield from self._send(_get(path, query)))

    def _send(self, ask: Ask) -> Steps[Any]:
        """The JSON that answers *ask*; raises ApiError or Unreachable."""
        for tries in range(self.retries + 1):
            try:
                answer = yield ask
            except httpx.TransportError as error:
                if not ask.again or tries == self.retries:
                    raise Unreachable(f"{ask.method} {ask.path}: {error or type(error).__name__}") from error
                yield _backoff(tries)
                continue
            assert answer is not None
            if answer.is_success:
                return msgspec.json.decode(answer.content)
            # 429 comes before anything is done.
            if tries == self.retries or not (answer.status_code == 429 or (ask.again and answer.status_code == 503)):
                raise ERRORS.get(answer.status_code, ApiError)(answer.status_code, _problem(answer))
            yield max(_backoff(tries), _retry_after(answer))
        raise AssertionError("unreachable")


def _get(path: str, query: Mapping[str, Any]) -> Ask:
    given = {name: _parameter(value) for name, value in query.items() if value is not None}
    return Ask(path=path, query=given, again=True)


def _parameter(value: Any) -> str:
    return value if isinstance(value, str) else str(msgspec.to_builtins(value))


def _problem(answer: httpx.Response) -> Problem:
    try:
        return msgspec.json.decode(answer.content, type=Problem)
    except ValueError:  # a proxy's page, for instance
        return Problem(answer.reason_phrase, answer.text[:200])


def _backoff(tries: int) -> float:
    return 0.1 * 2**tries * random.uniform(0.5, 1.0)  # noqa: S311


def _retry_after(answer: httpx.Response) -> float:
    given = answer.headers.get("Retry-After", "0")
    return min(float(given), 30.0) if given.isdigit() else 0.0
