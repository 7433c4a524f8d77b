"""A request ends in time, or is cancelled."""

import asyncio

from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Scope, Send


class TimeLimit(ASGIMiddleware):
    """Cancels a request, and its statement with it, after *seconds*; a body that comes in slowly counts as well."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Raises TimeoutError when the time is over."""
        async with asyncio.timeout(self.seconds):
            await next_app(scope, receive, send)
