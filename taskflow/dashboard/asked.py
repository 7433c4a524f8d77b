"""Which tasks a page is asked for: the filter in its address, and in the forms that act on what it shows."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlencode

import msgspec
from msgspec import Struct, structs

from taskflow.api.body import check_text
from taskflow.errors import InvalidTask, fault
from taskflow.filters import TaskFilter

FIELDS: Final = tuple(field.name for field in structs.fields(TaskFilter))
TIMES: Final = ("created_after", "created_before")

LOCAL: Final = re.compile(r"[0-9]{4,5}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(?:\.[0-9]+)?)?")
"""What an input for a time sends."""

SINCE: Final = {"900": "15 minutes", "3600": "hour", "86400": "day", "604800": "week"}
"""Seconds, and how they read."""


class Asked(Struct, frozen=True):
    """A filter, as text too; ``problem`` names the field at fault where it cannot be meant, and what is wrong."""

    filter: TaskFilter
    given: dict[str, str]
    problem: tuple[str, str] | None = None

    @property
    def address(self) -> str:
        """The filter as a query that means the same later on, too."""
        return urlencode(self.given)


def in_utc(text: str) -> str:
    """A time as an input sends it, with the zone that is meant; anything else as it is."""
    local = LOCAL.fullmatch(text)
    return text if local is None else text + ("Z" if local[1] else ":00Z")


def read_asked(query: Mapping[str, str]) -> Asked:
    """What *query* asks for; empty fields are none, times without a zone are in UTC, ``since`` counts from now."""
    given = {name: query[name].strip() for name in FIELDS if query.get(name, "").strip()}
    if (since := query.get("since", "")) in SINCE and "created_after" not in given:
        begin = datetime.now(UTC) - timedelta(seconds=int(since))
        given["created_after"] = begin.isoformat(timespec="seconds")
    given |= {name: in_utc(given[name]) for name in TIMES if name in given}
    try:
        for name, text in given.items():
            check_text(name, text)
        return Asked(msgspec.convert(given, TaskFilter), given)
    except InvalidTask as error:
        return Asked(TaskFilter(), {}, (error.field, error.problem))
    except msgspec.ValidationError as error:
        return Asked(TaskFilter(), {}, fault(error))
