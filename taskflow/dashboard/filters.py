"""How values read on a page: counts, durations, times, JSON."""

from datetime import UTC, datetime
from typing import Any

import msgspec
from markupsafe import Markup, escape

from taskflow.stats import COUNTED


def count(number: int, more: bool = False) -> str:
    """``1,234``; ``10,000+`` where no more were counted."""
    return f"{min(number, COUNTED):,}+" if more or number > COUNTED else f"{number:,}"


def duration(seconds: float | None) -> str:
    """*seconds* in the two units that matter: ``340 ms``, ``12.5 s``, ``3 min 20 s``, ``2 h 5 min``, ``4 d 3 h``."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    for large, small, unit, lesser in ((60, 1, "min", "s"), (3_600, 60, "h", "min"), (86_400, 3_600, "d", "h")):
        if seconds < large * (60 if unit == "min" else 24) or unit == "d":
            whole, rest = divmod(int(seconds), large)
            return f"{whole:,} {unit} {rest // small} {lesser}" if rest // small else f"{whole:,} {unit}"
    raise AssertionError(seconds)


def moment(at: datetime | None) -> Markup:
    """A ``<time>`` that time.js shows in the browser's zone; without it, UTC."""
    if at is None:
        return Markup("–")
    utc = at.astimezone(UTC)
    exact = utc.strftime("%Y-%m-%d %H:%M:%S") + f".{utc.microsecond // 1000:03d} UTC"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(timespec="milliseconds"), exact, utc.strftime("%Y-%m-%d %H:%M:%S UTC")
    )


def ago(at: datetime | None) -> Markup:
    """A ``<time>`` that reads as an age (``3 min ago``), which time.js keeps true."""
    if at is None:
        return Markup("–")
    seconds = (datetime.now(UTC) - at).total_seconds()
    said = f"in {duration(-seconds)}" if seconds < 0 else f"{duration(seconds)} ago"
    utc = at.astimezone(UTC)
    return Markup('<time class="ago" datetime="{}" title="{}">{}</time>').format(
        utc.isoformat(timespec="milliseconds"), utc.strftime("%Y-%m-%d %H:%M:%S UTC"), said
    )


def size(number: float) -> str:
    """Bytes as ``12 kB``, ``3.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if number >= 10 or unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"


def pretty(value: Any) -> str:
    """JSON, indented."""
    encoded = value if isinstance(value, bytes | msgspec.Raw) else msgspec.json.encode(value)
    return msgspec.json.format(bytes(encoded), indent=2).decode()


def pill(status: str) -> Markup:
    """A status as a coloured word."""
    return Markup('<span class="pill {0}">{0}</span>').format(escape(status))


FILTERS = {
    "count": count,
    "duration": duration,
    "moment": moment,
    "ago": ago,
    "size": size,
    "pretty": pretty,
    "pill": pill,
}
