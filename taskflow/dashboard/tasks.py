"""Find tasks, page by page."""

from typing import Final, NamedTuple

from litestar import get
from litestar.response import Template

from taskflow import queries
from taskflow.api.auth import shows
from taskflow.api.services import ApiRequest, services
from taskflow.dashboard.asked import SINCE, read_asked
from taskflow.dashboard.pages import HOME, page, snapshot
from taskflow.database import Connection
from taskflow.errors import InvalidTask
from taskflow.filters import Cursor, Sort, TaskFilter, read_cursor, write_cursor
from taskflow.model import Priority, Status
from taskflow.queries import TaskSummary
from taskflow.queries.listing import LARGEST_ID
from taskflow.scopes import Scope

URL: Final = f"{HOME}/tasks"
SHOWN: Final = 50


class Sight(NamedTuple):
    """Tasks, the newest first, and where to go on to older and to newer ones. Without *is_full*, more may be found."""

    tasks: list[TaskSummary]
    older: Cursor | None
    newer: Cursor | None
    is_full: bool


async def look(conn: Connection, filter: TaskFilter, sort: Sort, cursor: Cursor | None) -> Sight:
    """A page behind *cursor*; with ``Sort.OLDEST``, the next newer ones."""
    found = await queries.find_ids(conn, filter, sort, SHOWN, cursor)
    if sort is Sort.NEWEST:
        tasks = await queries.find_tasks(conn, found.ids)
        top = found.ids[0] if found.ids else cursor.id - 1 if cursor else 0
        return Sight(tasks, found.next, Cursor(top, LARGEST_ID) if cursor else None, found.is_full)
    tasks = await queries.find_tasks(conn, found.ids[::-1])
    bottom = found.ids[0] if found.ids else cursor.id + 1 if cursor else LARGEST_ID
    return Sight(tasks, Cursor(bottom, LARGEST_ID), found.next, found.is_full)


@get("/tasks", **shows(Scope.READ))
async def tasks_page(request: ApiRequest) -> Template:
    """The tasks that the address asks for."""
    query = request.query_params
    asked = read_asked(query)
    problem, sight = asked.problem, Sight([], None, None, is_full=True)
    sort = Sort.OLDEST if "newer" in query else Sort.NEWEST
    if problem is None:
        try:
            text = query.get("newer") or query.get("older")
            cursor = read_cursor(text, asked.filter, sort) if text else None
            key = ("tasks", asked.address, sort, cursor and cursor.id)
            sight = await snapshot(request, key, lambda conn: look(conn, asked.filter, sort, cursor))
        except InvalidTask as error:
            problem = (error.field, error.problem)
    links = {
        name: f"{URL}?{asked.address}&{name}={write_cursor(cursor, asked.filter, order)}"
        for name, cursor, order in (("older", sight.older, Sort.NEWEST), ("newer", sight.newer, Sort.OLDEST))
        if cursor is not None
    }
    return page(
        request,
        "tasks.html",
        title="Tasks",
        status=200 if problem is None else 400,
        asked=asked,
        form=query,
        problem=problem,
        sight=sight,
        links=links,
        statuses=list(Status),
        priorities=list(Priority),
        since=SINCE,
        types=services(request).registry.names(),
    )


ROUTES = (tasks_page,)
