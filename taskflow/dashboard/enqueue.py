"""Enqueue a task by a form that is made from its type's schema."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar import get, post
from litestar.response import Redirect, Template
from msgspec import Raw

from taskflow import events
from taskflow.api.auth import shows
from taskflow.api.body import read_task
from taskflow.api.enqueuer import REFUSED, refusal
from taskflow.api.problems import InvalidRequest
from taskflow.api.services import ApiRequest, services
from taskflow.dashboard.asked import in_utc
from taskflow.dashboard.pages import HOME, done, form_of, page
from taskflow.dashboard.schema_form import PREFIX, Field, Unreadable, fields_of, payload_of
from taskflow.errors import FIELD_NAMED, InvalidTask, KeyTaken, UnknownTaskType
from taskflow.model import NewTask, OnConflict, Priority
from taskflow.queue.enqueue import enqueue_unique
from taskflow.registry import TaskType
from taskflow.scopes import Scope

URL: Final = f"{HOME}/enqueue"

TEXTS: Final = ("name", "unique_key", "tenant", "order_key", "limit_key")
NUMBERS: Final = ("delay_seconds", "max_attempts")

Wrong = tuple[str, str]
"""The name of the field at fault, empty for none, and what is wrong with it."""


@get("/enqueue", **shows(Scope.ENQUEUE))
async def enqueue_page(request: ApiRequest) -> Template:
    """The form of the type that is asked for, or of the first."""
    registry = services(request).registry
    asked = request.query_params.get("type") or next(iter(registry.names()), "")
    return _form(request, registry.find(asked), {}, None if asked in registry else ("type", "is not known here"))


@post("/enqueue", **shows(Scope.ENQUEUE))
async def enqueue(request: ApiRequest) -> Redirect | Template:
    """Store the task, or show the form again with what is wrong."""
    given, form = services(request), await form_of(request)
    task_type = given.registry.find(form.get("type", ""))
    try:
        if task_type is None:
            raise UnknownTaskType(form.get("type", ""), given.registry.names())
        task = read_task(_body(task_type, form), given.registry, given.settings)
        id, outcome = await _store(request, task)
    except (InvalidTask, Unreadable, KeyTaken, UnknownTaskType, InvalidRequest) as error:
        return _form(request, task_type, form, _wrong(error))
    said = {"added": "is enqueued", "existing": "was there already", "replaced": "got the new payload"}[outcome]
    return done(request, f"Task {id} {said}.", to=f"{HOME}/tasks/{id}", task=id, type=task.type, result=outcome)


def _body(task_type: TaskType, form: Mapping[str, str]) -> bytes:
    """What `POST /tasks` would be sent; raises Unreadable."""
    body: dict[str, Any] = {"type": task_type.name, "name": task_type.name}
    body |= {name: form[name].strip() for name in TEXTS if form.get(name, "").strip()}
    for name in NUMBERS:
        if text := form.get(name, "").strip():
            try:
                body[name] = msgspec.json.decode(text, type=int | float)
            except ValueError as error:
                raise Unreadable(name, "Expected a number") from error
    if at := form.get("scheduled_at", "").strip():
        body["scheduled_at"] = in_utc(at)
    body["priority"] = form.get("priority", Priority.NORMAL)
    body["on_conflict"] = form.get("on_conflict", OnConflict.REJECT) if "unique_key" in body else OnConflict.REJECT
    payload = payload_of(fields_of(task_type.schema()), form)
    try:
        return msgspec.json.encode(body | {"payload": Raw(payload or b'""')})
    except UnicodeEncodeError as error:
        raise Unreadable("", "Expected text in UTF-8") from error


async def _store(request: ApiRequest, task: NewTask) -> tuple[int, str]:
    """Its id and the outcome; raises KeyTaken or InvalidTask."""
    given = services(request)
    async with given.pool.connection() as conn:
        try:
            stored = await enqueue_unique(conn, task)
        except REFUSED as error:
            raise refusal(error) from error
        await events.tell_within(conn, [stored.id])
    given.enqueuer.stored += stored.outcome == "added"
    return stored.id, stored.outcome


def _wrong(error: Exception) -> Wrong:
    match error:
        case InvalidTask():
            return error.field, error.problem
        case Unreadable():
            return error.name, str(error)
        case KeyTaken():
            return "unique_key", str(error).removeprefix("unique_key: ")
        case UnknownTaskType():
            return "type", "is not known here"
        case InvalidRequest():
            return "payload", str(error)
        case _:
            raise AssertionError(error)


def _form(request: ApiRequest, task_type: TaskType | None, form: Mapping[str, str], wrong: Wrong | None) -> Template:
    given = services(request)
    fields = fields_of(task_type.schema()) if task_type else []
    at, problem = wrong or ("", "")
    priorities = [one for one in Priority if one is not Priority.TEST or given.settings.enable_test_queue]
    return page(
        request,
        "enqueue.html",
        title="Enqueue",
        status=400 if wrong else 200,
        types=given.registry.names(),
        type=task_type,
        fields=fields,
        form=form,
        wrong={_at(at, problem, fields): problem} if wrong else {},
        priorities=priorities,
        conflicts=list(OnConflict),
        schema=msgspec.json.encode(task_type.schema()) if task_type else b"{}",
    )


def _at(name: str, problem: str, fields: list[Field]) -> str:
    """The field of the form that shows a *problem* of *name*, which may be a part of one; empty: the form itself."""
    if name == "payload" and (named := FIELD_NAMED.search(problem)):
        name = PREFIX + named[1]
    if name in {*TEXTS, *NUMBERS, "type", "priority", "scheduled_at", "on_conflict"}:
        return name
    if name.startswith("payload"):
        for field in fields:
            if name == field.name or name.startswith((f"{field.name}.", f"{field.name}[")) or field.name == "payload":
                return field.name
    return ""


ROUTES = (enqueue_page, enqueue)
