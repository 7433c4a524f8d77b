"""The rescue, where the only workers are such as work over HTTP."""

import time

from taskflow.database import Connection
from taskflow.maintenance import rescue_once


class Warden:
    """Rescues what workers that are gone left, where no other worker may be there to do it.

    In an outage nobody is heard, so it begins only when heartbeats have come through for as long as the lease.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._steady_since = self._beaten_at = self._looked_at = float("-inf")

    async def look(self, conn: Connection) -> None:
        """Called at each heartbeat that came through."""
        now = time.monotonic()
        if now - self._beaten_at > self._lease / 2:
            self._steady_since = now
        self._beaten_at = now
        if now - self._steady_since > self._lease and now - self._looked_at > self._lease / 5:
            self._looked_at = now
            await rescue_once(conn, self._lease)
