"""``taskflow-recovery``: the operator re-queues old tasks by hand."""

from typing import TYPE_CHECKING, Final

import rich_click as click

from taskflow.cli.context import load_settings, open_database, run_async, tells_errors, version_option
from taskflow.cli.output import as_json, print_json
from taskflow.model import Status

if TYPE_CHECKING:
    from taskflow.settings import Settings

LARGEST: Final = 2**31 - 1
"""Of both numbers; as seconds it is 68 years."""


# Negative numbers must come through as words, to be refused for what they are and not as unknown options.
@click.command("recovery", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, metavar="[STATUS PAST_SECONDS LIMIT]")
@click.option("--status", help="Which tasks: queued or failed.")
@click.option("--past-seconds", metavar="NUMBER", help="Only tasks that have not changed for this long.")
@click.option("--limit", metavar="NUMBER", help="At most this many tasks.")
@as_json
@version_option
@click.pass_context
@tells_errors
def main(ctx: click.Context, words: tuple[str, ...], as_json: bool, **options: str | None) -> None:
    """Re-queue tasks that failed, or that are queued and forgotten, and print how many they were.

    Example: taskflow-recovery failed 3600 100 re-queues at most 100 failed tasks, unchanged for an hour, the oldest
    first, each with a fresh budget of attempts. Queued ones keep their place, and their workers are woken.
    """
    status, past_seconds, limit = read(ctx, words, options)
    settings = load_settings()
    with open_database(settings) as dsn:
        count = run_async(_recover(settings, dsn, status, past_seconds, limit))
    if as_json:
        print_json({"status": status, "count": count})
        return
    click.echo(f"re-queued {count} {status.value} task{'' if count == 1 else 's'}")


def read(ctx: click.Context, words: tuple[str, ...], options: dict[str, str | None]) -> tuple[Status, int, int]:
    """Status, seconds and limit, from the words or from the options; raises click.UsageError."""
    if unknown := [word for word in words if word.startswith("--")]:
        raise click.NoSuchOption(unknown[0], ctx=ctx)
    given = {"STATUS": options["status"], "PAST_SECONDS": options["past_seconds"], "LIMIT": options["limit"]}
    if words:
        if any(value is not None for value in given.values()):
            raise click.UsageError("give STATUS, PAST_SECONDS and LIMIT as words or as options, not both", ctx)
        if len(words) != 3:
            raise click.UsageError(f"give all three, as in `failed 3600 100`; got `{' '.join(words)}`", ctx)
        given = dict(zip(given, words, strict=True))
    if missing := [name for name, value in given.items() if value is None]:
        raise click.UsageError(f"missing: {', '.join(missing)}", ctx)
    status, past_seconds, limit = (str(value) for value in given.values())
    return read_status(status), read_number("PAST_SECONDS", past_seconds), read_number("LIMIT", limit)


def read_status(word: str) -> Status:
    """The status to recover from; raises click.BadParameter."""
    if word not in {Status.QUEUED.value, Status.FAILED.value}:
        raise click.BadParameter(f"only queued and failed tasks can be re-queued; got {word!r}", param_hint="STATUS")
    return Status(word)


def read_number(name: str, word: str) -> int:
    """A whole number from 0 to LARGEST; raises click.BadParameter naming *name*."""
    if not (word.isascii() and word.isdigit() and len(word) <= 10 and int(word) <= LARGEST):
        raise click.BadParameter(f"must be a whole number from 0 to {LARGEST}; got {word!r}", param_hint=name)
    return int(word)


async def _recover(settings: "Settings", dsn: str, status: Status, past_seconds: int, limit: int) -> int:
    from taskflow.database import connect
    from taskflow.migrate import migrate
    from taskflow.queue.recover import recover

    if settings.dsn is None:
        migrate(dsn)  # nobody else may come to migrate the embedded one
    async with await connect(dsn, "taskflow-recovery") as conn:
        return await recover(conn, status, past_seconds, limit)


if __name__ == "__main__":
    main()
