"""``taskflow-server``: the REST API."""

import gc
import logging
import math
import sys
from typing import TYPE_CHECKING, Final

import rich_click as click

from taskflow.cli.context import (
    APP_HELP,
    PATIENCE,
    exit_on_signals,
    load_settings,
    locate,
    open_database,
    run_async,
    sessions_of,
    tells_errors,
    version_option,
)
from taskflow.cli.listening import listen
from taskflow.errors import SettingsError

if TYPE_CHECKING:
    from taskflow.settings import Settings

YOUNG: Final = 10_000
"""Objects made before the garbage collector looks at the latest. A request makes hundreds that nothing refers to at its
end, and with Python's 700 the collector takes a fourteenth of the time.
"""


@click.command("server")
@click.option("--host", help="Address to listen on.  [SERVER_HOST]")
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on.  [SERVER_PORT]")
@click.option("--app", multiple=True, metavar="MODULE", help=APP_HELP)
@version_option
@tells_errors
def main(host: str | None, port: int | None, app: tuple[str, ...]) -> None:
    """Serve the REST API, documented at /schema, and the dashboard, at /dashboard.

    Waits up to a minute for Postgres, brings the schema up to date, and serves until SIGTERM or SIGINT. Settings come
    from the environment and from .env; options win over them. With neither DATABASE_URL nor DB_HOST set, an embedded
    Postgres under .taskflow is used. Beyond loopback, it starts only if there is a token, or with ALLOW_ANONYMOUS=true.
    """
    exit_on_signals()
    settings = load_settings(app, server_host=host, server_port=port)
    if settings.dsn is None and not settings.is_local:
        raise SettingsError(
            "SERVER_HOST",
            f"{settings.server_host} is not a loopback address, and the embedded Postgres is for one machine; "
            "set DATABASE_URL to a server, or SERVER_HOST to 127.0.0.1",
        )
    with open_database(settings) as dsn:
        serve(settings, dsn)


def leave_out_colours(record: logging.LogRecord) -> bool:
    """A filter of uvicorn's log: each of its messages comes with a coloured twin."""
    record.__dict__.pop("color_message", None)
    return True


def prepare(settings: "Settings", dsn: str) -> None:
    """Wait for the database and migrate it; raises SettingsError if others could use an API that has no token."""
    from taskflow.cli.waiting import find_missing
    from taskflow.database import wait_until_up
    from taskflow.migrate import migrate
    from taskflow.settings import Anonymous

    run_async(wait_until_up(dsn, PATIENCE))
    if run_async(find_missing(dsn)):  # where there is nothing to do, a role that may not migrate will do
        sessions = sessions_of(locate(settings, dsn))
        run_async(wait_until_up(sessions, PATIENCE))
        migrate(sessions)
    if settings.anonymous is Anonymous.NOBODY and not run_async(has_tokens(dsn)):
        raise SettingsError(
            "SERVER_HOST",
            f"{settings.server_host} is not a loopback address, and there is no token yet; make one with "
            "`taskflow token create`, or set ALLOW_ANONYMOUS=true to answer everyone until there is one",
        )


async def has_tokens(dsn: str) -> bool:
    """Whether there ever was a token."""
    from taskflow import tokens
    from taskflow.database import connect

    async with await connect(dsn, "taskflow api") as conn:
        return await tokens.any_exists(conn)


def serve(settings: "Settings", dsn: str) -> None:
    """Serve until a signal comes; requests under way are finished, within their time limit, and streams are ended."""
    import uvicorn

    from taskflow import registry
    from taskflow.api.protocol import BoundedProtocol
    from taskflow.api.stopping import Server
    from taskflow.dashboard.app import create_app
    from taskflow.process import keep_loaded

    logging.getLogger("uvicorn.error").addFilter(leave_out_colours)
    app = create_app(settings, dsn, registry.load(settings.apps))
    prepare(settings, dsn)
    with listen(settings.server_host, settings.server_port, "SERVER_PORT") as listener:
        server = Server(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                proxy_headers=settings.trusted_proxies is not None,
                forwarded_allow_ips=settings.trusted_proxies,
                server_header=False,
                timeout_graceful_shutdown=math.ceil(settings.server_time_out_in_seconds),
            )
        )
        keep_loaded()
        gc.set_threshold(YOUNG)
        server.run(sockets=[listener])
    if not server.started:
        sys.exit(1)


if __name__ == "__main__":
    main()
