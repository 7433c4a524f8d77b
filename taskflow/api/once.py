"""Requests that are sent again: the Idempotency-Key header of the IETF's draft."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from taskflow.api.auth import CALLER
from taskflow.api.headers import REPLAYED
from taskflow.api.problems import InvalidRequest
from taskflow.api.services import ApiRequest, services
from taskflow.database import Connection
from taskflow.queue.once import keep_ids, take_key

HEADER: Final = "Idempotency-Key"
KEY: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"|([!#-+\--:<-\[\]-~]+)')
"""A string of RFC 8941 in quotes, as the draft has it; or bare, as most clients send it."""

LONGEST: Final = 255
"""Characters of a key."""

PARAMETER: Final[dict[str, Any]] = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "for a day, the same request with the same key is answered the same, and stores nothing",
    "schema": {},  # any text of a header is a string to OpenAPI's readers
}


def read_key(request: ApiRequest) -> str | None:
    """The key that *request* has, or None; raises InvalidRequest."""
    given = request.headers.getall(HEADER, [])
    if not given:
        return None
    read = KEY.fullmatch(given[0].strip()) if len(given) == 1 else None
    key = "" if read is None else read[2] or re.sub(r"\\(.)", r"\1", read[1])
    if not 1 <= len(key) <= LONGEST:
        raise InvalidRequest(f"{HEADER}: expected one text of 1 to {LONGEST} characters, best in quotes", HEADER)
    return key


async def store_once(
    request: ApiRequest, key: str, body: bytes, store: Callable[[Connection], Awaitable[Sequence[int]]]
) -> list[int]:
    """What *store* stores, or an earlier request with this *key* stored, and then the answer says so.

    A key belongs to the token that sends it. Raises KeyReused, and what *store* raises; then nothing is kept.
    """
    sender = request.scope["state"].get(CALLER)
    taken = _hash(f"{sender}:{key}".encode())
    async with services(request).pool.connection() as conn, conn.transaction():
        earlier = await take_key(conn, taken, _hash(request.url.path.encode() + b"\0" + body))
        if earlier is not None:
            request.scope["state"][REPLAYED] = True
            return earlier
        ids = list(await store(conn))
        await keep_ids(conn, taken, ids)
    return ids


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
