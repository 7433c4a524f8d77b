"""What the server answers."""

from typing import Any

import msgspec
from msgspec import Struct

from taskflow.model import Priority, Status, Time


class Progress(Struct, frozen=True, kw_only=True):
    """What the handler told last in ``attempt``; ``checkpoint`` is where the next attempt can go on."""

    attempt: int
    fraction: float | None = None
    message: str | None = None
    checkpoint: dict[str, Any] | None = None
    updated_at: Time


class Task(Struct, frozen=True, kw_only=True):
    """A task as it stood; ``error`` is of the latest failed attempt. A list tells no payload, result and progress."""

    id: int
    name: str
    type: str
    priority: Priority
    status: Status
    attempt: int
    max_attempts: int
    payload: dict[str, Any] = {}
    result: Any = None
    error: str | None = None
    worker: str | None = None
    progress: Progress | None = None
    created_at: Time
    updated_at: Time
    scheduled_at: Time
    started_at: Time | None = None
    finished_at: Time | None = None


class Step(Struct, frozen=True, kw_only=True):
    """One change of a task's status."""

    old_status: Status
    new_status: Status
    attempt: int
    worker: str | None = None
    reason: str | None = None
    created_at: Time


class Page(Struct, frozen=True):
    """Some tasks; ``next`` is the cursor of the next page, and ``complete`` false if this one may be short."""

    tasks: list[Task]
    next: str | None = None
    complete: bool = True


class Group(Struct, frozen=True, kw_only=True):
    """Tasks that were enqueued together, with how many of them have each status."""

    id: int
    name: str | None = None
    created_at: Time
    callback_task_id: int | None = None
    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int


class AddedGroup(Struct, frozen=True, kw_only=True):
    """What was stored, ``task_ids`` in order."""

    id: int = msgspec.field(name="added_group_id")
    task_ids: list[int] = msgspec.field(name="added_task_ids")
    callback_task_id: int | None = None
