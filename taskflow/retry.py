"""When a failed attempt is tried again. Pure: randomness is an argument."""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from msgspec import Struct

LONGEST: Final = timedelta(days=1)


class Backoff(Struct, frozen=True):
    """Exponential backoff with jitter: attempt *n* waits ``first × factor^(n-1)``, at most ``longest``.

    ``jitter`` is the share of the delay that is drawn at random: 0 is none, 0.5 draws from 50 % to 100 %.
    """

    first: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    longest: timedelta = timedelta(minutes=10)
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if not timedelta(0) <= self.first <= self.longest <= LONGEST:
            raise ValueError(f"backoff wants 0 <= first <= longest <= {LONGEST}; got {self.first} and {self.longest}")
        if not self.factor >= 1 or not 0 <= self.jitter <= 1:
            raise ValueError(f"backoff wants factor >= 1 and 0 <= jitter <= 1; got {self.factor} and {self.jitter}")

    def delay(self, attempt: int, random: Callable[[], float]) -> timedelta:
        """How long to wait after *attempt* (from 1) failed; *random* returns a float in [0, 1)."""
        if not self.first:
            return timedelta(0)
        try:
            grown = self.first.total_seconds() * self.factor ** (attempt - 1)
        except OverflowError:
            grown = float("inf")
        whole = min(grown, self.longest.total_seconds())
        return timedelta(seconds=whole * (1 - self.jitter * random()))
