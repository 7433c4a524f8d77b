"""One task: how it came to be as it is, and what can be done about it."""

import shlex
from typing import Any, Final, NamedTuple

import msgspec
from litestar import get, post
from litestar.params import FromPath
from litestar.response import Redirect, Template
from msgspec import Raw

from taskflow import events, queries
from taskflow.api.auth import shows
from taskflow.api.body import check_text
from taskflow.api.problems import TaskNotFound
from taskflow.api.services import ApiRequest, services
from taskflow.api.tasks import read_id
from taskflow.bulk import APPLIES_TO, Action
from taskflow.dashboard.filters import COUNTED
from taskflow.dashboard.pages import HOME, done, form_of, page, snapshot
from taskflow.database import Connection
from taskflow.model import KeptLines, Priority, Status, Time
from taskflow.queries import GroupView, TaskView, find_group, find_lines
from taskflow.queries.links import LISTED, AttemptView, Links, find_attempts, find_links
from taskflow.queue.cancel import cancel
from taskflow.queue.delete import delete_final
from taskflow.queue.recover import retry_by_hand
from taskflow.queue.reprioritise import reprioritise
from taskflow.queue.run_now import run_now
from taskflow.scopes import Scope

LONGEST: Final = 20_000
"""Characters of a payload or a result that a page shows."""


class Step(NamedTuple):
    """Something that happened to the task."""

    at: Time
    status: str
    told: str


class Sight(NamedTuple):
    """All that the page shows."""

    task: TaskView
    attempts: list[AttemptView]
    links: Links
    group: GroupView | None
    logs: list[KeptLines]


async def look(conn: Connection, id: int) -> Sight:
    """Raises TaskNotFound."""
    task, links = await queries.find_task(conn, id), await find_links(conn, id)
    if task is None or links is None:
        raise TaskNotFound
    group = links.group or links.ends
    return Sight(
        task,
        await find_attempts(conn, id),
        links,
        await find_group(conn, group, COUNTED + 1) if group else None,
        await find_lines(conn, id),
    )


def timeline(task: TaskView, attempts: list[AttemptView]) -> list[Step]:
    """What happened, the latest first."""
    steps: list[Step] = []
    for one in attempts:
        by = f"attempt {one.attempt}" + (f" by {one.worker}" if one.worker else "")
        if one.reason is not None and (again := one.requeued_at or one.ended_at):
            steps.append(Step(again, Status.QUEUED, one.reason))
        if one.ended_at is not None:
            steps.append(Step(one.ended_at, one.outcome, by if one.started_at else "before it began"))
        if one.started_at is not None:
            steps.append(Step(one.started_at, Status.RUNNING, by))
    return [*steps, Step(task.created_at, Status.QUEUED, "enqueued")]


def as_curl(request: ApiRequest, task: TaskView, links: Links) -> str:
    """A command that enqueues such a task again."""
    body: dict[str, Any] = {"name": task.name, "type": task.type, "priority": task.priority, "payload": task.payload}
    body |= {key: value for key in ("tenant", "order_key", "limit_key") if (value := getattr(links, key))}
    lines = [f"curl -s {shlex.quote(str(request.base_url).rstrip('/') + '/tasks')}"]
    lines += ["-H 'Content-Type: application/json'"]
    lines += ['-H "Authorization: Bearer $TASKFLOW_TOKEN"'] if services(request).keyring.any_exists else []
    return " \\\n  ".join([*lines, f"-d {shlex.quote(msgspec.json.encode(body).decode())}"])


def shown(value: Raw | None) -> str | None:
    """JSON to be read by people, cut where it is too long."""
    if value is None:
        return None
    text = msgspec.json.format(bytes(value), indent=2).decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n… {len(text) - LONGEST:,} more characters"


def actions_for(task: TaskView, now: float) -> set[str]:
    """What can be done to it."""
    applies = {action.value for action, statuses in APPLIES_TO.items() if task.status in statuses}
    is_later = task.status is Status.QUEUED and task.scheduled_at.timestamp() > now
    return applies | ({"run-now"} if is_later else set())


@get("/tasks/{id:str}", **shows(Scope.READ))
async def task_page(request: ApiRequest, id: FromPath[str]) -> Template:
    """The task."""
    number = read_id(id)
    sight = await snapshot(request, ("task", number), lambda conn: look(conn, number))
    task = sight.task
    answer = page(
        request,
        "task.html",
        title=task.name,
        sight=sight,
        task=task,
        steps=timeline(task, sight.attempts),
        has_all=len(sight.attempts) < LISTED,
        payload=shown(task.payload),
        result=shown(task.result),
        checkpoint=shown(task.progress.checkpoint) if task.progress else None,
        curl=as_curl(request, task, sight.links),
        priorities=list(Priority),
    )
    assert answer.context is not None
    answer.context["actions"] = actions_for(task, answer.context["now"])
    return answer


DONE: Final = {
    "retry": "is queued again",
    "cancel": "is cancelled",
    "reprioritise": "has another priority",
    "run-now": "is due now",
    "delete": "is deleted",
}


@post("/tasks/{id:str}/{action:str}", **shows(Scope.OPERATE))
async def act(request: ApiRequest, id: FromPath[str], action: FromPath[str]) -> Redirect:
    """Do it, if the task is still in a status for it."""
    number, form = read_id(id), await form_of(request)
    if action not in DONE:
        raise TaskNotFound
    async with services(request).pool.connection() as conn:
        changed = await change(conn, number, action, form.get("reason", "").strip(), form.get("to", ""))
        if changed and action != "delete":
            await events.tell_within(conn, [number])
    to = f"{HOME}/tasks" if action == "delete" and changed else f"{HOME}/tasks/{number}"
    if not changed:
        why = "it is not as it was, or another task has its unique key"
        return done(request, f"Nothing was changed: {why}.", to=to, kind="bad", task=number)
    about = {"priority": form["to"]} if action == Action.REPRIORITISE else {}
    return done(request, f"Task {number} {DONE[action]}.", to=to, task=number, change=action, **about)


async def change(conn: Connection, id: int, action: str, reason: str, to: str) -> set[int]:
    """The id if it was changed; raises InvalidTask."""
    match action:
        case Action.RETRY:
            return await retry_by_hand(conn, [id])
        case Action.CANCEL:
            check_text("reason", reason)
            return await cancel(conn, [id], reason[:500] or None)
        case Action.DELETE:
            return await delete_final(conn, [id])
        case Action.REPRIORITISE if to in set(Priority):
            return await reprioritise(conn, [id], Priority(to))
        case "run-now":
            return await run_now(conn, [id])
        case _:
            return set()


ROUTES = (task_page, act)
