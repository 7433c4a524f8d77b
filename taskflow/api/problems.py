"""Every error becomes a response here, once: a problem as RFC 9457 describes it."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Any, Final

import msgspec
import psycopg
import structlog
from litestar import Response
from litestar.exceptions import (
    ClientException,
    HTTPException,
    InternalServerException,
    NotFoundException,
    ServiceUnavailableException,
)
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from msgspec import Meta, Struct, structs

from taskflow.api.auth import Forbidden, Unauthorized
from taskflow.api.limits import TooManyRequests
from taskflow.api.services import ApiRequest
from taskflow.database import AWAY
from taskflow.errors import (
    InvalidSchedule,
    InvalidTask,
    KeyReused,
    KeyTaken,
    TaskflowError,
    UnknownTaskType,
    WorkerIdTaken,
)
from taskflow.model import Status
from taskflow.schedules import DeclaredInCode, NoSuchSchedule, ScheduleNameTaken
from taskflow.scopes import Scope

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = "1"
"""Seconds; sent with each 503."""

LISTED: Final = 20
"""Tasks of a batch whose errors are told, at most."""
LONGEST: Final = 500
"""Characters; what is quoted from a request may be longer."""


class TaskError(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is wrong with one task of a batch."""

    index: Annotated[int, Meta(description="of the task, counted from 0", ge=0)]
    field: Annotated[str | None, Meta(description="a path such as `payload.to`")] = None
    detail: str


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong, as RFC 9457 says it; `field` names what is at fault where there is one."""

    type: Annotated[str, Meta(description="`about:blank`: the status says it all", examples=["about:blank"])]
    title: Annotated[str, Meta(examples=["Not Found"])]
    status: Annotated[int, Meta(examples=[404])]
    detail: Annotated[str, Meta(examples=["no task has this id"])]
    field: Annotated[str | None, Meta(description="a path such as `payload.to`")] = None
    errors: Annotated[list[TaskError] | None, Meta(description="of a batch: the first tasks at fault")] = None


class InvalidRequest(TaskflowError):
    """The request itself cannot be used; *field* names the parameter at fault, if it is one."""

    def __init__(self, problem: str, field: str | None = None) -> None:
        super().__init__(problem)
        self.field = field


class InvalidBatch(TaskflowError):
    """Some tasks of a batch cannot be enqueued, so that none was; *errors* tells of the first ones."""

    def __init__(self, errors: Sequence[TaskError], given: int) -> None:
        listed = f"; the first {LISTED} are listed" if len(errors) > LISTED else ""
        super().__init__(f"{len(errors):,} of {given:,} tasks cannot be enqueued, so none was{listed}")
        self.errors = list(errors[:LISTED])


class WrongStatus(TaskflowError):
    """The task is in a status from which it cannot be changed so."""

    def __init__(self, status: Status, rule: str) -> None:
        super().__init__(f"the task is {status.value}; {rule}")
        self.status = status


class TaskNotFound(NotFoundException):
    """No task has this id."""

    detail = "no task has this id"


class GroupNotFound(NotFoundException):
    """No group has this id."""

    detail = "no group has this id"


class QueueNotFound(NotFoundException):
    """There is no such priority."""

    detail = "no queue has this name"


class WorkerNotFound(NotFoundException):
    """No live worker has this id."""

    detail = "no live worker has this id: it never was, has left, or was taken for gone"


class UnsupportedMediaType(ClientException):
    """The body is announced as something else than what is expected."""

    status_code = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    detail = "the body must be application/json"


class SlowBody(ClientException):
    """The time was over before the body was there; the connection ends, for the rest of it may never come."""

    status_code = HTTPStatus.REQUEST_TIMEOUT
    detail = "the body did not come in time"

    def __init__(self) -> None:
        super().__init__(headers={"Connection": "close"})


def answer(request: ApiRequest, error: Exception) -> Response[bytes]:
    """The response that tells the client of *error*; what nobody foresaw is logged and told without its insides."""
    problem = problem_of(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = RETRY_AFTER
        log.warning("request.refused", path=request.url.path, reason=f"{type(error).__name__}: {error}".strip())
    elif problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("request.crashed", method=request.method, path=request.url.path, exc_info=error)
    return Response(msgspec.json.encode(problem), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def problem_of(error: Exception) -> Problem:
    """What to tell the client of *error*."""
    match error:
        case InvalidTask():
            return _of("invalid-task", "Invalid task", 400, str(error), error.field)
        case KeyTaken():
            return _of("key-taken", "Key taken", 409, str(error), "unique_key")
        case KeyReused():
            return _of("key-reused", "Key reused", 422, str(error), "Idempotency-Key")
        case UnknownTaskType():
            return _of("unknown-task-type", "Unknown task type", 400, str(error), "type")
        case InvalidBatch():
            return structs.replace(_of("invalid-batch", "Invalid batch", 400, str(error)), errors=error.errors)
        case InvalidRequest():
            return _of("invalid-request", "Invalid request", 400, str(error), error.field)
        case WrongStatus():
            return _of("wrong-status", "Wrong status", 409, str(error))
        case InvalidSchedule():
            return _of("invalid-schedule", "Invalid schedule", 400, str(error), error.field)
        case NoSuchSchedule():
            return plain(404, str(error))
        case ScheduleNameTaken() | DeclaredInCode():
            return _of("schedule-conflict", "The schedule is another's", 409, str(error), "name")
        case WorkerIdTaken():
            return _of("worker-name-taken", "Worker name taken", 409, str(error), "name")
        case psycopg.errors.InsufficientPrivilege():
            detail = (
                "the server's database role may not do this; for workers over HTTP it needs taskflow_worker as well"
            )
            return _of("not-granted", "Not granted", 501, detail)
        case ServiceUnavailableException():
            return plain(error.status_code, error.detail)
        case InternalServerException():  # Litestar's word for a client that left in the middle of its body
            return _of("invalid-request", "Invalid request", 400, "the body breaks off")
        case HTTPException() if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
            return plain(error.status_code, error.detail)
        case psycopg.errors.UniqueViolation():  # of a retry: another task with the unique_key came at the same instant
            return plain(409, "another request was faster; send this one again")
        case TimeoutError() | psycopg.errors.QueryCanceled():
            return _of("too-slow", "The request took too long", 503, "it was cancelled; try again later")
        case _ if isinstance(error, AWAY):
            return _of("database-away", "The database cannot be reached", 503, "try again later")
        case _:
            return plain(500, "the server met an error that it did not expect; its log says more")


def documented(*errors: Exception) -> dict[int, ResponseSpec]:
    """What a route that needs a token answers to such *errors*, for its OpenAPI description."""
    refusals = (Unauthorized(), Forbidden(Scope.ENQUEUE), TooManyRequests(1))
    problems = [problem_of(error) for error in (*refusals, *errors)]
    return {
        problem.status: ResponseSpec(
            Problem,
            description=HTTPStatus(problem.status).phrase,
            media_type=MEDIA_TYPE,
            generate_examples=False,
            examples=[Example(id="problem", value=msgspec.to_builtins(problem))],
        )
        for problem in problems
    }


def _of(kind: str, title: str, status: int, detail: str, field: str | None = None) -> Problem:
    return Problem(
        type=f"urn:taskflow:problem:{kind}",
        title=title,
        status=status,
        detail=_shorten(detail),
        field=None if field is None else _shorten(field),
    )


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def plain(status: int, detail: str) -> Problem:
    """A problem that its status says all about."""
    return Problem(type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail)


ANSWERS: Final[dict[Any, Any]] = {Exception: answer}
"""Litestar's exception_handlers."""
