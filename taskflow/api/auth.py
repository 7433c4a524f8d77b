"""Who may do what: each route declares a scope, and a request needs a token that has it."""

import time
from typing import Any, Final, cast

from litestar import Request
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Receive, Send
from litestar.types import Scope as Connection

from taskflow.api.limits import RateLimit, network_of
from taskflow.api.services import Services
from taskflow.scopes import Scope
from taskflow.settings import Anonymous, is_loopback

PUBLIC: Final = "public"
"""Declared by a route that is open to everyone, for it tells nothing of the tasks."""


GATE: Final = "taskflow gate"
"""Where a request's state holds the gate that let it in. It must not hold what leads back to the request: then only the
garbage collector would free it, with all that it refers to, which took an eighth of the server's time.
"""


def needs(scope: Scope) -> dict[str, Any]:
    """What a route says that only tokens with *scope* open."""
    return {"opt": {"scope": scope}, "security": [{"token": [scope.value]}]}


def shows(scope: Scope) -> dict[str, Any]:
    """What a page says that tokens with *scope* open, and sessions that began with one."""
    return {"opt": {"scope": scope, "takes_session": True}}


def open_to_all() -> dict[str, Any]:
    """What a route says that needs no token."""
    return {"opt": {"scope": PUBLIC}}


CALLER: Final = "taskflow caller"
"""In a request's state: the id of its token; None without one."""

TOKEN: Final = "taskflow token"  # noqa: S105 - the name of a place
"""In a request's state: its live token; None without one."""

COOKIE: Final = "__Host-taskflow"
"""A browser's session; browsers send it by HTTPS only, or on their own machine, and take it from no other host."""


class Unauthorized(NotAuthorizedException):
    """The request has no token, or one that is not live."""

    def __init__(self, *, presented: bool = False) -> None:
        if presented:
            detail, challenge = "the token is unknown, expired or revoked", 'Bearer error="invalid_token"'
        else:
            detail, challenge = "this needs a token, sent as `Authorization: Bearer …`", "Bearer"
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class Forbidden(PermissionDeniedException):
    """The token is live, but not for this."""

    def __init__(self, scope: Scope | None) -> None:
        if scope is None:
            super().__init__("nobody may use this")
        else:
            challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
            super().__init__(f"this needs a token with the scope {scope}", headers={"WWW-Authenticate": challenge})


class Gate(ASGIMiddleware):
    """Lets a request through to a route whose scope its token has, and each caller only so often.

    A route without a declared scope is for nobody. Until there is a token, *anonymous* callers need none.
    """

    def __init__(self, anonymous: Anonymous, limit: RateLimit | None) -> None:
        self._anonymous = anonymous
        self._limit = limit

    async def handle(self, scope: Connection, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Raises Unauthorized, Forbidden, TooManyRequests, or one of database.AWAY."""
        wanted = scope["route_handler"].opt.get("scope")
        if wanted is not PUBLIC:
            await self._check(scope, wanted)
            scope["state"][GATE] = self
        await next_app(scope, receive, send)

    async def recheck(self, connection: Connection) -> None:
        """Raises, for a request that was let through, what it would now be refused with; it does not count anew."""
        await self._check(connection, connection["route_handler"].opt["scope"], is_new=False)

    async def _check(self, connection: Connection, wanted: Scope | None, *, is_new: bool = True) -> None:
        keyring = cast(Services, connection["litestar_app"].state["services"]).keyring
        if not keyring.is_fresh:
            await keyring.refresh()
        given = [value for name, value in connection["headers"] if name == b"authorization"]
        # Of two, a proxy in front may have looked at the other one.
        scheme, _, presented = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"".join(given))
        token = keyring.find(presented.strip()) if scheme.lower() == b"bearer" else None
        if token is None and connection["route_handler"].opt.get("takes_session"):
            presented = cookie_of(connection)
            token = await keyring.find_by_session(presented)
        if self._limit is not None and is_new:
            caller = f"token {token.id}" if token else network_of((connection["client"] or ("", 0))[0])
            self._limit.take(caller, time.monotonic())
        connection["state"][CALLER] = token and token.id
        connection["state"][TOKEN] = token
        if wanted is None:
            raise Forbidden(wanted)
        if token is not None:
            if not token.allows(wanted):
                raise Forbidden(wanted)
        elif keyring.any_exists or not self._is_welcome(dict(connection["headers"]).get(b"host", b"localhost")):
            raise Unauthorized(presented=bool(presented))

    def _is_welcome(self, host: bytes) -> bool:
        """Whether a request to *host* needs no token while there is none.

        A web page of anybody's may point a name of its own at this machine's loopback address, and so have the browser
        of someone here send requests; the Host header tells.
        """
        if self._anonymous is not Anonymous.LOCAL:
            return self._anonymous is Anonymous.EVERYBODY
        name = host.decode("latin-1")
        return is_loopback(name.rpartition(":")[0].strip("[]") or name) or is_loopback(name.strip("[]"))


def cookie_of(connection: Connection) -> bytes:
    """The session's cookie of a request; empty without one."""
    return Request(connection).cookies.get(COOKIE, "").encode()


async def recheck(request: Request[Any, Any, Any]) -> None:
    """Whether the caller of a long *request* may still do so; raises what Gate raises."""
    gate: Gate = request.scope["state"][GATE]
    await gate.recheck(request.scope)
