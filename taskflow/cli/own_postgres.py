"""The embedded Postgres of a command that starts others, and has not ended before Postgres has."""

import os
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from taskflow.settings import Settings

STOPPED_WITHIN: Final = 10.0
"""Seconds until what does not stop is waited for no longer."""


@contextmanager
def own_postgres(settings: "Settings") -> Generator[str]:
    """The embedded Postgres, whatever database is set; it has ended after this context, unless others use it."""
    from taskflow import embedded

    directory = Path(settings.taskflow_dir)
    binaries = embedded.find_binaries(settings.taskflow_pg_bin)
    with ExitStack() as afterwards, embedded.hold(directory, binaries=binaries) as dsn:
        afterwards.callback(_await_shutdown, directory)
        yield dsn


def _await_shutdown(directory: Path) -> None:
    from taskflow.embedded.shared import keeper_lock

    deadline = time.monotonic() + STOPPED_WITHIN
    while not _is_free(keeper_lock(directory)) and time.monotonic() < deadline:
        if _has_users(directory):
            return
        time.sleep(0.05)


def _has_users(directory: Path) -> bool:
    """Whether others share the users' lock; a keeper that stops Postgres has it alone."""
    from taskflow.embedded.shared import users_lock

    return not _is_free(users_lock(directory)) and _is_free(users_lock(directory), shared=True)


def _is_free(path: Path, *, shared: bool = False) -> bool:
    from taskflow.embedded.shared import try_lock

    lock = try_lock(path, shared=shared)
    if lock is not None:
        os.close(lock)
    return lock is not None
