"""Do one thing to all tasks that a filter finds: first a page that tells how many they are and asks."""

from collections.abc import Mapping
from typing import Any, Final

from litestar import get, post
from litestar.response import Redirect, Template
from msgspec import Struct

from taskflow import queries
from taskflow.api.actions import SHARE
from taskflow.api.auth import shows
from taskflow.api.body import check_text
from taskflow.api.problems import InvalidRequest
from taskflow.api.services import ApiRequest, services
from taskflow.bulk import APPLIES_TO, Action, Order, carry_out, preview
from taskflow.dashboard.asked import Asked, read_asked
from taskflow.dashboard.filters import count
from taskflow.dashboard.pages import HOME, done, form_of, page
from taskflow.errors import InvalidTask
from taskflow.filters import Cursor, read_cursor, write_cursor
from taskflow.model import Priority
from taskflow.scopes import Scope

URL: Final = f"{HOME}/tasks/actions"

PREVIEW: Final = 0.25
"""Seconds after which no more tasks are counted."""

DONE: Final = {
    Action.RETRY: "queued again",
    Action.CANCEL: "cancelled",
    Action.REPRIORITISE: "given another priority",
    Action.DELETE: "deleted",
}


class Wish(Struct, frozen=True):
    """What somebody wants done; ``cursor`` is where to go on, ``before`` so many were changed already."""

    asked: Asked
    order: Order
    cursor: Cursor | None
    before: int


def read_wish(form: Mapping[str, str]) -> Wish:
    """Out of an address or a form; raises InvalidTask or InvalidRequest."""
    asked = read_asked(form)
    if asked.problem is not None:
        raise InvalidRequest(": ".join(asked.problem), asked.problem[0])
    if form.get("action") not in set(Action):
        raise InvalidRequest("action: is none of those there are", "action")
    action = Action(form["action"])
    priority = Priority.NORMAL if action is Action.REPRIORITISE else None
    if priority and form.get("to"):
        if form["to"] not in set(Priority):
            raise InvalidRequest("to: is no priority", "to")
        priority = Priority(form["to"])
    reason = (form.get("reason", "").strip() or None) if action is Action.CANCEL else None
    if reason is not None:
        check_text("reason", reason)
        if len(reason) > 500:
            raise InvalidTask("reason", "has at most 500 characters")
    order = Order(action=action, filter=asked.filter, priority=priority, reason=reason)
    text = form.get("cursor")
    cursor = read_cursor(text, order.filter, action) if text else None
    before = form.get("before", "")
    return Wish(asked, order, cursor, int(before) if before.isascii() and before.isdigit() and len(before) < 16 else 0)


@get("/tasks/actions", **shows(Scope.OPERATE))
async def confirm(request: ApiRequest) -> Template:
    """How many tasks it concerns, and a form that asks."""
    wish = read_wish(request.query_params)
    async with services(request).pool.connection() as conn:
        cursor = wish.cursor or Cursor(0, await queries.find_newest(conn))
        number, is_all = await preview(conn, wish.order, cursor, seconds=PREVIEW)
    return page(
        request,
        "confirm.html",
        title=f"{wish.order.action.capitalize()} tasks",
        wish=wish,
        number=count(number, not is_all),
        is_none=number == 0 and is_all,
        cursor=write_cursor(cursor, wish.order.filter, wish.order.action),
        statuses=[status for status in APPLIES_TO[wish.order.action] if wish.asked.filter.status in {None, status}],
        priorities=list(Priority),
        verb=DONE[wish.order.action],
        back=f"{HOME}/tasks?{wish.asked.address}",
    )


@post("/tasks/actions", **shows(Scope.OPERATE))
async def act(request: ApiRequest) -> Redirect:
    """Change what fits into the time of a request; if there is more, the page that asks is next again."""
    given, wish = services(request), read_wish(await form_of(request))
    async with given.pool.connection() as conn:
        seconds = SHARE * given.settings.server_time_out_in_seconds
        changed = await carry_out(conn, wish.order, wish.cursor, seconds=seconds)
    action, total = wish.order.action, wish.before + changed.count
    said = f"{total:,} {'task' if total == 1 else 'tasks'} {DONE[action]}"
    about: dict[str, Any] = {"bulk": action.value, "filter": wish.asked.address, "count": changed.count}
    if changed.next is None:
        return done(request, f"{said}.", to=f"{HOME}/tasks?{wish.asked.address}", **about)
    more = f"action={action}&before={total}&cursor={write_cursor(changed.next, wish.order.filter, action)}"
    more += f"&to={wish.order.priority}" if wish.order.priority else ""
    return done(request, f"{said} so far.", to=f"{URL}?{more}&{wish.asked.address}", **about)


ROUTES = (confirm, act)
