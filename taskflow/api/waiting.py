"""Wait for the end of a task."""

import asyncio
import re
import time
from typing import Annotated, Final

from litestar.openapi.spec import OpenAPIType
from litestar.params import QueryParameter

from taskflow import queries
from taskflow.api.auth import recheck
from taskflow.api.problems import InvalidRequest, TaskNotFound
from taskflow.api.services import ApiRequest, services
from taskflow.api.timing import take_time
from taskflow.queries import TaskView

LONGEST: Final = 60.0
"""Seconds that a request may wait."""

Wait = Annotated[
    str,
    QueryParameter(
        description="seconds to wait for the task's end, if it has not come yet",
        schema_extra={"type": OpenAPIType.NUMBER, "minimum": 0, "maximum": LONGEST, "default": 0},
    ),
]


def read_wait(text: str) -> float:
    """Seconds; raises InvalidRequest."""
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or (seconds := float(text)) > LONGEST:
        raise InvalidRequest(f"wait: expected seconds, from 0 to {LONGEST:g}", "wait")
    return seconds


async def find(request: ApiRequest, id: int) -> TaskView:
    """The task; raises TaskNotFound."""
    async with services(request).pool.connection() as conn:
        task = await queries.find_task(conn, id)
    if task is None:
        raise TaskNotFound
    return task


async def wait_for_end(request: ApiRequest, id: int, seconds: float) -> TaskView:
    """The task when it has ended, or after *seconds*, or when the server stops or the client leaves.

    Meanwhile no connection to Postgres is held. Raises TaskNotFound, TooManyWatch.
    """
    take_time(request, seconds)
    watch = services(request).watch
    deadline = time.monotonic() + seconds
    inbox = watch.follow(id)
    leaving = asyncio.create_task(_until_gone(request))
    try:
        task = await find(request, id)
        while not (task.status.is_final or inbox.is_closed or leaving.done()):
            if (left := deadline - time.monotonic()) <= 0:
                break
            taking = asyncio.create_task(inbox.take(left))
            await asyncio.wait([taking, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                taking.cancel()
            elif any(taking.result()):
                task = await find(request, id)
        await recheck(request)  # the token may have been revoked meanwhile
        return task
    finally:
        leaving.cancel()
        watch.leave(inbox)


async def _until_gone(request: ApiRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
