"""The schedules: their rules in plain English, their ticks; pause, resume and run now."""

from functools import partial
from typing import Final

from litestar import get, post
from litestar.response import Redirect, Template

from taskflow import schedules
from taskflow.api.auth import shows
from taskflow.api.body import check_text
from taskflow.api.services import ApiRequest, services
from taskflow.dashboard.pages import HOME, done, form_of, page, snapshot
from taskflow.errors import TaskflowError
from taskflow.queue.tick import run_now
from taskflow.schedules import NoSuchSchedule
from taskflow.scopes import Scope

HERE: Final = f"{HOME}/schedules"

SHOWN: Final = 50
"""Schedules of one page: the next ticks of each are computed."""

LONGEST_REASON: Final = 500


@get("/schedules", **shows(Scope.READ))
async def schedules_page(request: ApiRequest) -> Template:
    """By name, page by page."""
    after = request.query_params.get("after", "")
    check_text("after", after)
    ask = partial(schedules.find_schedules, after=after, limit=SHOWN + 1)
    found = await snapshot(request, ("schedules", after), ask)
    next = found[SHOWN - 1].name if len(found) > SHOWN else None
    return page(request, "schedules.html", title="Schedules", schedules=found[:SHOWN], after=after, next=next)


@post("/schedules/pause", **shows(Scope.OPERATE))
async def pause(request: ApiRequest) -> Redirect:
    """No ticks until it is resumed."""
    name, form = await _name(request), await form_of(request)
    reason = " ".join(form.get("reason", "").split())[:LONGEST_REASON]
    check_text("reason", reason)
    try:
        async with services(request).pool.connection() as conn:
            await schedules.pause(conn, name, reason or None)
    except NoSuchSchedule as error:
        return _failed(request, name, error)
    return done(request, f"Schedule {name} is paused.", to=HERE, schedule=name)


@post("/schedules/resume", **shows(Scope.OPERATE))
async def resume(request: ApiRequest) -> Redirect:
    """Ticks again, from the next one on."""
    name = await _name(request)
    try:
        async with services(request).pool.connection() as conn:
            await schedules.resume(conn, name)
    except TaskflowError as error:  # no such schedule, or a rule that was written by SQL
        return _failed(request, name, error)
    return done(request, f"Schedule {name} goes on with its next tick.", to=HERE, schedule=name)


@post("/schedules/run", **shows(Scope.OPERATE))
async def run(request: ApiRequest) -> Redirect:
    """Enqueue its task beside its ticks."""
    name = await _name(request)
    async with services(request).pool.connection() as conn:
        id = await run_now(conn, name, request.headers)
    if id is None:
        return _failed(request, name, NoSuchSchedule(name))
    return done(request, f"Task {id} of schedule {name} is queued.", to=HERE, schedule=name, task_id=id)


async def _name(request: ApiRequest) -> str:
    name = (await form_of(request)).get("name", "")
    check_text("name", name)
    return name


def _failed(request: ApiRequest, name: str, error: TaskflowError) -> Redirect:
    words = str(error)
    return done(request, f"{words[:1].upper()}{words[1:]}.", to=HERE, kind="bad", schedule=name)


ROUTES = (schedules_page, pause, resume, run)
