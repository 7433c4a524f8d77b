"""Styles and scripts, under an address that changes with them, so that browsers may keep them for ever."""

from hashlib import sha256
from importlib.resources import files
from typing import Final

from litestar import Response, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from taskflow.api.auth import open_to_all

TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

FILES: Final = {
    entry.name: entry.read_bytes()
    for entry in sorted((files("taskflow.dashboard") / "static").iterdir(), key=lambda entry: entry.name)
    if entry.is_file()
}

VERSION: Final = sha256(b"".join(name.encode() + content for name, content in FILES.items())).hexdigest()[:12]

FOR_EVER: Final = "public, max-age=31536000, immutable"


@get("/assets/{version:str}/{name:str}", include_in_schema=False, **open_to_all())
async def asset(version: FromPath[str], name: FromPath[str]) -> Response[bytes]:
    """One file; that of today even for a page of yesterday, which then may not be kept."""
    content = FILES.get(name)
    if content is None:
        raise NotFoundException(f"there is no {name!r} among the dashboard's files")
    kept = FOR_EVER if version == VERSION else "no-store"
    return Response(content, media_type=TYPES["." + name.rpartition(".")[2]], headers={"Cache-Control": kept})
