"""The workers, and the queues that they work on."""

from litestar import route
from msgspec import Struct

from taskflow import stats
from taskflow.api.auth import needs
from taskflow.api.problems import documented
from taskflow.api.services import GET, ApiRequest, services
from taskflow.scopes import Scope
from taskflow.stats import QueueStats, WorkerView


class Workers(Struct, frozen=True):
    """The workers that have not stopped, by name."""

    workers: list[WorkerView]


class Stats(Struct, frozen=True):
    """How many tasks wait, run and failed; each count ends at 10,000, except that of running ones."""

    queues: list[QueueStats]
    running: int
    failed: int


@route(
    "/workers",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="The workers and what they run",
    response_description="The workers",
    tags=["workers"],
    responses=documented(TimeoutError()),
)
async def list_workers(request: ApiRequest) -> Workers:
    """One that is silent for longer than the lease (15 s) is most likely gone, and is about to be rescued from."""
    async with services(request).pool.connection() as conn:
        return Workers(await stats.find_workers(conn))


@route(
    "/stats",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    summary="How much waits, runs and failed",
    response_description="The counts",
    tags=["health"],
    responses=documented(TimeoutError()),
)
async def show_stats(request: ApiRequest) -> Stats:
    """Cheap at any number of tasks, for the counts are bounded."""
    async with services(request).pool.connection() as conn:
        queues, counts = await stats.find_queues(conn), await stats.count_tasks(conn)
    return Stats(queues, counts.running, counts.failed)
