"""How the database fares, and what is in force: sizes, vacuum, connections, migrations, settings, versions."""

import platform
from importlib.metadata import version
from typing import Final, NamedTuple

from litestar import get
from litestar.response import Template

from taskflow.api.auth import shows
from taskflow.api.services import ApiRequest, services
from taskflow.dashboard.pages import page, snapshot
from taskflow.database import Connection
from taskflow.queries import system
from taskflow.queries.system import ClientView, MigrationView, ServerView, TableView
from taskflow.scopes import Scope
from taskflow.settings import tell

PACKAGES: Final = ("taskflow-pg", "litestar", "psycopg", "msgspec", "uvicorn")


class System(NamedTuple):
    """What the screen shows, as one look at the database."""

    server: ServerView
    tables: list[TableView]
    clients: list[ClientView]
    migrations: list[MigrationView]


async def look(conn: Connection) -> System:
    """Read it all."""
    return System(
        await system.find_server_view(conn),
        await system.find_table_views(conn),
        await system.find_clients(conn),
        await system.find_migrations(conn),
    )


@get("/system", **shows(Scope.READ))
async def system_page(request: ApiRequest) -> Template:
    """The database, and this server."""
    return page(
        request,
        "system.html",
        title="System",
        seen=await snapshot(request, "system", look),
        settings=tell(services(request).settings),
        versions=[("Python", platform.python_version()), *((name, version(name)) for name in PACKAGES)],
    )


ROUTES = (system_page,)
