"""The examples of the API's description: one task, from its enqueue to its end."""

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Raw

from taskflow.api.batch import AddedTasks
from taskflow.api.schedules import SchedulePage
from taskflow.api.tasks import Added, History, HistoryEntry
from taskflow.model import Missed, Priority, Status
from taskflow.queries import TaskView
from taskflow.recurrence import parse_rule
from taskflow.schedules import ScheduleView

ENQUEUED: Final = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
STARTED: Final = ENQUEUED + timedelta(milliseconds=4)
FINISHED: Final = STARTED + timedelta(seconds=3)

PAYLOAD: Final = Raw(b'{"to": "ada@example.com"}')

REQUEST: Final = {"name": "welcome Ada", "type": "send_email", "payload": msgspec.json.decode(PAYLOAD)}
BATCH: Final = [REQUEST, REQUEST | {"priority": "low", "delay_seconds": 3600, "max_attempts": 3}]
ACTION: Final = {"action": "retry", "filter": {"status": "failed", "type": "send_email"}, "dry_run": True}
LINES: Final = msgspec.json.Encoder().encode_lines(BATCH).decode()


def _changed(old: Status, new: Status, when: datetime) -> HistoryEntry:
    return HistoryEntry(
        task_id=1,
        old_status=old,
        new_status=new,
        created_at_stamp=int(when.timestamp()),
        created_at=when,
        attempt=1,
        worker="mail-1",
        reason=None,
    )


SCHEDULE: Final = {
    "name": "morning mail",
    "rule": "0 7 * * 1-5",
    "time_zone": "Europe/Berlin",
    "type": "send_email",
    "payload": msgspec.json.decode(PAYLOAD),
}

_SCHEDULED: Final = ScheduleView(
    name="morning mail",
    rule="0 7 * * 1-5",
    description="At 07:00 on Monday through Friday",
    time_zone="Europe/Berlin",
    type="send_email",
    payload=PAYLOAD,
    priority=Priority.NORMAL,
    max_attempts=5,
    missed=Missed.ONCE,
    tick_field=None,
    is_declared=False,
    is_kept=True,
    paused_at=None,
    pause_reason=None,
    next_ticks=list(islice(parse_rule("0 7 * * 1-5", "Europe/Berlin").ticks(ENQUEUED), 5)),
    last_tick=None,
    last_task_id=None,
    last_status=None,
    created_at=ENQUEUED,
    updated_at=ENQUEUED,
)

ANSWERS: Final = (
    _SCHEDULED,
    SchedulePage([_SCHEDULED], next=None),
    Added(added_task_id=1),
    AddedTasks(added_task_ids=[1, 2]),
    TaskView(
        id=1,
        name="welcome Ada",
        type="send_email",
        priority=Priority.NORMAL,
        status=Status.SUCCEEDED,
        attempt=1,
        max_attempts=5,
        payload=PAYLOAD,
        result=None,
        error=None,
        waits_for=[],
        worker="mail-1",
        created_at=ENQUEUED,
        updated_at=FINISHED,
        scheduled_at=ENQUEUED,
        started_at=STARTED,
        finished_at=FINISHED,
    ),
    History(
        [
            _changed(Status.QUEUED, Status.RUNNING, STARTED),
            _changed(Status.RUNNING, Status.SUCCEEDED, FINISHED),
        ]
    ),
)


def add_to(schemas: dict[str, Any]) -> None:
    """Give each schema of an answer its example."""
    for example in ANSWERS:
        schemas[type(example).__name__]["examples"] = [msgspec.json.decode(msgspec.json.encode(example))]
