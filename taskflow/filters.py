"""Which tasks somebody means, and how far a list of them has been read."""

import base64
import binascii
import struct
import zlib
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from taskflow.errors import InvalidTask
from taskflow.model import Priority, Status, Time

Text = Annotated[str, Meta(min_length=1, max_length=128)]


class TaskFilter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tasks that meet all that is given."""

    status: Status | None = None
    priority: Priority | None = None
    type: Annotated[Text | None, Meta(description="the task type", examples=["send_email"])] = None
    name: Annotated[Text | None, Meta(description="what the name holds, in any case", examples=["ada"])] = None
    tenant: Annotated[
        Text | None, Meta(description="the tenant; a succeeded task has none any more", examples=["acme"])
    ] = None
    key: Annotated[
        Text | None,
        Meta(description="the `unique_key` of a queued or running task, or an `order_key`", examples=["report of May"]),
    ] = None
    created_after: Annotated[
        Time | None, Meta(description="created then or later, with a time zone", examples=["2026-01-31T12:00:00Z"])
    ] = None
    created_before: Annotated[
        Time | None, Meta(description="created earlier, with a time zone", examples=["2026-02-01T00:00:00+01:00"])
    ] = None


class Sort(StrEnum):
    """The order of a list: ids are in the order of creation."""

    NEWEST = "-id"
    OLDEST = "id"


class Cursor(Struct, frozen=True):
    """Where to go on: behind the task *id*, and not beyond the task *until*, which was the newest when it began."""

    id: int
    until: int


SHAPE: Final = struct.Struct(">qqI")


def write_cursor(cursor: Cursor, filter: TaskFilter, use: str) -> str:
    """*cursor* as opaque text, for *filter* and *use* only."""
    packed = SHAPE.pack(cursor.id, cursor.until, _fingerprint(filter, use))
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def read_cursor(text: str, filter: TaskFilter, use: str) -> Cursor:
    """What was written; raises InvalidTask if *text* was not, or not for this *filter* and *use*."""
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        id, until, fingerprint = SHAPE.unpack(packed)
    except (ValueError, binascii.Error, struct.error) as error:
        raise InvalidTask("cursor", "is not one that was given here") from error
    if fingerprint != _fingerprint(filter, use):
        raise InvalidTask("cursor", "belongs to a list with another filter or order")
    return Cursor(id, until)


def _fingerprint(filter: TaskFilter, use: str) -> int:
    return zlib.crc32(msgspec.json.encode((filter, use)))
