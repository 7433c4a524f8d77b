"""What a worker does for schedules."""

from collections.abc import Sequence

from taskflow.database import Connection
from taskflow.maintenance import declare_all, tick_once
from taskflow.model import NewSchedule
from taskflow.schedules import declare_still
from taskflow.worker.chores import Chore


def ticks(declared: Sequence[NewSchedule]) -> list[Chore]:
    """Declare this worker's schedules, and let any schedule tick when it is time; others may be made at any moment."""
    names = [schedule.name for schedule in declared]
    is_known = False

    async def look(conn: Connection) -> float | None:
        nonlocal is_known
        if not is_known:
            await declare_all(conn, declared)
            is_known = True
        return await tick_once(conn, names)

    async def tell(conn: Connection) -> None:
        await declare_still(conn, names)

    return [Chore(1.0, look), *([Chore(60.0, tell)] if names else [])]
