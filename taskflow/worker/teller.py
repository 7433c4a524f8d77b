"""Tells those who watch what this worker claimed and finished, while there are any."""

from collections.abc import Sequence

import psycopg
import structlog

from taskflow import events
from taskflow.database import AWAY, Connection
from taskflow.logs import without_detail

log = structlog.get_logger(__name__)


class Teller:
    """Follows each claim and each recorded batch with a statement, from ``hear`` until it finds that nobody watches."""

    def __init__(self) -> None:
        self._is_on = True  # somebody may have begun to watch before this worker started
        self._heard = 0

    def hear(self, _argument: str = "") -> None:
        """Somebody watches, or may: notifications were lost."""
        self._heard += 1
        self._is_on = True

    async def tell(self, conn: Connection, ids: Sequence[int]) -> None:
        """Tell how *ids* stand now; raises one of AWAY. Whatever else Postgres says is logged, and nothing told."""
        if not self._is_on:
            return
        heard = self._heard
        try:
            is_watched = await events.tell(conn, ids)
        except psycopg.Error as error:
            if isinstance(error, AWAY):
                raise
            log.warning("events.untold", reason=without_detail(error).strip())
            is_watched = False
        if heard == self._heard:
            self._is_on = is_watched
