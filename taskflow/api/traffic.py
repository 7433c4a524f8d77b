"""What this server answered, counted."""

import time
from collections import Counter, defaultdict
from typing import Any

from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, HTTPResponseStartEvent, Receive, Scope, Send

from taskflow.metrics import Histogram


class Traffic(ASGIMiddleware):
    """Counts answers, and how long each took until its head."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, str, str]] = Counter()
        self.seconds: defaultdict[tuple[str], Histogram] = defaultdict(Histogram)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Note when the request began."""
        scope["state"]["began"] = time.monotonic()
        await next_app(scope, receive, send)

    def count(self, start: HTTPResponseStartEvent, scope: Scope) -> None:
        """Count the answer that begins with *start*."""
        began: Any = scope["state"].get("began")  # none where no route was found
        if began is not None and scope["type"] == "http":
            path = scope["path_template"]
            self.answers[scope["method"], path, str(start["status"])] += 1
            self.seconds[(path,)].add(time.monotonic() - began)
