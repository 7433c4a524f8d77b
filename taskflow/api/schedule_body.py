"""What the routes of schedules accept, and how it becomes a NewSchedule."""

from typing import Annotated

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, structs

from taskflow.api.body import check_text, read_payload
from taskflow.errors import InvalidTask
from taskflow.model import Missed, NewSchedule, Priority
from taskflow.recurrence import check_name, parse_rule
from taskflow.registry import Registry
from taskflow.schedules import ScheduleView
from taskflow.settings import Settings

Label = Annotated[str, Meta(min_length=1, max_length=128)]

RuleText = Annotated[
    str,
    Meta(
        max_length=200,
        description="five cron fields, `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`, or `every 30s` (m, h, d)",
        examples=["0 7 * * 1-5"],
    ),
]
ZoneName = Annotated[str, Meta(max_length=98, description="in which cron fields are read", examples=["Europe/Berlin"])]
TypeName = Annotated[Label, Meta(description="a registered task type", examples=["send_email"])]
Payload = Annotated[
    Raw,
    Meta(
        description="what the task type wants: a JSON object, or a string that holds one",
        examples=[{"to": "ada@example.com"}],
        extra_json_schema={"anyOf": [{"type": "object"}, {"type": "string", "minLength": 2}]},
    ),
]
Attempts = Annotated[
    Annotated[int, Meta(ge=1, le=2**31 - 1)] | None, Meta(description="unless given, what the task type says")
]
MissedTicks = Annotated[
    Missed,
    Meta(description="ticks while no worker ran get no task, one for all of them, or one each (1,000 at most)"),
]
TickField = Annotated[Label | None, Meta(description="the field of the payload that gets the time of the tick")]


class ScheduleRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A schedule to make."""

    name: Annotated[Label, Meta(description="unique; its tasks have it too; without /", examples=["morning mail"])]
    rule: RuleText
    time_zone: ZoneName = "UTC"
    type: TypeName
    payload: Payload | UnsetType = UNSET
    priority: Priority = Priority.NORMAL
    max_attempts: Attempts = None
    missed: MissedTicks = Missed.ONCE
    tick_field: TickField = None


class ScheduleChanges(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be changed of a schedule; the rest stays."""

    rule: RuleText | UnsetType = UNSET
    time_zone: ZoneName | UnsetType = UNSET
    type: TypeName | UnsetType = UNSET
    payload: Payload | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    max_attempts: Attempts | UnsetType = UNSET
    missed: MissedTicks | UnsetType = UNSET
    tick_field: TickField | UnsetType = UNSET


def change(kept: ScheduleView, changes: ScheduleChanges) -> ScheduleRequest:
    """The request that would make *kept* with *changes*."""
    given = {name: getattr(kept, name) for name in ScheduleRequest.__struct_fields__}
    return ScheduleRequest(**given | {k: v for k, v in structs.asdict(changes).items() if v is not UNSET})


def read_schedule(request: ScheduleRequest, registry: Registry, settings: Settings) -> NewSchedule:
    """The schedule that is asked for; raises InvalidSchedule or InvalidTask with the field at fault."""
    for field in ("name", "type", "tick_field"):
        check_text(field, getattr(request, field) or "")
    check_name(request.name)
    if request.priority is Priority.TEST and not settings.enable_test_queue:
        raise InvalidTask("priority", "the test queue is off; ENABLE_TEST_QUEUE turns it on")
    return registry.check_schedule(
        NewSchedule(
            name=request.name,
            rule=parse_rule(request.rule, request.time_zone).text,
            time_zone=request.time_zone,
            type=request.type,
            payload=Raw(b"{}" if request.payload is UNSET else read_payload(request.payload, settings)),
            priority=request.priority,
            max_attempts=request.max_attempts or 0,
            missed=request.missed,
            tick_field=request.tick_field,
        )
    )
