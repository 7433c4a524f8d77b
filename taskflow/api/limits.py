"""How often a caller may come: each token, and each address without one, has a bucket of its own."""

import math
from ipaddress import ip_address, ip_network
from typing import Final

from litestar.exceptions import TooManyRequestsException

WINDOW: Final = 60.0
"""Seconds; so much may come at once as comes in steadily within them."""


class TooManyRequests(TooManyRequestsException):
    """The caller comes too often; *wait* is in seconds."""

    def __init__(self, wait: float) -> None:
        seconds = max(1, math.ceil(wait))
        super().__init__(f"too many requests; come again in {seconds} s", headers={"Retry-After": str(seconds)})


class RateLimit:
    """Admits *per_minute* requests of each caller: at once, or spread. Times are seconds of any steady clock.

    The generic cell rate algorithm: of each caller, only the time is kept at which its bucket is full again.
    """

    def __init__(self, per_minute: int) -> None:
        self._interval = WINDOW / per_minute
        self._full_at: dict[str, float] = {}
        self._swept_at = 0.0

    def take(self, caller: str, now: float) -> None:
        """Count one request of *caller*; raises TooManyRequests, without counting it, if its bucket is empty."""
        full_at = max(self._full_at.get(caller, now), now) + self._interval
        if (wait := full_at - now - WINDOW) > self._interval / 1_000:  # a sum of floats is not exact
            raise TooManyRequests(wait)
        self._full_at[caller] = full_at
        if now - self._swept_at > WINDOW:
            self._swept_at = now
            self._full_at = {caller: full_at for caller, full_at in self._full_at.items() if full_at > now}


def network_of(address: str) -> str:
    """What counts as one caller: an IPv4 address, or the /64 network of an IPv6 address, which is one customer's."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return address if parsed.version == 4 else str(ip_network((parsed, 64), strict=False))
