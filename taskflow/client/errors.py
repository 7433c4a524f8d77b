"""What a call to the server may raise."""

from typing import Any, Final

from msgspec import Struct

from taskflow.client.answers import Task
from taskflow.errors import TaskflowError


class Problem(Struct, frozen=True):
    """What the server says went wrong, as RFC 9457 describes it."""

    title: str = "Error"
    detail: str = ""
    type: str = "about:blank"
    field: str | None = None
    errors: list[dict[str, Any]] = []


class ApiError(TaskflowError):
    """The server refused a request; ``field`` names what is at fault, ``errors`` those of a batch."""

    def __init__(self, status: int, problem: Problem) -> None:
        super().__init__(f"{status} {problem.title}: {problem.detail}")
        self.status = status
        self.title = problem.title
        self.detail = problem.detail
        self.type = problem.type
        self.field = problem.field
        self.errors = problem.errors


class BadRequest(ApiError):
    """400, 413, 415 or 422: the request cannot be used as it is."""


class NotAllowed(ApiError):
    """401 or 403: the token is missing, dead, or lacks the scope."""


class NotFound(ApiError):
    """404: there is no such task."""


class Conflict(ApiError):
    """409: the task's status, or its key, does not allow it."""


class Busy(ApiError):
    """429: this caller may ask again later."""


class Unavailable(ApiError):
    """503: the server or its database cannot answer now; what was to be changed may have been changed."""


class Unreachable(TaskflowError):
    """No answer came; what was to be changed may have been changed."""


class StillRunning(TaskflowError):
    """The task has not ended in the time that was given; ``task`` is as it stood."""

    def __init__(self, task: Task, seconds: float) -> None:
        super().__init__(f"task {task.id} is still {task.status} after {seconds:g} s")
        self.task = task


ERRORS: Final[dict[int, type[ApiError]]] = {
    **dict.fromkeys((400, 413, 415, 422), BadRequest),
    **dict.fromkeys((401, 403), NotAllowed),
    404: NotFound,
    409: Conflict,
    429: Busy,
    503: Unavailable,
}
