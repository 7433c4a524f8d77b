"""The live tokens and sessions, kept in the process, so that checking one costs no statement."""

import asyncio
import math
import time
from typing import Final

from taskflow import sessions, tokens
from taskflow.database import Pool
from taskflow.sessions import LiveSession
from taskflow.tokens import LiveToken

FRESH: Final = 2.0
"""Seconds for which the tokens are kept: a revocation is in force well within five."""


SOON: Final = 0.2
"""Seconds between two loads that unknown sessions ask for."""


class Keyring:
    """The live tokens and sessions as the database knew them at most FRESH seconds ago.

    All of them are kept, and nothing else: a wrong token costs no statement either, and no secret stays in memory.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loading = asyncio.Lock()
        self._loaded = -math.inf
        self._tokens: dict[int, LiveToken] = {}
        self._sessions: dict[int, LiveSession] = {}
        self._any_exists = True

    @property
    def is_fresh(self) -> bool:
        """Whether the tokens need not be loaded."""
        return time.monotonic() - self._loaded < FRESH

    @property
    def any_exists(self) -> bool:
        """Whether there ever was a token, live or not."""
        return self._any_exists

    async def refresh(self) -> None:
        """Load the tokens unless they are fresh; raises one of database.AWAY."""
        async with self._loading:
            if self.is_fresh:
                return
            began = time.monotonic()
            async with self._pool.connection() as conn:
                live = await tokens.find_live(conn)
                opened = await sessions.find_live(conn) if live else {}
                self._any_exists = bool(live) or await tokens.any_exists(conn)
            self._tokens = {token.id: token for token in live}
            self._sessions = opened
            self._loaded = began

    def find(self, presented: bytes) -> LiveToken | None:
        """The live token that *presented* is, if it is one."""
        read = tokens.read_token(presented)
        if read is None:
            return None
        id, secret = read
        token = self._live(id)
        return token if token is not None and token.is_opened_by(secret) else None

    async def find_by_session(self, cookie: bytes) -> LiveToken | None:
        """The live token that a browser has logged in with, if *cookie* is a session's that is not over.

        One that is not known may have begun elsewhere since the tokens were loaded; raises one of database.AWAY.
        """
        read = sessions.read_session(cookie)
        if read is None:
            return None
        id, secret = read
        if id not in self._sessions and self._age() > SOON:
            self._loaded = -math.inf
            await self.refresh()
        session = self._sessions.get(id)
        if session is None or not session.is_opened_by(secret) or self._age() >= session.seconds_left:
            return None
        return self._live(session.token_id)

    def forget(self) -> None:
        """Load anew before the next check: a session began or ended here."""
        self._loaded = -math.inf

    def _live(self, id: int) -> LiveToken | None:
        token = self._tokens.get(id)
        if token is None or (token.seconds_left is not None and self._age() >= token.seconds_left):
            return None
        return token

    def _age(self) -> float:
        return time.monotonic() - self._loaded
