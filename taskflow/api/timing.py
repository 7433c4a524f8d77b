"""A request ends in time, or is cancelled."""

import asyncio
import time
from typing import Any, Final

from litestar import Request
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, HTTPReceiveMessage, Receive, Scope, Send, WebSocketReceiveMessage

from taskflow.api.problems import SlowBody

LIMIT: Final = "taskflow time limit"
"""Where a request's state holds its time limit."""

ARRIVED: Final = "taskflow arrival"
"""Where it holds when the request came in, by time.monotonic()."""


class TimeLimit(ASGIMiddleware):
    """Cancels a request, and its statement with it, after *seconds*; a body that comes in slowly counts as well."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """When the time is over, raises SlowBody if the client is to blame, else TimeoutError."""
        scope["state"][ARRIVED] = time.monotonic()
        is_client_awaited = False

        async def receive_on_time() -> HTTPReceiveMessage | WebSocketReceiveMessage:
            nonlocal is_client_awaited
            is_client_awaited = True
            message = await receive()
            is_client_awaited = False
            return message

        try:
            async with asyncio.timeout(self.seconds) as limit:
                scope["state"][LIMIT] = limit
                await next_app(scope, receive_on_time, send)
        except TimeoutError:
            if is_client_awaited:
                raise SlowBody from None
            raise


def take_time(request: Request[Any, Any, Any], seconds: float | None) -> None:
    """Let *request* take so many seconds more than others; None: as long as it likes."""
    limit: asyncio.Timeout = request.scope["state"][LIMIT]
    end = limit.when()
    limit.reschedule(None if seconds is None or end is None else end + seconds)
