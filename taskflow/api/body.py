"""What `POST /tasks` accepts, and how it becomes a NewTask."""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from taskflow.api.problems import InvalidRequest
from taskflow.errors import InvalidTask
from taskflow.model import NewTask, Priority
from taskflow.registry import Registry


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


_decoder: Final = msgspec.json.Decoder(TaskRequest)
_text: Final = msgspec.json.Decoder(str)

FIELD_NAMED: Final = re.compile(r"field `([^`]*)`")
"""In msgspec's message about a missing or an unknown field."""

STORABLE_ESCAPES: Final = re.compile(
    rb"(?:[^\\]|\\[^u]|\\u(?!0000|[dD][89a-fA-F])....|\\u[dD][89abAB]..\\u[dD][c-fC-F]..)*+", re.DOTALL
)
"""JSON without \\u0000 and without half of a surrogate pair, which jsonb cannot hold."""


def read_task(body: bytes, registry: Registry, *, with_test_queue: bool) -> NewTask:
    """The task that *body* asks for.

    Raises InvalidRequest if it is no JSON, InvalidTask or UnknownTaskType if the task cannot be enqueued.
    """
    request = _decode(body)
    if "\0" in request.name:
        raise InvalidTask("name", "must not hold the character U+0000")
    if request.priority is Priority.TEST and not with_test_queue:
        raise InvalidTask("priority", "the test queue is off; ENABLE_TEST_QUEUE turns it on")
    payload = _payload(request.payload)
    task_type = registry.validate(request.type, payload)
    return NewTask(
        name=request.name,
        type=request.type,
        payload=Raw(payload),
        priority=request.priority,
        max_attempts=task_type.max_attempts,
    )


def _decode(body: bytes) -> TaskRequest:
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        if named := FIELD_NAMED.search(problem):
            path = named[1]
        raise InvalidTask(path.strip(".`"), problem) if path else InvalidRequest(f"the body: {problem}") from error
    except RecursionError as error:
        raise InvalidRequest("the body is nested too deeply") from error
    except ValueError as error:
        raise InvalidRequest(f"the body is not JSON in UTF-8: {error}") from error


def _payload(given: Raw) -> bytes:
    """The JSON object itself, as jsonb can hold it; whether it is well-formed is left to the task type's decoder."""
    payload = bytes(given)
    try:
        if payload.startswith(b'"'):
            payload = _text.decode(payload).strip(" \t\r\n").encode()
        payload.decode()
    except ValueError as error:
        raise InvalidTask("payload", f"not text in UTF-8: {error}") from error
    if not payload.startswith(b"{"):
        raise InvalidTask("payload", "expected a JSON object, or a string that holds one")
    if b"\0" in payload or (rb"\u" in payload and not STORABLE_ESCAPES.fullmatch(payload)):
        raise InvalidTask("payload", r"its texts must not hold \u0000 or half of a surrogate pair")
    return payload
