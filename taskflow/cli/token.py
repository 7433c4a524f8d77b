"""``taskflow token``: make, list and revoke the tokens that let requests in."""

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import rich_click as click

from taskflow.cli.context import tells_errors, version_option, with_database
from taskflow.cli.output import as_json, print_json
from taskflow.scopes import Scope

if TYPE_CHECKING:
    from taskflow.database import Connection
    from taskflow.tokens import TokenView

SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
LONGEST: Final = 36_500 * SECONDS["d"]


class Lifetime(click.ParamType[timedelta]):
    """A whole number and its unit, as in ``30d``."""

    name = "lifetime"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The lifetime that *value* writes, up to 100 years."""
        written = re.fullmatch(r"([1-9][0-9]{0,9})([smhdw])", str(value))
        seconds = int(written[1]) * SECONDS[written[2]] if written else 0
        if not 0 < seconds <= LONGEST:
            self.fail(f"{value!r} is no lifetime such as 12h, 30d or 8w, of at most 36500d", param, ctx)
        return timedelta(seconds=seconds)


@click.group("token")
@version_option
def main() -> None:
    """Make, list and revoke the tokens that let requests in.

    As soon as there is one, the API answers no request without: see docs/security.md. A change is in force within five
    seconds.
    """


@main.command("create")
@click.option("--name", required=True, help="Unique among live tokens; not only digits.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="May be given several times: read looks at tasks, enqueue stores them, work runs them over HTTP, operate "
    "cancels, retries and recovers them, admin does all of that.",
)
@click.option("--expires", type=Lifetime(), metavar="30d", help="How long it lives: s, m, h, d or w. None: for ever.")
@as_json
@tells_errors
def create(name: str, scopes: tuple[str, ...], expires: timedelta | None, as_json: bool) -> None:
    """Make a token and print it on stdout; it is shown this once."""
    if not (1 <= len(name) <= 128 and name.isprintable()) or re.fullmatch("[0-9]+", name):
        raise click.BadParameter("1 to 128 printable characters that are not all digits", param_hint="--name")
    wanted = [scope for scope in Scope if scope.value in scopes]

    async def store(conn: "Connection") -> str:
        from taskflow import tokens

        return await tokens.create(conn, name, wanted, expires)

    token = with_database(store)
    if as_json:
        print_json({"name": name, "scopes": wanted, "token": token})
    else:
        click.echo(token)
    click.echo("Keep it now: it is shown this once. Send it as `Authorization: Bearer …`", err=True)


@main.command("list")
@as_json
@tells_errors
def list_tokens(as_json: bool) -> None:
    """Show every token there ever was, without its secret."""
    from taskflow import tokens

    found = with_database(tokens.list_all)
    if as_json:
        print_json(found)
        return
    shown = [("ID", "NAME", "SCOPES", "CREATED", "EXPIRES", "STATE")]
    shown += [_describe(token) for token in found]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@main.command("revoke")
@click.argument("token", metavar="NAME|ID")
@as_json
@tells_errors
def revoke(token: str, as_json: bool) -> None:
    """End a live token; requests with it are refused within five seconds."""

    async def end(conn: "Connection") -> tuple[int, str]:
        from taskflow import tokens

        return await tokens.revoke(conn, token)

    id, name = with_database(end)
    if as_json:
        print_json({"id": id, "name": name})
    else:
        click.echo(f"revoked token {name} (id {id})")


def _describe(token: "TokenView") -> tuple[str, ...]:
    state = "live" if token.is_live else "expired" if token.revoked_at is None else "revoked"
    scopes = ",".join(token.scopes)
    return str(token.id), token.name, scopes, _minute(token.created_at), _minute(token.expires_at), state


def _minute(time: datetime | None) -> str:
    return "never" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%MZ}"
