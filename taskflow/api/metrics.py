"""`/metrics` of a server: what it did itself, and what the database says."""

from typing import Any

from litestar import Response, route
from litestar.enums import MediaType
from litestar.openapi import ResponseSpec

import taskflow
from taskflow import metrics
from taskflow.api.auth import needs
from taskflow.api.problems import documented
from taskflow.api.services import GET, ApiRequest, Services, services
from taskflow.metrics import Metric
from taskflow.process import usage
from taskflow.scopes import Scope


def _own(given: Services) -> list[tuple[Metric, Any]]:
    """What this process knows by itself."""
    connections = given.pool.get_stats()
    return [
        (metrics.INFO, [((taskflow.__version__,), 1)]),
        (metrics.ENQUEUED, [((), given.enqueuer.stored)]),
        (metrics.REQUESTS, sorted(given.traffic.answers.items())),
        (metrics.REQUEST_SECONDS, sorted(given.traffic.seconds.items())),
        (metrics.POOL_SIZE, [((), connections.get("pool_size", 0))]),
        (metrics.POOL_FREE, [((), connections.get("pool_available", 0))]),
        (metrics.POOL_WAITING, [((), connections.get("requests_waiting", 0))]),
        *usage(),
    ]


@route(
    "/metrics",
    **needs(Scope.READ),
    http_method=GET,
    status_code=200,
    media_type=MediaType.TEXT,
    summary="Metrics for Prometheus",
    response_description="The metrics in Prometheus' text format",
    tags=["health"],
    responses={
        **documented(TimeoutError()),
        200: ResponseSpec(str, description="The metrics", media_type=MediaType.TEXT, generate_examples=False),
    },
)
async def show_metrics(request: ApiRequest) -> Response[bytes]:
    """Described in docs/metrics.md. What comes from the database is up to five seconds old."""
    given = services(request)
    families = [*_own(given), *await given.board.read()]
    return Response(metrics.render(families), media_type=metrics.MEDIA_TYPE)
