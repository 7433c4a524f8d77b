"""The first screen: what waits, what runs, how it goes, and what needs attention."""

from typing import Final, NamedTuple

from litestar import get
from litestar.response import Template

from taskflow import queries, stats
from taskflow.api.auth import shows
from taskflow.api.services import ApiRequest, services
from taskflow.dashboard import charts
from taskflow.dashboard.attention import Concern, concerns
from taskflow.dashboard.pages import page, snapshot
from taskflow.database import Connection
from taskflow.queries import DAY, HOUR, LimitView, QueueView, Span, Step
from taskflow.scopes import Scope
from taskflow.stats import FailingType, FleetStats, QueueStats, TaskCounts, WorkerView

WINDOWS: Final[dict[str, Span]] = {"hour": HOUR, "day": DAY}

SHOWN: Final = 8
"""Workers that this screen lists."""


class Overview(NamedTuple):
    """What the screen shows, as one look at the database."""

    queues: list[QueueStats]
    counts: TaskCounts
    workers: list[WorkerView]
    fleet: FleetStats
    steps: list[Step]
    failing: list[FailingType]
    pauses: list[QueueView]
    limits: list[LimitView]

    @property
    def concerns(self) -> list[Concern]:
        """What needs somebody now."""
        return concerns(self.queues, self.fleet, self.failing, self.pauses, self.limits)

    @property
    def finished(self) -> int:
        """Attempts that ended in the span that is shown."""
        return sum(step.ended for step in self.steps)


async def look(conn: Connection, span: Span, lease: float) -> Overview:
    """Read it all."""
    return Overview(
        await stats.find_queues(conn),
        await stats.count_tasks(conn),
        await stats.find_workers(conn),
        await stats.find_fleet(conn, lease),
        await queries.find_steps(conn, span),
        await stats.find_failing(conn),
        await queries.find_queue_views(conn),
        await queries.find_limits(conn),
    )


@get("/", **shows(Scope.READ))
async def overview(request: ApiRequest) -> Template:
    """The overview; ``?window=day`` looks further back."""
    window = request.query_params.get("window", "hour")
    span = WINDOWS.get(window, HOUR)
    lease = services(request).settings.worker_lease_in_seconds
    seen = await snapshot(request, ("overview", span), lambda conn: look(conn, span, lease))
    return page(
        request,
        "overview.html",
        title="Overview",
        seen=seen,
        window=window if window in WINDOWS else "hour",
        lease=lease,
        shown=SHOWN,
        throughput=charts.throughput(seen.steps, span),
        failures=charts.failure_rate(seen.steps),
        failing=charts.failing(*seen.steps),
        depths={queue.priority: charts.depth(seen.steps, queue.priority) for queue in seen.queues},
        done={queue.priority: charts.done(seen.steps, queue.priority, span) for queue in seen.queues},
    )


ROUTES = (overview,)
