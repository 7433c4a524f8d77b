"""Policy: limits and pauses, in force for the whole fleet within a second."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from taskflow.database import Connection
from taskflow.model import Limit, Priority


class Policy(Struct, frozen=True):
    """What is in force for the whole fleet; by default nothing is."""

    uses_gates: bool = False
    excluded: tuple[str, ...] = ()  # task types that are paused, or limited and not adopted yet
    paused: frozenset[Priority] = frozenset()
    is_adopted: bool = True

    def active(self, priorities: Sequence[Priority]) -> Sequence[Priority]:
        """Those of *priorities* that are not paused."""
        if not self.paused:
            return priorities
        return [priority for priority in priorities if priority not in self.paused]


POLICY = """
SELECT EXISTS (SELECT FROM taskflow.holds WHERE state = 'waiting')
       OR EXISTS (SELECT FROM taskflow.holds WHERE state = 'passed'),
       ARRAY(SELECT type FROM taskflow.limits WHERE paused_at IS NOT NULL OR adopted_at IS NULL),
       ARRAY(SELECT priority::text FROM taskflow.pauses),
       NOT EXISTS (SELECT FROM taskflow.limits WHERE adopted_at IS NULL)
"""


async def find_policy(conn: Connection) -> Policy:
    """What is in force now."""
    row = await (await conn.execute(POLICY)).fetchone()
    assert row is not None
    uses_gates, excluded, paused, is_adopted = row
    return Policy(uses_gates, tuple(excluded), frozenset(map(Priority, paused)), is_adopted)


SET_LIMIT = """
SELECT taskflow.set_limit(%(type)s, %(concurrency)s, %(concurrency_per_key)s, %(rate)s, %(rate_per_key)s,
                          %(rate_seconds)s, %(is_declared)s)
"""


async def set_limit(conn: Connection, type: str, limit: Limit, *, is_declared: bool = False) -> None:
    """Limit *type*; a Limit() without limits lifts them."""
    await conn.execute(
        SET_LIMIT,
        {
            "type": type,
            "concurrency": limit.concurrency,
            "concurrency_per_key": limit.concurrency_per_key,
            "rate": limit.rate,
            "rate_per_key": limit.rate_per_key,
            "rate_seconds": limit.rate_seconds,
            "is_declared": is_declared,
        },
    )


NO_LONGER_DECLARED = "SELECT type FROM taskflow.limits WHERE is_declared AND type = ANY (%(types)s)"


async def declare_limits(conn: Connection, limits: Mapping[str, Limit | None]) -> None:
    """Have the *limits* that the code gives its task types in force; None lifts what an earlier version declared."""
    for type, limit in limits.items():
        if limit is not None:
            await set_limit(conn, type, limit, is_declared=True)
    without = [type for type, limit in limits.items() if limit is None]
    for (type,) in await (await conn.execute(NO_LONGER_DECLARED, {"types": without})).fetchall():
        await set_limit(conn, type, Limit())


PAUSE = "SELECT taskflow.pause(%(priority)s::taskflow.priority, %(reason)s)"
RESUME = "SELECT taskflow.resume(%(priority)s::taskflow.priority)"


async def pause(conn: Connection, priority: Priority, reason: str | None = None) -> None:
    """Start no more tasks of *priority* until it is resumed; what runs goes on."""
    await conn.execute(PAUSE, {"priority": priority.value, "reason": reason})


async def resume(conn: Connection, priority: Priority) -> None:
    """Take ``pause`` back."""
    await conn.execute(RESUME, {"priority": priority.value})


PAUSE_TYPE = "SELECT taskflow.pause_type(%(type)s, %(reason)s)"
RESUME_TYPE = "SELECT taskflow.resume_type(%(type)s)"


async def pause_type(conn: Connection, type: str, reason: str | None = None) -> None:
    """Start no more tasks of *type* until it is resumed; what runs goes on."""
    await conn.execute(PAUSE_TYPE, {"type": type, "reason": reason})


async def resume_type(conn: Connection, type: str) -> None:
    """Take ``pause_type`` back."""
    await conn.execute(RESUME_TYPE, {"type": type})
