"""Rules: when a schedule ticks. Cron by cronsim, or every so many seconds. Pure: the time is an argument."""

import re
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from msgspec import Struct

from taskflow.errors import InvalidSchedule
from taskflow.model import Missed

LONGEST_RULE: Final = 200
"""Characters."""

LONGEST_PERIOD: Final = 366 * 86_400
"""Seconds."""

FORMS: Final = "expected five cron fields as in `0 7 * * 1-5`, `@daily`, or `every 30s`"

ALIASES: Final = {
    "@yearly": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@hourly": "0 * * * *",
}

UNITS: Final = {"s": (1, "second"), "m": (60, "minute"), "h": (3600, "hour"), "d": (86_400, "day")}

LOOK_BACKS: Final = tuple(timedelta(days=days) for days in (1 / 24, 1, 40, 400, 20_000))


MOST: Final = 1000
"""Missed ticks of which each gets its task."""

GRACE: Final = timedelta(minutes=1)
"""A tick that is less late was not missed: a worker's restart takes as long."""


class Rule(Struct, frozen=True):
    """A rule that ``parse_rule`` has read: it ticks again and again."""

    text: str
    time_zone: str

    def next_after(self, moment: datetime) -> datetime:
        """The first tick later than *moment*, in UTC."""
        return next(self.ticks(moment))

    def due(self, missed: Missed, first: datetime, now: datetime) -> list[datetime]:
        """Which of the ticks from *first* to *now* get a task, oldest first."""
        ticks = self.latest(first, now, MOST if missed is Missed.ALL else 1)
        return [] if missed is Missed.SKIP and now - ticks[-1] >= GRACE else ticks

    def latest(self, first: datetime, now: datetime, most: int) -> list[datetime]:
        """The last ticks from *first*, itself one and due, to *now*, oldest first: *most* of them if there are more."""
        found: deque[datetime] = deque(maxlen=most)
        for span in LOOK_BACKS:  # there may be millions since the first
            start = now - span
            found.clear()
            if start <= first:
                found.append(start := first)
            for tick in self.ticks(start):
                if tick > now:
                    break
                found.append(tick)
            if len(found) == most or start == first:
                break
        return list(found)

    def describe(self) -> str:
        """In plain English."""
        if seconds := _period(self.text):
            size, unit = max(pair for pair in UNITS.values() if seconds % pair[0] == 0)
            count = seconds // size
            return f"Every {unit}" if count == 1 else f"Every {count} {unit}s"
        return CronSim(ALIASES.get(self.text, self.text), datetime(2000, 1, 1, tzinfo=UTC)).explain()

    def ticks(self, after: datetime) -> Iterator[datetime]:
        """The ticks later than *after*, in UTC, each once."""
        after = after.astimezone(UTC)
        if seconds := _period(self.text):
            number = int(after.timestamp() // seconds)
            while True:
                number += 1
                yield datetime.fromtimestamp(number * seconds, UTC)
        for local in CronSim(ALIASES.get(self.text, self.text), after.astimezone(ZoneInfo(self.time_zone))):
            if (tick := local.astimezone(UTC)) > after:  # where clocks go back, cronsim may begin an hour too early
                after = tick
                yield tick


def check_name(name: str) -> None:
    """Raise InvalidSchedule unless *name* can be a schedule's, which is part of a path."""
    if not (1 <= len(name) <= 128 and name.isprintable()) or "/" in name or name in {".", ".."}:
        raise InvalidSchedule("name", "has 1 to 128 printable characters, none of them /")


def parse_rule(text: str, time_zone: str = "UTC") -> Rule:
    """Read *text*: five cron fields, one of ALIASES, or ``every 30s`` (m, h, d); raises InvalidSchedule.

    ``every`` counts from the Unix epoch, so that all who compute a tick agree. Where clocks skip an hour, a tick inside
    it comes at its end; where they repeat one, a tick at a fixed hour comes once, at the first.
    """
    rule = Rule(" ".join(text.split()), time_zone)
    if len(text) > LONGEST_RULE or not text.isascii():
        raise InvalidSchedule("rule", f"has at most {LONGEST_RULE} characters, all of them ASCII")
    _check_zone(time_zone)
    if rule.text.startswith("every"):
        if not 1 <= _period(rule.text) <= LONGEST_PERIOD:
            raise InvalidSchedule("rule", "a period is as in `every 30s`, 5m, 2h or 1d, of at most 366d")
        return Rule(rule.text.replace(" ", "").replace("every", "every "), time_zone)
    fields = ALIASES.get(rule.text, rule.text).split()
    if len(fields) != 5:
        raise InvalidSchedule("rule", FORMS)
    try:
        rule.next_after(datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        raise InvalidSchedule("rule", f"{str(error).lower()}; {FORMS}") from error
    except (ValueError, TypeError, AssertionError) as error:
        raise InvalidSchedule("rule", FORMS) from error
    except StopIteration as error:
        raise InvalidSchedule("rule", "there is no such day") from error
    return rule


def _period(text: str) -> int:
    """The seconds of ``every …``; 0 if *text* is anything else."""
    written = re.fullmatch(r"every ?([1-9][0-9]{0,7}) ?([smhd])", text)
    return int(written[1]) * UNITS[written[2]][0] if written else 0


def _check_zone(name: str) -> None:
    if name == "localtime" or not re.fullmatch(r"[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}", name):
        raise InvalidSchedule("time_zone", "expected a name such as Europe/Berlin")
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise InvalidSchedule("time_zone", f"unknown time zone {name!r}") from error
