"""Sessions: a browser that has logged in with a token. The secret is in its cookie; the database holds its hash."""

import re
import secrets
from datetime import timedelta
from hashlib import sha256
from typing import Final

from taskflow.database import Connection
from taskflow.tokens import Sealed

LIFETIME: Final = timedelta(hours=12)
"""After which somebody has to log in again."""

FORM: Final = re.compile(rb"ts_([1-9][0-9]{0,18})_([0-9a-f]{64})")


class LiveSession(Sealed, frozen=True, kw_only=True):
    """What is needed to check a session; it is good for what its token is good for."""

    token_id: int
    seconds_left: float


def read_session(cookie: bytes) -> tuple[int, bytes] | None:
    """Id and secret of a *cookie*; None if it does not have the form of one."""
    form = FORM.fullmatch(cookie)
    return form and (int(form[1]), form[2])


END_OLD = "DELETE FROM taskflow.sessions WHERE expires_at <= now()"

BEGIN = """
INSERT INTO taskflow.sessions (token_id, hash, expires_at)
VALUES (%(token_id)s, %(hash)s, now() + %(lifetime)s)
RETURNING id
"""


async def begin(conn: Connection, token_id: int) -> str:
    """A new session of the token, as the cookie's text; those that are over are forgotten."""
    secret = secrets.token_hex(32)
    given = {"token_id": token_id, "hash": sha256(secret.encode()).digest(), "lifetime": LIFETIME}
    await conn.execute(END_OLD)
    (id,) = await (await conn.execute(BEGIN, given)).fetchone() or (0,)
    return f"ts_{id}_{secret}"


END = "DELETE FROM taskflow.sessions WHERE id = %(id)s AND hash = %(hash)s"


async def end(conn: Connection, id: int, secret: bytes) -> None:
    """End a session before its time, if *secret* is its."""
    await conn.execute(END, {"id": id, "hash": sha256(secret).digest()})


LIVE = """
SELECT id, token_id, hash, extract(epoch FROM expires_at - now())::float8
FROM taskflow.sessions
WHERE expires_at > now()
"""


async def find_live(conn: Connection) -> dict[int, LiveSession]:
    """All sessions that are not over, by id."""
    return {
        id: LiveSession(token_id=token_id, hash=hash, seconds_left=left)
        for id, token_id, hash, left in await (await conn.execute(LIVE)).fetchall()
    }
