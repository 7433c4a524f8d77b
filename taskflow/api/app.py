"""The API as one ASGI app."""

from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from litestar import HttpMethod, Litestar, Response, Router, route
from litestar.handlers import HTTPRouteHandler
from litestar.template import TemplateConfig
from litestar.types import ControllerRouterHandler, Message, Scope

from taskflow.api import (
    actions,
    batch,
    docs,
    events,
    groups,
    health,
    listing,
    metrics,
    policy,
    problems,
    remote,
    remote_progress,
    remote_results,
    schedules,
    tasks,
    types,
    workers,
)
from taskflow.api.auth import Gate, open_to_all
from taskflow.api.board import Board
from taskflow.api.enqueuer import open_enqueuer
from taskflow.api.headers import harden
from taskflow.api.keyring import Keyring
from taskflow.api.limits import RateLimit
from taskflow.api.services import Services
from taskflow.api.timing import TimeLimit
from taskflow.api.traffic import Traffic
from taskflow.api.warden import Warden
from taskflow.api.watch import Audience, open_watch
from taskflow.database import open_pool
from taskflow.queue.tally import Tally
from taskflow.registry import Registry
from taskflow.settings import Settings

ROUTES: Final = (
    listing.list_tasks,
    tasks.add_task,
    tasks.show_task,
    tasks.show_history,
    tasks.show_logs,
    actions.act,
    actions.cancel_task,
    actions.retry_task,
    types.list_types,
    groups.show_group,
    policy.list_queues,
    policy.pause_queue,
    policy.resume_queue,
    policy.list_limits,
    policy.limit_type,
    policy.pause_tasks,
    policy.resume_tasks,
    *schedules.ROUTES,
    workers.list_workers,
    workers.drain_worker,
    workers.rescue_worker,
    workers.show_stats,
    remote.register_worker,
    remote.claim_tasks,
    remote.beat,
    remote_progress.tell,
    remote_results.finish_tasks,
    remote.leave,
    metrics.show_metrics,
    events.stream_events,
    events.stream_task_events,
    health.readiness,
    health.liveness,
)
BATCH: Final = (batch.add_tasks, groups.add_group)
"""Routes that take larger bodies than the others."""


def create_app(
    settings: Settings,
    dsn: str,
    registry: Registry,
    *,
    pages: Sequence[ControllerRouterHandler] = (),
    templates: TemplateConfig[Any] | None = None,
) -> Litestar:
    """The API over the database at *dsn*, which must be migrated; it may be away at first, and now and then.

    *pages* are routes beside those of the API, which may answer with *templates*.
    """

    traffic = Traffic()

    async def begin_answer(message: Message, scope: Scope) -> None:
        # One hook for both, for Litestar awaits each for each message.
        if message["type"] == "http.response.start":
            harden(message, scope)
            traffic.count(message, scope)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncGenerator[None]:
        limit = settings.server_time_out_in_seconds
        async with (
            open_pool(
                dsn,
                "taskflow api",
                max_size=settings.db_pool_max_conns,
                statement_timeout=limit,
                pooled=settings.is_pooled,
            ) as pool,
            open_watch(settings.session_dsn or dsn, pooled=settings.is_sessionless) as watch,
            open_enqueuer(pool, Audience(watch)) as enqueuer,
        ):
            app.state["services"] = Services(
                settings=settings,
                registry=registry,
                pool=pool,
                enqueuer=enqueuer,
                keyring=Keyring(pool),
                board=Board(pool, settings.worker_lease_in_seconds),
                traffic=traffic,
                watch=watch,
                warden=Warden(settings.worker_lease_in_seconds),
                tally=Tally(),
            )
            yield

    batches = Router(
        "/", route_handlers=[*options(BATCH), *BATCH], request_max_body_size=settings.server_max_batch_bytes
    )
    rate_limit = RateLimit(settings.rate_limit_per_minute) if settings.rate_limit_per_minute else None
    return Litestar(
        route_handlers=[*options(ROUTES), *ROUTES, batches, docs.ASSETS, *pages],
        template_config=templates,
        lifespan=[lifespan],
        middleware=[traffic, TimeLimit(settings.server_time_out_in_seconds), Gate(settings.anonymous, rate_limit)],
        before_send=[begin_answer],
        exception_handlers=problems.ANSWERS,
        openapi_config=docs.describe(registry, settings),
        request_max_body_size=settings.server_max_body_bytes,
        logging_config=None,
        debug=False,
    )


def options(routes: Sequence[HTTPRouteHandler]) -> list[HTTPRouteHandler]:
    """Handlers that tell all methods of each path; Litestar's own tell those of the path's first handler.

    They must be registered before *routes*.
    """
    methods: defaultdict[str, set[str]] = defaultdict(lambda: {"OPTIONS"})
    for handler in routes:
        for path in handler.paths:
            methods[path].update(handler.http_methods)
    return [_options(path, ", ".join(sorted(allowed))) for path, allowed in methods.items()]


def _options(path: str, allow: str) -> HTTPRouteHandler:
    @route(path, http_method=HttpMethod.OPTIONS, status_code=204, include_in_schema=False, **open_to_all())
    async def answer() -> Response[None]:
        return Response(None, headers={"Allow": allow})

    return answer
