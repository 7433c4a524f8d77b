"""Tokens: what lets a request in. The secret is shown once; the database holds its hash.

A token reads ``tf_<id>_<secret>``. The secret has 256 random bits, so a plain SHA-256 of it cannot be guessed back, and
checking one is cheap.
"""

import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from typing import Final

import msgspec
from msgspec import Struct
from psycopg import errors
from psycopg.rows import dict_row

from taskflow.database import Connection
from taskflow.errors import TaskflowError
from taskflow.scopes import Scope

FORM: Final = re.compile(rb"tf_([1-9][0-9]{0,18})_([0-9a-f]{64})")


class TokenNameTaken(TaskflowError):
    """Another live token has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a live token {name!r} already; revoke it, or choose another --name")
        self.name = name


class NoSuchToken(TaskflowError):
    """No live token has this name or id."""

    def __init__(self, token: str) -> None:
        super().__init__(f"no live token has the name or id {token!r}; `taskflow token list` shows all")
        self.token = token


class TokenView(Struct, frozen=True, kw_only=True):
    """A token as people may see it."""

    id: int
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    is_live: bool


class Sealed(Struct, frozen=True, kw_only=True):
    """Something that a secret opens, of which only the hash is known."""

    hash: bytes

    def is_opened_by(self, secret: bytes) -> bool:
        """Whether *secret* is the one; the answer takes the same time whatever the secret."""
        return compare_digest(self.hash, sha256(secret).digest())


class LiveToken(Sealed, frozen=True, kw_only=True):
    """What is needed to check a token; *seconds_left* is None if it never expires."""

    id: int
    name: str
    scopes: frozenset[Scope]
    seconds_left: float | None

    def allows(self, scope: Scope) -> bool:
        """Whether this token may be used for *scope*."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


def read_token(token: bytes) -> tuple[int, bytes] | None:
    """Id and secret of *token*; None if it does not have the form of one."""
    form = FORM.fullmatch(token)
    return form and (int(form[1]), form[2])


# An expired token is not live, so it gives its name free.
FREE_NAME = """
UPDATE taskflow.tokens SET revoked_at = now()
WHERE name = %(name)s AND revoked_at IS NULL AND expires_at <= now()
"""

CREATE = """
INSERT INTO taskflow.tokens (name, scopes, hash, expires_at)
VALUES (%(name)s, %(scopes)s::taskflow.scope[], %(hash)s, now() + %(lifetime)s::interval)
RETURNING id
"""


async def create(conn: Connection, name: str, scopes: Sequence[Scope], lifetime: timedelta | None = None) -> str:
    """A new token, which nobody can read again from the database; it expires after *lifetime*, if that is given.

    Raises TokenNameTaken, or psycopg.IntegrityError for a name that is only digits or not of 1 to 128 characters.
    """
    secret = secrets.token_hex(32)
    given = {
        "name": name,
        "scopes": [scope.value for scope in scopes],
        "hash": sha256(secret.encode()).digest(),
        "lifetime": lifetime,
    }
    try:
        async with conn.transaction():
            await conn.execute(FREE_NAME, given)
            (id,) = await (await conn.execute(CREATE, given)).fetchone() or (0,)
    except errors.UniqueViolation:
        raise TokenNameTaken(name) from None
    return f"tf_{id}_{secret}"


REVOKE = """
UPDATE taskflow.tokens SET revoked_at = now()
WHERE revoked_at IS NULL AND (name = %(token)s OR id::text = %(token)s)
RETURNING id, name
"""


async def revoke(conn: Connection, token: str) -> tuple[int, str]:
    """End the live token whose name or id is *token*; its id and name. Raises NoSuchToken."""
    revoked = await (await conn.execute(REVOKE, {"token": token})).fetchone()
    if revoked is None:
        raise NoSuchToken(token)
    return revoked


LIST = """
SELECT id, name, scopes::text[], created_at, expires_at, revoked_at,
       revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AS is_live
FROM taskflow.tokens
ORDER BY id
"""


async def list_all(conn: Connection) -> list[TokenView]:
    """Every token there ever was, oldest first."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        return msgspec.convert(await (await cursor.execute(LIST)).fetchall(), list[TokenView])


LIVE = """
SELECT id, name, hash, scopes::text[], extract(epoch FROM expires_at - now())::float8
FROM taskflow.tokens
WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""


async def find_live(conn: Connection) -> list[LiveToken]:
    """All tokens that let requests in at this moment."""
    return [
        LiveToken(id=id, name=name, hash=hash, scopes=frozenset(map(Scope, scopes)), seconds_left=seconds_left)
        for id, name, hash, scopes, seconds_left in await (await conn.execute(LIVE)).fetchall()
    ]


ANY = "SELECT EXISTS (SELECT FROM taskflow.tokens)"


async def any_exists(conn: Connection) -> bool:
    """Whether there ever was a token, live or not: from then on, no request is let in without one."""
    row = await (await conn.execute(ANY)).fetchone()
    return row is not None and row[0]
