"""The data directory ("cluster" in Postgres' words): made whole or not at all, and checked before use."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from urllib.parse import quote

from taskflow.embedded.account import Account, choose_account, enter_account
from taskflow.embedded.binaries import EmbeddedUnavailable

PORT = 5432
LONGEST_SOCKET_PATH = 103  # bytes in sun_path without the final zero: 107 on Linux, 103 on macOS
UNFINISHED = "initdb-"


@dataclass(frozen=True)
class Cluster:
    """One embedded Postgres: its directory, its programs and its settings (``name=value``)."""

    directory: Path
    binaries: Path
    durable: bool = True
    options: Sequence[str] = ()

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> Path:
        return self.directory / "postgres.log"

    @cached_property
    def account(self) -> Account:
        return choose_account(self.directory, self.binaries / "postgres")

    @property
    def sockets(self) -> Path:
        """The folder of the Unix socket: the data directory, or a short one in /tmp where that is too long for it.

        Not tempfile.gettempdir(): it depends on the environment, and every process must come to the same answer. libpq
        reads a comma as the end of a host.
        """
        socket = os.fsencode(self.data / f".s.PGSQL.{PORT}")
        if len(socket) <= LONGEST_SOCKET_PATH and b"," not in socket:
            return self.data
        return Path("/tmp") / f"taskflow-{hashlib.sha256(socket).hexdigest()[:16]}"  # noqa: S108 – see the docstring

    @property
    def dsn(self) -> str:
        # The port is named as PGPORT would change it otherwise.
        return f"postgresql://postgres@/taskflow?host={quote(str(self.sockets), safe='')}&port={PORT}"

    def command(self) -> list[str]:
        """The command line of the server."""
        settings = ["listen_addresses=", f"port={PORT}", f"unix_socket_directories={self.sockets}"]
        if not self.durable:
            settings += ["fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        flags = [flag for setting in (*settings, *self.options) for flag in ("-c", setting)]
        return [str(self.binaries / "postgres"), "-D", str(self.data), *flags]


def environment() -> dict[str, str]:
    """Our environment without what would change Postgres' settings or the language of its messages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def prepare(cluster: Cluster) -> None:
    """Make sure of a data directory of the right version and of a socket folder; raises EmbeddedUnavailable."""
    if cluster.account.reach_all:
        cluster.directory.chmod(0o700)
    major = _major_version(cluster)
    if not cluster.data.exists():
        _create(cluster)
    # Only now: the programs of a keeper that was killed in the middle may go on writing for a moment.
    for leftover in cluster.directory.glob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    _check_version(cluster.data, major)
    if cluster.sockets != cluster.data:
        _own_socket_folder(cluster.sockets, 0 if cluster.account.reach_all else cluster.account.uid)


def _create(cluster: Cluster) -> None:
    """Run initdb under another name: a crash in its middle leaves nothing that looks like a data directory."""
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=cluster.directory))
    os.chown(unfinished, cluster.account.uid, cluster.account.gid)
    sync = [] if cluster.durable else ["--no-sync"]
    _run(
        cluster,
        "initdb",
        f"--pgdata={unfinished}",
        *["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"],
        *sync,
    )
    single = ["--single", "-D", str(unfinished), "-c", "exit_on_error=on", "postgres"]
    _run(cluster, "postgres", *single, stdin="CREATE DATABASE taskflow\n")
    unfinished.rename(cluster.data)


def _check_version(data: Path, major: str) -> None:
    try:
        found = (data / "PG_VERSION").read_text().strip()
    except FileNotFoundError:
        raise EmbeddedUnavailable(
            f"{data} is not a PostgreSQL data directory: move it away, or set DATABASE_URL"
        ) from None
    if found != major:
        raise EmbeddedUnavailable(
            f"{data} was made by PostgreSQL {found}, but the programs at hand are PostgreSQL {major}: point "
            f"TASKFLOW_PG_BIN to the programs of {found}, or move the directory away to start afresh"
        )


def _own_socket_folder(folder: Path, uid: int) -> None:
    try:
        folder.mkdir(mode=0o700)
        os.chown(folder, uid, -1)
    except FileExistsError:
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid or stat.S_IMODE(status.st_mode) != 0o700:
            raise EmbeddedUnavailable(f"{folder} belongs to someone else: remove it, or use a shorter path") from None


def _major_version(cluster: Cluster) -> str:
    version = _run(cluster, "postgres", "--version")
    if match := re.search(r"PostgreSQL\) (\d+)", version):
        return match[1]
    raise EmbeddedUnavailable(f"{cluster.binaries}/postgres is no PostgreSQL: it calls itself {version.strip()!r}")


def _run(cluster: Cluster, program: str, *arguments: str, stdin: str = "") -> str:
    path = cluster.binaries / program
    try:
        done = subprocess.run(
            [str(path), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=environment(),
            preexec_fn=partial(enter_account, cluster.account, os.getpid()),
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedUnavailable(
            f"cannot run {path} as user id {cluster.account.uid} ({error}): run as a user who can, or set DATABASE_URL"
        ) from error
    if done.returncode != 0:
        raise EmbeddedUnavailable(f"{program} failed:\n{(done.stdout + done.stderr).strip()}")
    return done.stdout
