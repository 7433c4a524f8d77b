"""What the users of a directory and its keeper share: two locks, and a note of how the server is.

``users.lock`` is held shared by every user, exclusively by a keeper that stops Postgres. ``keeper.lock`` is held
exclusively by whoever starts a keeper, and inherited by the keeper: there is never a second one.
"""

import os
import sys
from pathlib import Path
from typing import NamedTuple

if sys.platform != "win32":
    import fcntl

READY = "ready"  # the text is the DSN; valid while the keeper lives
FAILED = "failed"  # the text says why the keeper gave up


class Note(NamedTuple):
    """How the server is: READY or FAILED, who says so, and a text."""

    state: str
    keeper: int
    text: str


def users_lock(directory: Path) -> Path:
    """The lock that says whether anyone uses the server."""
    return directory / "users.lock"


def keeper_lock(directory: Path) -> Path:
    """The lock that says whether there is a keeper."""
    return directory / "keeper.lock"


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """Lock *path* without waiting; returns a descriptor that holds the lock until it is closed, or None."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_NB | (fcntl.LOCK_SH if shared else fcntl.LOCK_EX))
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor


def write_note(directory: Path, state: str, text: str) -> None:
    """Tell the users; only the holder of the keeper's lock may."""
    new = directory / "server.note.new"
    new.write_text(f"{state}\n{os.getpid()}\n{text}")
    new.replace(directory / "server.note")


def read_note(directory: Path) -> Note | None:
    """What the keeper told last."""
    try:
        state, keeper, text = (directory / "server.note").read_text().split("\n", 2)
    except FileNotFoundError:
        return None
    return Note(state, int(keeper), text)


def remove_note(directory: Path) -> None:
    """Take back what was told; only the holder of the keeper's lock may."""
    (directory / "server.note").unlink(missing_ok=True)
