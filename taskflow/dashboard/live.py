"""What tells a page that something has changed; the page then asks for itself again."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Final

from litestar import get
from litestar.response import Stream

from taskflow.api.auth import shows
from taskflow.api.events import ALIVE, MEDIA_TYPE, Reader, attending
from taskflow.api.inbox import Inbox
from taskflow.api.services import ApiRequest, services
from taskflow.api.timing import take_time
from taskflow.api.watch import Told, Watch
from taskflow.dashboard.pages import Snapshots
from taskflow.dashboard.pulse import Pulse
from taskflow.scopes import Scope

PAUSE: Final = 1.0
"""Seconds between two words, for all streams at the same time: their pages then ask together, and are answered by one
look at the database."""

CHANGED: Final = b"event: change\ndata: {}\n\n"


@get("/live", media_type=MEDIA_TYPE, **shows(Scope.READ))
async def live(request: ApiRequest) -> Stream:
    """Server-sent events without content: ``change``, at most once a second."""
    watch = services(request).watch
    inbox = await watch.stream()
    take_time(request, None)
    headers = {"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
    return Stream(_changes(request, watch, inbox), media_type=MEDIA_TYPE, headers=headers)


async def _changes(request: ApiRequest, watch: Watch, inbox: Inbox[Told]) -> AsyncGenerator[bytes]:
    snapshots: Snapshots = request.app.state["snapshots"]
    pulse: Pulse = request.app.state["pulse"]
    with attending(request, watch, inbox), pulse.felt(services(request).pool, inbox):
        yield ALIVE
        reader = Reader(request, inbox)
        while not inbox.is_closed:
            told, has_missed = await reader.take()
            if told or has_missed:
                snapshots.tell()
                yield CHANGED
                await asyncio.sleep(PAUSE - time.monotonic() % PAUSE)
            else:
                yield ALIVE
