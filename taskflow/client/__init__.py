"""The API from Python, over HTTP: ``Client``, and ``AsyncClient`` whose methods are awaited."""

from taskflow.client.answers import AddedGroup, Group, Page, Progress, Step, Task
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
    "AddedGroup",
    "ApiError",
    "AsyncClient",
    "BadRequest",
    "Busy",
    "Client",
    "Conflict",
    "Group",
    "NotAllowed",
    "NotFound",
    "Page",
    "Progress",
    "Step",
    "StillRunning",
    "Task",
    "Unavailable",
    "Unreachable",
]
