"""Numbers as few characters."""

from collections.abc import Iterable
from typing import Final

from taskflow.stats import COUNTED

BARS: Final = " ▁▂▃▄▅▆▇█"


def count(number: int, *, more: bool) -> str:
    """``10,000+`` where counting ended."""
    return f"{number:,}+" if more and number >= COUNTED else f"{number:,}"


def age(seconds: float) -> str:
    """How long something lasts: ``4s``, ``3m 05s``, ``2h 10m``, ``5d 3h``."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3_600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3_600}h {whole % 3_600 // 60:02}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3_600}h"


def speed(rate: float) -> str:
    """How many a second."""
    return f"{rate:.1f}" if rate < 10 else f"{rate:,.0f}"


def sparkline(values: Iterable[float], most: float) -> str:
    """*values* as bars, of which that of *most* is the highest; no bar is nothing."""
    return "".join(
        BARS[min(-int(-value / most * 8 // 1), 8)] if most > 0 and value > 0 else BARS[0] for value in values
    )
