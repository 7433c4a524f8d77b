"""Errors as pages."""

from http import HTTPStatus
from urllib.parse import urlencode

from litestar import Response
from litestar.response import Redirect, Template

from taskflow.api import problems
from taskflow.api.auth import Unauthorized
from taskflow.api.services import GET, ApiRequest
from taskflow.dashboard.pages import HOME, page
from taskflow.database import AWAY


def answer(request: ApiRequest, error: Exception) -> Response[bytes] | Redirect | Template:
    """The page that tells of *error*; somebody who only looked and is not known is asked to log in."""
    to = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if isinstance(error, Unauthorized) and request.method in GET and not request.url.path.endswith("/live"):
        return Redirect(f"{HOME}/login?{urlencode({'to': to})}", status_code=303)
    plain = problems.answer(request, error)  # logs it, and adds the headers
    status = HTTPStatus(plain.status_code or 500)
    detail = problems.problem_of(error).detail
    title = "The database does not answer" if isinstance(error, AWAY) else status.phrase
    again = to if request.method in GET else None
    told = page(request, "trouble.html", title=title, status=status.value, trouble=status, detail=detail, again=again)
    told.headers = {name: value for name, value in plain.headers.items() if name.lower() != "content-type"}
    return told
