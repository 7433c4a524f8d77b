"""``taskflow doctor``: is this installation well?"""

import sys
from typing import TYPE_CHECKING

import rich_click as click

from taskflow.cli.context import (
    load_settings,
    locate,
    open_database,
    printable,
    run_async,
    tells_errors,
    version_option,
)
from taskflow.cli.output import as_json, print_json

if TYPE_CHECKING:
    from taskflow.doctor import Finding

COLOURS = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@click.command("doctor")
@as_json
@version_option
@tells_errors
def main(as_json: bool) -> None:
    """Look at versions, migrations, settings, roles, workers, and at what holds Postgres back; say what to do.

    Changes nothing. Exit status 1 if there is a problem; warnings are none.
    """
    from psycopg import OperationalError

    from taskflow.doctor import Level, examine, unreachable
    from taskflow.migrate import migrate

    settings = load_settings(log_level="error")
    with open_database(settings) as dsn:
        embedded = settings.dsn is None
        if embedded:
            migrate(dsn)  # nobody else may come to do so
        try:
            findings = run_async(
                examine(locate(settings, dsn), lease=settings.worker_lease_in_seconds, embedded=embedded)
            )
        except OperationalError as error:
            findings = unreachable(dsn, str(error))
    has_problem = any(finding.level is Level.PROBLEM for finding in findings)
    if as_json:
        print_json({"well": not has_problem, "findings": findings})
    else:
        _print(findings)
    sys.exit(has_problem)


def _print(findings: list["Finding"]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False)
    for finding in findings:
        told = printable(finding.found) + (f"\n→ {printable(finding.advice)}" if finding.advice else "")
        table.add_row(Text(finding.level, COLOURS[finding.level]), finding.check, Text(told))
    Console().print(table)
