"""What `POST /tasks` accepts, and how it becomes a NewTask."""

from datetime import datetime
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from taskflow.api.depth import is_deeper
from taskflow.api.problems import InvalidRequest
from taskflow.errors import InvalidTask, fault
from taskflow.model import CENTURY, NewTask, OnConflict, Priority, Time, is_within
from taskflow.registry import Registry
from taskflow.settings import Settings
from taskflow.storable import is_storable

T = TypeVar("T")

Key = Annotated[str, Meta(min_length=1, max_length=128)]


class TaskRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task to enqueue."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=128,
            description="for people; need not be unique",
            examples=["welcome Ada"],
        ),
    ]
    type: Annotated[
        str,
        Meta(min_length=1, max_length=128, description="a registered task type", examples=["send_email"]),
    ]
    payload: Annotated[
        Raw,
        Meta(
            description="what the task type wants: a JSON object, or a string that holds one",
            examples=[{"to": "ada@example.com"}, '{"to": "ada@example.com"}'],
            extra_json_schema={"anyOf": [{"type": "object"}, {"type": "string", "minLength": 2}]},
        ),
    ]
    priority: Priority = Priority.NORMAL
    scheduled_at: Annotated[
        Time | None,
        Meta(
            description="due from then on, with a time zone, from 1970 to 9998; not beside `delay_seconds`",
            examples=["2026-12-24T18:00:00+01:00"],
        ),
    ] = None
    delay_seconds: Annotated[
        Annotated[float, Meta(ge=0, le=CENTURY)] | None,
        Meta(description="due so much later, by the database's clock", examples=[90]),
    ] = None
    max_attempts: Annotated[
        Annotated[int, Meta(ge=1, le=2**31 - 1)] | None,
        Meta(description="unless given, what the task type says", examples=[3]),
    ] = None

    after: Annotated[
        Annotated[list[Annotated[int, Meta(ge=1, le=2**63 - 1)]], Meta(max_length=1000)] | None,
        Meta(description="ids of tasks: claimed only when all of them have succeeded", examples=[[7, 8]]),
    ] = None
    after_failure: Annotated[
        Literal["cancel", "run"],
        Meta(description="if one of `after` fails or is cancelled: cancel this task, or run it all the same"),
    ] = "cancel"
    order_key: Annotated[
        Key | None, Meta(description="tasks of one key run one at a time, in the order of their ids", examples=["ada"])
    ] = None
    tenant: Annotated[
        Key | None, Meta(description="tenants with work take turns within a priority", examples=["acme"])
    ] = None
    limit_key: Annotated[
        Key | None, Meta(description="whose share of the task type's limits per key it uses", examples=["smtp-1"])
    ] = None
    unique_key: Annotated[
        Key | None, Meta(description="of all queued and running tasks, one may have it", examples=["report of May"])
    ] = None
    on_conflict: Annotated[
        OnConflict,
        Meta(
            description="where a task has the `unique_key`: `reject` this one with 409, answer the `existing` one, or "
            "`replace` the payload of that while it is queued"
        ),
    ] = OnConflict.REJECT


_decoder: Final = msgspec.json.Decoder(TaskRequest)
_text: Final = msgspec.json.Decoder(str)


def read_task(body: bytes, registry: Registry, settings: Settings) -> NewTask:
    """The task that *body* asks for.

    Raises InvalidRequest if it is no JSON, InvalidTask or UnknownTaskType if the task cannot be enqueued.
    """
    request = decode(_decoder, body, "a task")
    for field in ("name", "order_key", "tenant", "limit_key", "unique_key"):
        check_text(field, getattr(request, field) or "")
    check_priority(request.priority, settings)
    if request.scheduled_at is not None:
        _check_schedule(request.scheduled_at, request.delay_seconds)
    if request.on_conflict is not OnConflict.REJECT and request.unique_key is None:
        raise InvalidTask("on_conflict", "is for tasks with a unique_key")
    payload = read_payload(request.payload, settings)
    task_type = registry.validate(request.type, payload)
    return NewTask(
        name=request.name,
        type=request.type,
        payload=Raw(payload),
        priority=request.priority,
        max_attempts=request.max_attempts or task_type.max_attempts,
        scheduled_at=request.scheduled_at,
        delay=request.delay_seconds,
        after=tuple(request.after) if request.after else None,
        after_failure=request.after_failure,
        order_key=request.order_key,
        tenant=request.tenant,
        limit_key=request.limit_key,
        unique_key=request.unique_key,
        on_conflict=request.on_conflict,
    )


def decode(decoder: msgspec.json.Decoder[T], body: bytes, what: str) -> T:
    """What *body* holds; *what* it should be is said in the InvalidRequest or InvalidTask that is raised otherwise."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        field, problem = fault(error)
        raise InvalidTask(field, problem) if field else InvalidRequest(f"not {what}: {problem}") from error
    except RecursionError as error:
        raise InvalidRequest("nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"not JSON in UTF-8: {error}") from error


def check_text(field: str, text: str) -> None:
    """Raises InvalidTask if Postgres cannot hold *text*."""
    if "\0" in text:
        raise InvalidTask(field, "must not hold the character U+0000")


def check_priority(priority: Priority | None, settings: Settings) -> None:
    """Raises InvalidTask for the test queue, unless it is turned on."""
    if priority is Priority.TEST and not settings.enable_test_queue:
        raise InvalidTask("priority", "the test queue is off; ENABLE_TEST_QUEUE turns it on")


def _check_schedule(scheduled_at: datetime, delay: float | None) -> None:
    if delay is not None:
        raise InvalidTask("scheduled_at", "must not be given beside delay_seconds")
    if not is_within(scheduled_at):
        raise InvalidTask("scheduled_at", "must lie in the years 1970 to 9998")


def read_payload(given: Raw, settings: Settings) -> bytes:
    """The JSON object itself, as jsonb can hold it; whether it is well-formed is left to the task type's decoder.

    Raises InvalidTask.
    """
    payload = bytes(given)
    try:
        if payload.startswith(b'"'):
            payload = _text.decode(payload).strip(" \t\r\n").encode()
        payload.decode()
    except ValueError as error:
        raise InvalidTask("payload", f"not text in UTF-8: {error}") from error
    if not payload.startswith(b"{"):
        raise InvalidTask("payload", "expected a JSON object, or a string that holds one")
    if not is_storable(payload):
        raise InvalidTask("payload", r"its texts must not hold \u0000 or half of a surrogate pair")
    if is_deeper(payload, settings.server_max_json_depth):
        raise InvalidTask("payload", f"is nested more than {settings.server_max_json_depth} deep")
    return payload
