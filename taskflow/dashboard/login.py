"""Logging in with a token, and out."""

from litestar import get, post
from litestar.response import Redirect, Template

from taskflow import sessions
from taskflow.api.auth import cookie_of, open_to_all
from taskflow.api.services import ApiRequest, services
from taskflow.dashboard.pages import HOME, done, form_of, local, new_secret, page, session_cookie
from taskflow.scopes import Scope


@get("/login", **open_to_all())
async def login_page(request: ApiRequest) -> Template:
    """The form that asks for a token."""
    return page(request, "login.html", title="Log in", to=local(request.query_params.get("to", HOME)), wrong=None)


@post("/login", **open_to_all())
async def login(request: ApiRequest) -> Redirect | Template:
    """Begin a session if the token is live and may at least look."""
    form = await form_of(request)
    to = local(form.get("to", HOME))
    keyring = services(request).keyring
    await keyring.refresh()
    token = keyring.find(form.get("token", "").strip().encode())
    if token is None or not token.allows(Scope.READ):
        wrong = "This token is unknown, expired or revoked."
        if token is not None:
            wrong = f"The token {token.name!r} may not look: it lacks the scope read."
        return page(request, "login.html", title="Log in", status=403, to=to, wrong=wrong)
    async with services(request).pool.connection() as conn:
        cookie = await sessions.begin(conn, token.id)
    keyring.forget()
    answer = done(request, f"Logged in with the token {token.name}.", to=to, session_of=token.name)
    answer.set_cookie(session_cookie(cookie, int(sessions.LIFETIME.total_seconds())))
    return answer


@post("/logout", **open_to_all())
async def logout(request: ApiRequest) -> Redirect:
    """End the session."""
    given, cookie = services(request), cookie_of(request.scope)
    token = await given.keyring.find_by_session(cookie)
    if read := sessions.read_session(cookie):
        id, secret = read
        async with given.pool.connection() as conn:
            await sessions.end(conn, id, secret)
        given.keyring.forget()
    answer = done(request, "Logged out.", to=f"{HOME}/login", session_of=token and token.name)
    answer.set_cookie(session_cookie(new_secret(), None))
    return answer


ROUTES = (login_page, login, logout)
