"""The workers, and the queues that they work on."""

import re
from typing import Annotated

from litestar import post, route
from litestar.openapi.spec import OpenAPIType
from litestar.params import PathParameter
from msgspec import Meta, Struct

from taskflow import stats
from taskflow.api.auth import needs
from taskflow.api.problems import InvalidRequest, WorkerNotFound, documented
from taskflow.api.services import GET, ApiRequest, services
from taskflow.api.tasks import LARGEST_ID
from taskflow.maintenance import rescue_all
from taskflow.queue import workers
from taskflow.scopes import Scope
from taskflow.stats import QueueStats, WorkerView

WorkerId = Annotated[
    str,
    PathParameter(
        description="the worker's id",
        schema_extra={"type": OpenAPIType.INTEGER, "format": "int64", "minimum": 1, "maximum": LARGEST_ID},
    ),
]


class Workers(Struct, frozen=True):
    """The workers that have not stopped, by name."""

    workers: list[WorkerView]


class Stats(Struct, frozen=True):
    """How many tasks wait, run and failed; each count ends at 10,000, except that of running ones."""

    queues: list[QueueStats]
    running: int
    failed: int
    enqueued_total: Annotated[int, Meta(description="tasks stored so far, as Postgres estimates: for rates")]
    attempts_total: Annotated[int, Meta(description="attempts that ended so far, likewise")]


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
        totals = await stats.find_totals(conn)
    return Stats(queues, counts.running, counts.failed, totals.enqueued, totals.attempts)


class Draining(Struct, frozen=True):
    """The worker stops once what it runs has ended."""

    name: str


class Rescued(Struct, frozen=True):
    """The worker counts as gone, and so many of its tasks were put back."""

    name: str
    rescued: Annotated[int, Meta(ge=0)]


def wrong_worker_id() -> InvalidRequest:
    """What an id is that is no number."""
    return InvalidRequest("id: expected an integer", "id")


def read_worker_id(id: str) -> int:
    """The id as a number; raises InvalidRequest, or WorkerNotFound if no worker can have it."""
    if not re.fullmatch(r"-?[0-9]+", id):
        raise wrong_worker_id()
    if len(id) > len(str(-LARGEST_ID)) or abs(int(id)) > LARGEST_ID:
        raise WorkerNotFound
    return int(id)


@post(
    "/workers/{id:str}/drain",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Drain a worker",
    response_description="It was told",
    tags=["workers"],
    responses=documented(wrong_worker_id(), WorkerNotFound(), TimeoutError()),
)
async def drain_worker(request: ApiRequest, id: WorkerId) -> Draining:
    """It claims nothing more, ends what it runs, and stops, as after SIGTERM; it learns of it within seconds."""
    number = read_worker_id(id)
    async with services(request).pool.connection() as conn:
        name = await workers.drain(conn, number)
    if name is None:
        raise WorkerNotFound
    return Draining(name)


@post(
    "/workers/{id:str}/rescue",
    **needs(Scope.OPERATE),
    status_code=200,
    summary="Rescue a worker's tasks at once",
    response_description="Its tasks are put back",
    tags=["workers"],
    responses=documented(wrong_worker_id(), WorkerNotFound(), TimeoutError()),
)
async def rescue_worker(request: ApiRequest, id: WorkerId) -> Rescued:
    """For one that is known to be gone, before its lease ends. If it lives after all, it stops at its next heartbeat.

    Its tasks run again elsewhere, and its own outcomes of them are dropped.
    """
    number = read_worker_id(id)
    async with services(request).pool.connection() as conn:
        name = await workers.stop(conn, number)
        if name is None:
            raise WorkerNotFound
        return Rescued(name, await rescue_all(conn, number))
