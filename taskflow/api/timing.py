"""A request ends in time, or is cancelled."""

import asyncio

from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, HTTPReceiveMessage, Receive, Scope, Send, WebSocketReceiveMessage

from taskflow.api.problems import SlowBody


class TimeLimit(ASGIMiddleware):
    """Cancels a request, and its statement with it, after *seconds*; a body that comes in slowly counts as well."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """When the time is over, raises SlowBody if the client is to blame, else TimeoutError."""
        is_client_awaited = False

        async def receive_on_time() -> HTTPReceiveMessage | WebSocketReceiveMessage:
            nonlocal is_client_awaited
            is_client_awaited = True
            message = await receive()
            is_client_awaited = False
            return message

        try:
            async with asyncio.timeout(self.seconds):
                await next_app(scope, receive_on_time, send)
        except TimeoutError:
            if is_client_awaited:
                raise SlowBody from None
            raise
