"""What both clients can do, written once."""

import random
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec
from msgspec import Struct

from taskflow.client.answers import AddedGroup, Group, Page, Step, Task
from taskflow.client.errors import ERRORS, ApiError, Problem, StillRunning, Unreachable
from taskflow.client.steps import Ask, Steps, call
from taskflow.errors import InvalidTask
from taskflow.tracing import sending

WAIT: Final = 20.0
"""Seconds that one request waits for the end of a task; proxies may cut off longer ones."""

LONGEST_PAUSE: Final = 1.0
"""Seconds between two such requests, at most, where the server does not wait: it is stopping, most likely."""
FIRST_PAUSE: Final = 0.05

LARGEST_PAGE: Final = 500
LONGEST_KEY: Final = 255


class Calls:
    """What both clients can do."""

    retries = 3
    """So often a request that is safe to repeat is sent again after 503, 429 or no answer."""

    @call
    def enqueue(
        self,
        type: str,
        payload: Mapping[str, Any] | Struct | None = None,
        *,
        idempotency_key: str | None = None,
        **options: Any,
    ) -> Steps[int]:
        """Store a task; its id. *options* are the fields of ``POST /tasks``: ``name`` (unless given, the type),
        ``priority``, ``delay_seconds``, ``scheduled_at``, ``max_attempts``, …

        The same call with the same *idempotency_key* stores nothing more for a day: it is sent again where no answer
        comes, and BadRequest raised where the key came with another task.
        """
        given = {name: value for name, value in options.items() if value is not None}
        body: dict[str, Any] = {"name": type, "type": type, "payload": {} if payload is None else payload, **given}
        with sending([type]) as headers:
            ask = Ask(method="POST", path="/tasks", body=body, headers=headers)
            return (yield from self._send(_once(ask, idempotency_key)))["added_task_id"]

    @call
    def enqueue_many(
        self, tasks: Iterable[Mapping[str, Any]], *, idempotency_key: str | None = None
    ) -> Steps[list[int]]:
        """Store all of *tasks* or none, each a dict of the fields of ``POST /tasks``; their ids, in order."""
        body = [_task(task) for task in tasks]
        with sending([str(task.get("type")) for task in body]) as headers:
            ask = Ask(method="POST", path="/tasks/batch", body=body, headers=headers)
            return (yield from self._send(_once(ask, idempotency_key)))["added_task_ids"]

    @call
    def enqueue_group(
        self,
        tasks: Iterable[Mapping[str, Any]],
        callback: Mapping[str, Any] | None = None,
        name: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> Steps[AddedGroup]:
        """Store all of *tasks* or none; the *callback* is one more task, which runs when all have ended."""
        sent = [_task(task) for task in tasks]
        last = [] if callback is None else [_task(callback)]
        body = {"tasks": sent, "name": name} | ({"callback": last[0]} if last else {})
        with sending([str(task.get("type")) for task in sent + last]) as headers:
            ask = _once(Ask(method="POST", path="/groups", body=body, headers=headers), idempotency_key)
            return msgspec.convert((yield from self._send(ask)), AddedGroup)

    @call
    def group(self, id: int) -> Steps[Group]:
        """How many tasks of the group have each status; raises NotFound."""
        return msgspec.convert((yield from self._send(Ask(path=f"/groups/{id}", again=True))), Group)

    @call
    def get(self, id: int) -> Steps[Task]:
        """The task as it stands; raises NotFound."""
        return msgspec.convert((yield from self._send(Ask(path=f"/tasks/{id}", again=True))), Task)

    @call
    def find(self, **filter: Any) -> Steps[Page]:
        """A page of tasks; *filter* takes the parameters of ``GET /tasks``: ``status``, ``type``, ``cursor``, …"""
        return msgspec.convert((yield from self._send(_get("/tasks", filter))), Page)

    @call
    def find_all(self, *, at_most: int = 10_000, **filter: Any) -> Steps[list[Task]]:
        """The first *at_most* tasks that meet the *filter*, page by page."""
        found: list[Task] = []
        while len(found) < at_most:
            query = filter | {"limit": min(LARGEST_PAGE, at_most - len(found))}
            page = msgspec.convert((yield from self._send(_get("/tasks", query))), Page)
            found += page.tasks
            if page.next is None:
                break
            filter["cursor"] = page.next
        return found

    @call
    def change(
        self,
        action: str,
        *,
        dry_run: bool = False,
        priority: str | None = None,
        reason: str | None = None,
        **filter: Any,
    ) -> Steps[int]:
        """Do *action* (``retry``, ``cancel``, ``reprioritise``, ``delete``) to all tasks that meet the *filter*, as
        ``find`` takes it; how many it were, or with *dry_run* would be.
        """
        order = {"priority": priority, "reason": reason}
        given = {name: value for name, value in filter.items() if value is not None}
        body: dict[str, Any] = {name: value for name, value in order.items() if value is not None}
        body |= {"action": action, "filter": given, "dry_run": dry_run}
        count = 0
        while True:
            answer = yield from self._send(Ask(method="POST", path="/tasks/actions", body=body, again=dry_run))
            count += answer["count"]
            if answer["next"] is None:
                return count
            body["cursor"] = answer["next"]

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
            asked = time.monotonic()
            wait = round(max(0.0, min(began + seconds - asked, WAIT)), 3)
            query = {"wait": f"{wait:.3f}"}
            answer = yield from self._send(Ask(path=f"/tasks/{id}", query=query, again=True, wait=wait))
            task = msgspec.convert(answer, Task)
            if task.status.is_final:
                return task
            now = time.monotonic()
            if now >= began + seconds:
                raise StillRunning(task, seconds)
            if now - asked < wait / 2:
                yield min(pause, began + seconds - now)
                pause = min(2 * pause, LONGEST_PAUSE)

    @call
    def pause_queue(self, priority: str, reason: str | None = None) -> Steps[None]:
        """Start no more tasks of *priority* until it is resumed; what runs goes on."""
        yield from self._post(f"/queues/{_quoted(priority)}/pause", {"reason": reason})

    @call
    def resume_queue(self, priority: str) -> Steps[None]:
        """Take ``pause_queue`` back."""
        yield from self._post(f"/queues/{_quoted(priority)}/resume")

    @call
    def pause_type(self, type: str, reason: str | None = None) -> Steps[None]:
        """Start no more tasks of *type* until it is resumed; what runs goes on."""
        yield from self._post(f"/limits/{_quoted(type)}/pause", {"reason": reason})

    @call
    def resume_type(self, type: str) -> Steps[None]:
        """Take ``pause_type`` back."""
        yield from self._post(f"/limits/{_quoted(type)}/resume")

    @call
    def set_limit(self, type: str, **limits: float) -> Steps[None]:
        """Limit *type* by the fields of ``PUT /limits/{type}``: ``concurrency``, ``rate``, …; without any, lift all."""
        yield from self._send(Ask(method="PUT", path=f"/limits/{_quoted(type)}", body=limits, again=True))

    @call
    def add_schedule(self, name: str, rule: str, type: str, **fields: Any) -> Steps[dict[str, Any]]:
        """Make a schedule of the fields of ``POST /schedules``; as it stands, with its next ticks."""
        body: dict[str, Any] = {"payload": {}, **fields, "name": name, "rule": rule, "type": type}
        return (yield from self._post("/schedules", body))

    @call
    def pause_schedule(self, name: str, reason: str | None = None) -> Steps[dict[str, Any]]:
        """Let it not tick until it is resumed; raises NotFound."""
        return (yield from self._post(f"/schedules/{_quoted(name)}/pause", {"reason": reason}))

    @call
    def resume_schedule(self, name: str) -> Steps[dict[str, Any]]:
        """Take ``pause_schedule`` back; raises NotFound."""
        return (yield from self._post(f"/schedules/{_quoted(name)}/resume"))

    @call
    def run_schedule(self, name: str) -> Steps[int]:
        """Enqueue its task now, beside its ticks; the task's id. Raises NotFound."""
        return (yield from self._post(f"/schedules/{_quoted(name)}/run"))["added_task_id"]

    @call
    def remove_schedule(self, name: str) -> Steps[dict[str, Any]]:
        """Remove it; what it was. Its tasks stay. Raises NotFound."""
        return (yield from self._send(Ask(method="DELETE", path=f"/schedules/{_quoted(name)}")))

    @call
    def read(self, path: str, **query: Any) -> Steps[Any]:
        """The JSON that ``GET`` *path* answers, as ``read("/stats")``."""
        return (yield from self._send(_get(path, query)))

    def _post(self, path: str, body: Mapping[str, Any] | None = None) -> Steps[Any]:
        return (yield from self._send(Ask(method="POST", path=path, body=body)))

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


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _task(given: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": given.get("type"), "payload": {}, **given}


def _once(ask: Ask, key: str | None) -> Ask:
    """*ask* with an Idempotency-Key, and so one that may be sent again; raises InvalidTask for what is none."""
    if key is None:
        return ask
    if not (1 <= len(key) <= LONGEST_KEY and key.isascii() and key.isprintable()):
        raise InvalidTask("idempotency_key", f"has 1 to {LONGEST_KEY} printable characters of ASCII")
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return msgspec.structs.replace(ask, headers=ask.headers | {"Idempotency-Key": quoted}, again=True)


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
