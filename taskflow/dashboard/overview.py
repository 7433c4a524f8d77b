"""The first screen: what waits, what runs, and what needs attention."""

from typing import NamedTuple

from litestar import get
from litestar.response import Template

from taskflow import stats
from taskflow.api.auth import shows
from taskflow.api.services import ApiRequest
from taskflow.dashboard.pages import page, snapshot
from taskflow.database import Connection
from taskflow.scopes import Scope
from taskflow.stats import QueueStats, TaskCounts, WorkerView


class Overview(NamedTuple):
    """What the screen shows, as one look at the database."""

    queues: list[QueueStats]
    counts: TaskCounts
    workers: list[WorkerView]


async def look(conn: Connection) -> Overview:
    """Read it all."""
    return Overview(await stats.find_queues(conn), await stats.count_tasks(conn), await stats.find_workers(conn))


@get("/", **shows(Scope.READ))
async def overview(request: ApiRequest) -> Template:
    """The overview."""
    return page(request, "overview.html", title="Overview", seen=await snapshot(request, "overview", look))


ROUTES = (overview,)
