"""What the routes work with; made by the app's lifespan, found through the request."""

from typing import Any, cast

from litestar import Request
from litestar.datastructures import State
from msgspec import Struct

from taskflow.api.enqueuer import Enqueuer
from taskflow.database import Pool
from taskflow.registry import Registry
from taskflow.settings import Settings

ApiRequest = Request[Any, Any, State]


class Services(Struct, frozen=True):
    """One set per running app."""

    settings: Settings
    registry: Registry
    pool: Pool
    enqueuer: Enqueuer


def services(request: ApiRequest) -> Services:
    """The services of the app that answers *request*."""
    return cast(Services, request.app.state["services"])
