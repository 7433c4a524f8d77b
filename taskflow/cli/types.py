"""``taskflow types``: the task types of the app."""

import rich_click as click

from taskflow.cli.context import APP_HELP, load_settings, tells_errors, version_option
from taskflow.cli.output import as_json, print_json, print_table


@click.command("types")
@click.option("--app", multiple=True, metavar="MODULE", help=APP_HELP)
@as_json
@version_option
@tells_errors
def main(app: tuple[str, ...], as_json: bool) -> None:
    """Show the task types of the app; with --json, the JSON Schema of each payload too."""
    from taskflow import registry

    types = sorted(registry.load(load_settings(app).apps), key=lambda type: type.name)
    if as_json:
        print_json(
            [
                {
                    "name": type.name,
                    "max_attempts": type.max_attempts,
                    "timeout": type.timeout,
                    "payload": type.schema(),
                }
                for type in types
            ]
        )
        return
    rows = [[type.name, str(type.max_attempts), "" if type.timeout is None else f"{type.timeout:g}"] for type in types]
    print_table(("type", "max_attempts", "timeout"), rows)
