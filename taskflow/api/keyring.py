"""The live tokens, kept in the process, so that checking one costs no statement."""

import asyncio
import math
import time
from typing import Final

from taskflow import tokens
from taskflow.database import Pool
from taskflow.tokens import LiveToken

FRESH: Final = 2.0
"""Seconds for which the tokens are kept: a revocation is in force well within five."""


class Keyring:
    """The live tokens as the database knew them at most FRESH seconds ago.

    All of them are kept, and nothing else: a wrong token costs no statement either, and no secret stays in memory.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loading = asyncio.Lock()
        self._loaded = -math.inf
        self._tokens: dict[int, LiveToken] = {}
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
                self._any_exists = bool(live) or await tokens.any_exists(conn)
            self._tokens = {token.id: token for token in live}
            self._loaded = began

    def find(self, presented: bytes) -> LiveToken | None:
        """The live token that *presented* is, if it is one."""
        read = tokens.read_token(presented)
        if read is None:
            return None
        id, secret = read
        token = self._tokens.get(id)
        if token is None or not token.is_opened_by(secret):
            return None
        if token.seconds_left is not None and time.monotonic() - self._loaded >= token.seconds_left:
            return None
        return token
