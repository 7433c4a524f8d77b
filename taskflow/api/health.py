"""For probes: whether this process works, and whether it can serve."""

import asyncio
from typing import Final, Literal

from litestar import Response, route
from litestar.openapi import ResponseSpec
from msgspec import Struct

from taskflow.api.auth import open_to_all
from taskflow.api.services import GET, ApiRequest, services
from taskflow.database import TROUBLE
from taskflow.queries import touch_tasks

PATIENCE: Final = 2.0
"""Seconds; Postgres must let the tasks be read within."""


class Ready(Struct, frozen=True):
    """Whether requests can be served."""

    status: Literal["ready", "not ready"]


class Alive(Struct, frozen=True):
    """The process answers."""

    status: Literal["up"] = "up"


@route(
    "/readiness",
    **open_to_all(),
    http_method=GET,
    status_code=200,
    summary="Can requests be served?",
    response_description="Postgres lets the tasks be read",
    tags=["health"],
    responses={
        503: ResponseSpec(
            Ready,
            description="Postgres cannot be reached, or the tasks cannot be read, as while their table is locked",
            generate_examples=False,
        )
    },
)
async def readiness(request: ApiRequest) -> Response[Ready]:
    """Asks Postgres for the table of tasks, within 2 s."""
    try:
        async with asyncio.timeout(PATIENCE), services(request).pool.connection() as conn:
            await touch_tasks(conn)
    except (*TROUBLE, TimeoutError):
        return Response(Ready("not ready"), status_code=503)
    return Response(Ready("ready"))


@route(
    "/liveness",
    **open_to_all(),
    http_method=GET,
    status_code=200,
    summary="Does the process work?",
    response_description="It does",
    tags=["health"],
)
async def liveness() -> Alive:
    """Never asks Postgres: an outage there must not restart this process."""
    return Alive()
