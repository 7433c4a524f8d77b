"""The API from Python, over HTTP: ``Client``, and ``AsyncClient`` whose methods are awaited."""

from taskflow.client.answers import Page, Step, Task
from taskflow.client.errors import (
    ApiError,
    BadRequest,
    Busy,
    Conflict,
    NotAllowed,
    NotFound,
    StillRunning,
    Unavailable,
    Unreachable,
)
from taskflow.client.http import AsyncClient, Client

__all__ = [
    "ApiError",
    "AsyncClient",
    "BadRequest",
    "Busy",
    "Client",
    "Conflict",
    "NotAllowed",
    "NotFound",
    "Page",
    "Step",
    "StillRunning",
    "Task",
    "Unavailable",
    "Unreachable",
]
