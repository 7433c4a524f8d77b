"""Strays: tasks that this worker claimed without learning of it, because the answer was lost with its connection."""

import structlog

from taskflow.database import Connection
from taskflow.queries import find_running
from taskflow.queue.finish import release
from taskflow.worker.finisher import Finisher
from taskflow.worker.slots import Slots

log = structlog.get_logger(__name__)


class Strays:
    """Puts strays back. No rescue would: their worker lives."""

    def __init__(self, worker: int, slots: Slots, finisher: Finisher) -> None:
        self._worker = worker
        self._slots = slots
        self._finisher = finisher
        self._suspects: set[tuple[int, int]] = set()

    async def put_back(self, conn: Connection) -> int:
        """Release what runs according to Postgres, but not here, at two looks in a row; how many tasks it were.

        At one look it may be a claim whose answer is still on its way.
        """
        known = self._known()
        unknown = await find_running(conn, self._worker) - known - self._known()
        strays = sorted(unknown & self._suspects)
        self._suspects = unknown
        if not strays:
            return 0
        ids, attempts = [id for id, _ in strays], [attempt for _, attempt in strays]
        released = await release(conn, self._worker, ids, attempts)
        for id, attempt in strays:
            log.warning("claim.unanswered", task_id=id, attempt=attempt, released=id in released)
        return len(released)

    def _known(self) -> set[tuple[int, int]]:
        return self._slots.claims | self._finisher.claims
