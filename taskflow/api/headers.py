"""What each answer tells browsers to leave alone."""

from typing import Final

from litestar.types import HTTPResponseStartEvent, Scope

# Swagger UI carries pictures in its style sheet as data.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

ALWAYS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)

# Without a referrer, browsers would not tell either which site a form comes from.
ON_PAGES: Final = (
    (b"content-security-policy", POLICY.replace("form-action 'none'", "form-action 'self'").encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)
PAGES: Final = "/dashboard"
"""What is below has forms."""

NO_STORE: Final = (b"cache-control", b"no-store")

ASSETS: Final = "/schema/assets/"
"""What is below may be kept by browsers: it is the same for everyone."""


REPLAYED: Final = "taskflow replayed"
"""In a request's state: the answer is that of an earlier request."""


def harden(start: HTTPResponseStartEvent, scope: Scope) -> None:
    """Add the headers to the answer that begins with *start*."""
    path = scope["path"]
    added = ON_PAGES if path == PAGES or path.startswith(f"{PAGES}/") else ALWAYS
    if not path.startswith(ASSETS) and all(name.lower() != b"cache-control" for name, _ in start["headers"]):
        added = (*added, NO_STORE)
    if REPLAYED in scope["state"]:
        added = (*added, (b"idempotent-replayed", b"true"))
    start["headers"] = [*start["headers"], *added]
