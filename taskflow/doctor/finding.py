"""What a look at an installation may find."""

from enum import StrEnum

from msgspec import Struct


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"  # it works, and may become slow or surprising
    PROBLEM = "problem"  # something does not work, or soon will not


class Finding(Struct, frozen=True, omit_defaults=True):
    """What one check found, and what to do about it."""

    check: str
    level: Level
    found: str
    advice: str = ""


class Limits(Struct, frozen=True, kw_only=True):
    """From where on something is a warning, and a problem."""

    clock: tuple[float, float] = (1, 60)  # seconds between our clock and Postgres'
    transaction: tuple[float, float] = (300, 3_600)  # seconds that one lasts
    snapshot: tuple[int, int] = (1_000_000, 50_000_000)  # transactions since it was taken
    notifications: tuple[float, float] = (0.05, 0.5)  # share of the queue
    connections: tuple[float, float] = (0.8, 0.95)  # share of those there may be
    wraparound: tuple[int, int] = (1_000_000_000, 1_800_000_000)  # transactions; Postgres stops at 2 ** 31
    sequence: tuple[float, float] = (0.5, 0.9)  # share of its numbers
    dead: tuple[float, float] = (2, 10)  # dead rows for each live one, of DEAD_ROWS or more


def judge(check: str, value: float, limits: tuple[float, float], found: str, advice: str) -> Finding:
    """The finding about a *value* that should be small; the *advice* is given where it is not."""
    warning, problem = limits
    if value < warning:
        return Finding(check, Level.OK, found)
    return Finding(check, Level.PROBLEM if value >= problem else Level.WARNING, found, advice)
