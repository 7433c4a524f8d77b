"""What the routes share."""

from typing import Any, Final, cast

from litestar import HttpMethod, Request
from litestar.datastructures import State
from msgspec import Struct

from taskflow.api.board import Board
from taskflow.api.enqueuer import Enqueuer
from taskflow.api.keyring import Keyring
from taskflow.api.traffic import Traffic
from taskflow.api.warden import Warden
from taskflow.api.watch import Watch
from taskflow.database import Pool
from taskflow.queue.tally import Tally
from taskflow.registry import Registry
from taskflow.settings import Settings

ApiRequest = Request[Any, Any, State]

GET: Final = (HttpMethod.GET, HttpMethod.HEAD)
"""The methods of a route that only looks; the server leaves the body out of what it sends to HEAD."""


class Services(Struct, frozen=True, kw_only=True):
    """What the routes work with: one set per running app, made by its lifespan."""

    settings: Settings
    registry: Registry
    pool: Pool
    enqueuer: Enqueuer
    keyring: Keyring
    board: Board
    traffic: Traffic
    watch: Watch
    warden: Warden
    tally: Tally


def services(request: ApiRequest) -> Services:
    """The services of the app that answers *request*."""
    return cast(Services, request.app.state["services"])
