"""Failed tasks by type and error, and what can be done about a whole group of them."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from urllib.parse import urlencode

import msgspec
from litestar import get, post
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Redirect, Template

from taskflow import events, queries
from taskflow.api.actions import SHARE
from taskflow.api.auth import shows
from taskflow.api.body import check_text
from taskflow.api.problems import InvalidRequest
from taskflow.api.services import ApiRequest, services
from taskflow.bulk import Pace
from taskflow.dashboard.filters import count
from taskflow.dashboard.pages import HOME, done, form_of, page, snapshot
from taskflow.database import Connection
from taskflow.model import Time
from taskflow.queries import TaskSummary
from taskflow.queries.failures import SEEN, Failures, Place, find_failures, find_of_group
from taskflow.queue.delete import delete_final
from taskflow.queue.recover import retry_by_hand
from taskflow.scopes import Scope

URL: Final = f"{HOME}/failures"

WINDOWS: Final = {"3600": "hour", "86400": "day", "604800": "week", "3153600000": "ever"}
"""Seconds, and how they read."""

DAY: Final = "86400"
SHOWN: Final = 50
BATCH: Final = 1_000

PREVIEW: Final = 0.25
"""Seconds after which no more tasks are counted."""

LONGEST: Final = 1_000
"""Characters of a kind in an address."""

Verb = Callable[[Connection, Sequence[int]], Awaitable[set[int]]]
VERBS: Final[Mapping[str, tuple[Verb, str]]] = {
    "retry": (retry_by_hand, "queued again"),
    "delete": (delete_final, "deleted"),
}


class Group(NamedTuple):
    """Failures of one type and kind that are not older than *since*."""

    type: str
    kind: str
    since: Time

    @property
    def address(self) -> str:
        """As a query."""
        return urlencode({"type": self.type, "kind": self.kind, "since": self.since.isoformat(timespec="seconds")})


def read_group(query: Mapping[str, str]) -> Group:
    """The group that *query* names; raises InvalidRequest or InvalidTask."""
    type, kind = query.get("type", ""), query.get("kind", "")
    for field, text in (("type", type), ("kind", kind)):
        check_text(field, text)
        if len(text) > LONGEST:
            raise InvalidRequest(f"{field}: is too long", field)
    return Group(type, kind, _time("since", query.get("since", "")))


def read_place(query: Mapping[str, str]) -> Place:
    """Where *query* says that a walk goes on; without it, at the newest failure. Raises InvalidRequest."""
    if not (text := query.get("behind", "")):
        return Place(datetime.now(UTC) + timedelta(minutes=1), 0)
    at, _, id = text.rpartition(" ")
    if not (id.isascii() and id.isdigit() and len(id) < 19):
        raise InvalidRequest("behind: is not one that was given here", "behind")
    return Place(_time("behind", at), int(id))


def write_place(place: Place) -> str:
    """*place* as text."""
    return f"{place.updated_at.isoformat()} {place.id}"


def _time(field: str, text: str) -> datetime:
    try:
        return msgspec.convert(text, Time)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{field}: expected a time with a zone", field) from error


@get("/failures", **shows(Scope.READ))
async def failures_page(request: ApiRequest) -> Template:
    """The failures of a window, by type and kind of error."""
    asked = request.query_params.get("window", DAY)
    window = asked if asked in WINDOWS else DAY

    def look(conn: Connection) -> Awaitable[Failures]:
        return find_failures(conn, float(window))

    found = await snapshot(request, ("failures", window), look)
    since = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(seconds=float(window))
    groups = [(group, Group(group.type, group.kind, since).address) for group in found.groups]
    return page(
        request,
        "failures.html",
        title="Failures",
        found=found,
        groups=groups,
        window=window,
        windows=WINDOWS,
    )


class Sight(NamedTuple):
    """Some tasks of a group, and where to go on; with *is_full* False, more may be found."""

    tasks: list[TaskSummary]
    next: Place | None

    @property
    def is_full(self) -> bool:
        """Whether a page was filled."""
        return self.next is None or len(self.tasks) >= SHOWN


@get("/failures/group", **shows(Scope.READ))
async def group_page(request: ApiRequest) -> Template:
    """The tasks of a group, the newest failure first."""
    group, place = read_group(request.query_params), read_place(request.query_params)

    async def look(conn: Connection) -> Sight:
        found = await find_of_group(conn, group.type, group.kind, group.since, place, SHOWN)
        return Sight(await queries.find_tasks(conn, found.ids), found.next)

    sight = await snapshot(request, ("group", group, request.query_params.get("behind")), look)
    go_on = sight.next and urlencode({"behind": write_place(sight.next)})
    return page(
        request,
        "failure_group.html",
        title=group.kind or "no message",
        group=group,
        sight=sight,
        older=f"{URL}/group?{group.address}&{go_on}" if go_on else None,
        is_first="behind" not in request.query_params,
    )


@get("/failures/{action:str}", **shows(Scope.OPERATE))
async def confirm(request: ApiRequest, action: FromPath[str]) -> Template:
    """How many tasks it concerns, and a form that asks."""
    group = read_group(request.query_params)
    _verb(action)
    async with services(request).pool.connection() as conn:
        number, is_all = await walk(conn, group, nothing, time.monotonic() + PREVIEW)
    return page(
        request,
        "failure_confirm.html",
        title=f"{action.capitalize()} failed tasks",
        group=group,
        action=action,
        number=count(number, not is_all),
    )


@post("/failures/{action:str}", **shows(Scope.OPERATE))
async def act(request: ApiRequest, action: FromPath[str]) -> Redirect:
    """Retry or delete the whole group, the newest first, as far as the time of a request allows."""
    given, group = services(request), read_group(await form_of(request))
    verb, said = _verb(action)
    deadline = time.monotonic() + SHARE * given.settings.server_time_out_in_seconds
    async with given.pool.connection() as conn:
        number, is_all = await walk(conn, group, verb, deadline)
    told = f"{number:,} {'task' if number == 1 else 'tasks'} {said}"
    told += "." if is_all else " so far; there are more: do it again."
    to = URL if is_all else f"{URL}/group?{group.address}"
    return done(request, told, to=to, change=action, type=group.type, error=group.kind, count=number)


def _verb(action: str) -> tuple[Verb, str]:
    if action not in VERBS:
        raise NotFoundException("there is no such page")
    return VERBS[action]


async def nothing(conn: Connection, ids: Sequence[int]) -> set[int]:
    """The verb of who only counts."""
    return set(ids)


async def walk(conn: Connection, group: Group, verb: Verb, deadline: float) -> tuple[int, bool]:
    """Do *verb* to the tasks that had failed when it began; how many, and whether that were all."""
    number, place, pace = 0, Place(await _now(conn), 0), Pace()
    while True:
        seen = pace.begin() if verb is nothing else SEEN
        found = await find_of_group(conn, group.type, group.kind, group.since, place, BATCH, seen)
        pace.end()
        if found.ids:
            changed = await verb(conn, sorted(found.ids))
            if verb is retry_by_hand:
                await events.tell_within(conn, sorted(changed))
            number += len(changed)
        if found.next is None:
            return number, True
        if time.monotonic() >= deadline:
            return number, False
        place = found.next


NOW = "SELECT clock_timestamp()"


async def _now(conn: Connection) -> Time:
    """By the database's clock, which tells when tasks failed."""
    ((now,),) = await (await conn.execute(NOW)).fetchall()
    return now


ROUTES = (failures_page, group_page, confirm, act)
