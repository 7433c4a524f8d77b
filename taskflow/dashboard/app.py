"""The API and the dashboard as one ASGI app."""

from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Litestar, Router, get
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.response import Redirect
from litestar.template import TemplateConfig

from taskflow.api import app as api
from taskflow.api.auth import open_to_all
from taskflow.dashboard import (
    assets,
    enqueue,
    failures,
    filters,
    in_bulk,
    live,
    login,
    overview,
    schedules,
    system,
    task,
    tasks,
    troubles,
    workers,
)
from taskflow.dashboard.pages import HOME, Snapshots, check_form
from taskflow.dashboard.pulse import Pulse
from taskflow.registry import Registry
from taskflow.settings import Settings


@get("/", include_in_schema=False, **open_to_all())
async def first_page() -> Redirect:
    """Who comes by browser wants the dashboard."""
    return Redirect(HOME, status_code=307)


@get("/{path:path}", **open_to_all())
async def nowhere(path: FromPath[str]) -> None:
    """Told as a page."""
    raise NotFoundException("there is no such page")


SCREENS: Final[tuple[HTTPRouteHandler, ...]] = (
    *overview.ROUTES,
    *tasks.ROUTES,
    *in_bulk.ROUTES,
    *task.ROUTES,
    *failures.ROUTES,
    *enqueue.ROUTES,
    *workers.ROUTES,
    *schedules.ROUTES,
    *system.ROUTES,
    *login.ROUTES,
    live.live,
    assets.asset,
    nowhere,
)


def create_app(settings: Settings, dsn: str, registry: Registry) -> Litestar:
    """The API over the database at *dsn*, with the dashboard at ``/dashboard``."""
    screens = Router(
        HOME,
        route_handlers=[*api.options(SCREENS), *SCREENS],
        before_request=check_form,
        exception_handlers={Exception: troubles.answer},
        include_in_schema=False,
    )
    pages = [*api.options([first_page]), first_page, screens]
    app = api.create_app(settings, dsn, registry, pages=pages, templates=_templates())
    app.state["snapshots"] = Snapshots()
    app.state["pulse"] = Pulse()
    return app


def _templates() -> TemplateConfig[JinjaTemplateEngine]:
    environment = Environment(
        loader=PackageLoader("taskflow.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters.FILTERS
    return TemplateConfig(instance=JinjaTemplateEngine.from_environment(environment))
