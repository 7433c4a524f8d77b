"""What every page needs: the frame around it, the checks of its forms, and the way back from an action."""

import asyncio
import base64
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
import structlog
from litestar.datastructures import Cookie
from litestar.exceptions import PermissionDeniedException
from litestar.response import Redirect, Template
from msgspec import Struct

import taskflow
from taskflow.api.auth import COOKIE, TOKEN
from taskflow.api.services import ApiRequest, services
from taskflow.api.timing import ARRIVED
from taskflow.dashboard.assets import VERSION
from taskflow.database import Connection
from taskflow.scopes import Scope
from taskflow.tokens import LiveToken

log = structlog.get_logger(__name__)

T = TypeVar("T")

HOME: Final = "/dashboard"

SECTIONS: Final = (
    ("Overview", HOME),
    ("Tasks", f"{HOME}/tasks"),
    ("Failures", f"{HOME}/failures"),
    ("Workers", f"{HOME}/workers"),
    ("Schedules", f"{HOME}/schedules"),
    ("System", f"{HOME}/system"),
    ("Enqueue", f"{HOME}/enqueue"),
)

NOTICE: Final = "__Host-taskflow-notice"
"""The cookie that carries a message over one redirect."""

LONGEST: Final = 500
"""Characters of such a message."""

KEPT: Final = 0.4
"""Seconds for which an answer of the database is shown again; live.js asks half a second after a change."""

LONGER: Final = 0.9
"""The same where no change was told since; changes are told once a second."""


class Notice(Struct, frozen=True):
    """What came of an action; *kind* is ``good`` or ``bad``."""

    text: str
    kind: str = "good"


class Refused(PermissionDeniedException):
    """The form was not one of ours."""


# --- rendering ---


def page(request: ApiRequest, template: str, *, title: str, status: int = 200, **context: Any) -> Template:
    """*template* in the frame of the dashboard; its own values are those of *context*."""
    token = caller(request)
    notice = _read_notice(request.cookies.get(NOTICE))
    cookies = [_cookie(NOTICE, "", max_age=0)] if notice is not None else []
    secret = request.cookies.get(COOKIE) or ""
    if not secret:
        secret = new_secret()
        cookies.append(_cookie(COOKIE, secret))
    frame: dict[str, Any] = {
        "title": title,
        "sections": SECTIONS,
        "path": request.url.path,
        "assets": f"{HOME}/assets/{VERSION}",
        "version": taskflow.__version__,
        "who": token.name if token else None,
        "may": partial(may, request),
        "csrf": csrf_of(secret),
        "notice": notice,
        "now": time.time(),
    }
    return Template(template, context=frame | context, status_code=status, cookies=cookies, media_type="text/html")


def caller(request: ApiRequest) -> LiveToken | None:
    """The token that the request came with; None where none is needed yet."""
    return request.scope["state"].get(TOKEN)


def may(request: ApiRequest, scope: str) -> bool:
    """Whether whoever looks may do what needs *scope*."""
    token = caller(request)
    return token.allows(Scope(scope)) if token is not None else not services(request).keyring.any_exists


# --- forms ---


def new_secret() -> str:
    """A value for the cookie of somebody who has not logged in."""
    return secrets.token_hex(32)


def csrf_of(cookie: str) -> str:
    """What a form must carry to come from a page that was shown to the holder of *cookie*."""
    return sha256(f"taskflow csrf {cookie}".encode()).hexdigest()


async def check_form(request: ApiRequest) -> None:
    """Raise Refused unless a POST comes from a page of ours that was shown to its sender."""
    if request.method != "POST":
        return
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    if (origin is not None and urlsplit(origin).netloc != request.headers.get("host")) or site != "same-origin":
        raise Refused("this form was sent from another site")
    cookie = request.cookies.get(COOKIE)
    if not cookie:
        raise Refused(
            "your browser sent no cookie: open the dashboard by HTTPS, or at localhost, and let it keep cookies"
        )
    sent = (await form_of(request)).get("csrf", "")
    if not compare_digest(sent.encode(), csrf_of(cookie).encode()):
        raise Refused("this form is out of date; go back, reload the page, and try again")


async def form_of(request: ApiRequest) -> Mapping[str, str]:
    """The fields of a form; of several with one name the last."""
    return {name: value for name, value in (await request.form()).multi_items() if isinstance(value, str)}


def done(request: ApiRequest, text: str, *, to: str, kind: str = "good", **about: Any) -> Redirect:
    """Lead back to the page *to*, which shows *text*; the audit line tells who did what to what."""
    token = caller(request)
    log.info(
        "dashboard.action",
        action=request.route_handler.handler_name,
        outcome=kind,
        token=token.name if token else None,
        address=request.client.host if request.client else None,
        **about,
    )
    snapshots: Snapshots = request.app.state["snapshots"]
    snapshots.forget()
    answer = Redirect(local(to), status_code=303)
    answer.set_cookie(_cookie(NOTICE, _write_notice(Notice(text[:LONGEST], kind)), max_age=60))
    return answer


def local(path: str) -> str:
    """*path* if it leads to a page of the dashboard, else the first one."""
    is_ours = path == HOME or path.startswith((f"{HOME}/", f"{HOME}?"))
    return path if is_ours and path.isprintable() and "\\" not in path else HOME


def _cookie(name: str, value: str, max_age: int | None = None) -> Cookie:
    return Cookie(name, value=value, path="/", secure=True, httponly=True, samesite="strict", max_age=max_age)


def session_cookie(value: str, max_age: int | None) -> Cookie:
    """The cookie of a session that lasts *max_age* seconds; None: as long as the browser runs."""
    return _cookie(COOKIE, value, max_age)


def _write_notice(notice: Notice) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(notice)).decode().rstrip("=")


def _read_notice(text: str | None) -> Notice | None:
    if not text:
        return None
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=Notice)
    except (ValueError, msgspec.MsgspecError):
        return None


# --- what the database says ---


class Snapshots:
    """Answers of the database, each kept for a moment and asked for by one request at a time."""

    def __init__(self) -> None:
        self._kept: dict[object, tuple[float, asyncio.Future[Any]]] = {}
        self._told = 0.0

    def forget(self) -> None:
        """What was kept may not be true any more."""
        self._kept = {}

    def tell(self) -> None:
        """Browsers are told now that something has changed."""
        self._told = time.monotonic()

    async def get(self, key: object, load: Callable[[], Awaitable[Any]], now: float | None = None) -> Any:
        """What *load* answered within the KEPT seconds before *now*, or since, for the same *key*.

        While browsers are told of changes, what was asked after the last word is kept until the next may come.
        """
        now = time.monotonic() if now is None else now
        at, answer = self._kept.get(key, (0.0, None))
        limit = LONGER if self._told < at < self._told + LONGER else KEPT
        if answer is None or (answer.done() and now - at >= limit):
            self._kept = {key: kept for key, kept in self._kept.items() if not kept[1].done() or now - kept[0] < LONGER}
            answer = asyncio.ensure_future(load())
            self._kept[key] = (time.monotonic(), answer)
        return await asyncio.shield(answer)


async def snapshot(request: ApiRequest, key: object, ask: Callable[[Connection], Awaitable[T]]) -> T:
    """What *ask* answers, or answered a moment ago for the same *key*; raises one of database.AWAY.

    A moment before the request came in, that is: fifty that come at once are answered by one look, however long their
    pages take.
    """
    given = services(request)

    async def load() -> T:
        async with given.pool.connection() as conn:
            return await ask(conn)

    snapshots: Snapshots = request.app.state["snapshots"]
    return await snapshots.get(key, load, request.scope["state"].get(ARRIVED))
