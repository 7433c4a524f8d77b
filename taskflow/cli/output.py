"""What commands print: tables for people, JSON for programs."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import rich_click as click

from taskflow.cli.context import printable

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: object) -> None:
    """Print *value* as JSON, in UTF-8 whatever the terminal's encoding is."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value)))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, as wide as the terminal; cells are told as ``cell`` does."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, header_style="bold")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    Console(soft_wrap=False).print(table)


def cell(value: object) -> str:
    """*value* for people, several lines at most: None as nothing, times in UTC, lists with commas."""
    from msgspec import Raw

    if value is None:
        return ""
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    text = bytes(value).decode() if isinstance(value, Raw) else str(value)
    return "\n".join(map(printable, text.splitlines()))


def moment(time: datetime) -> str:
    """*time* to the second, in UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}"


def span(seconds: float | None) -> str:
    """A length of time for people, in its two largest units: 90 is ``1m 30s``; None is nothing."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 3_600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86_400:
        return f"{whole // 3_600}h {whole % 3_600 // 60}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3_600}h"
