"""The cluster of deploy/ha as the test sees it: who is what, and what happens to its nodes."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, LiteralString

import httpx
import psycopg
from commands import until
from psycopg.conninfo import make_conninfo

from taskflow.database import with_defaults

SCRIPTS: Final = Path(__file__).parents[2] / "deploy" / "ha"
NODES: Final = (1, 2, 3)
PROGRAMS: Final = ("etcd", "patroni", "haproxy", "pgbouncer", "curl", "setpriv")
PG_BIN: Final = Path(os.environ.get("PG_BIN", "/usr/lib/postgresql/15/bin"))


def missing() -> list[str]:
    """The programs that the cluster needs and this machine does not have."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return absent if (PG_BIN / "initdb").exists() else [*absent, str(PG_BIN)]


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs in *directory*; nodes are numbered from 1."""

    directory: Path
    urls: dict[str, str]
    base: int

    def rows(self, statement: LiteralString, *values: Any, admin: bool = False) -> list[tuple[Any, ...]]:
        """All rows of *statement* on the primary, over a connection of its own."""
        url = with_defaults(self.urls["PROXY_URL"], "the test")
        if admin:
            url = make_conninfo(url, user="postgres", dbname="postgres")
        with psycopg.connect(url, autocommit=True) as conn:
            cursor = conn.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def primary(self) -> int | None:
        """The node whose Patroni says that it is the primary."""
        return next((node for node in NODES if self._answers(node, "primary")), None)

    def synchronous(self) -> int | None:
        """The node that each commit waits for."""
        return next((node for node in NODES if self._answers(node, "synchronous")), None)

    def _answers(self, node: int, role: str) -> bool:
        with suppress(httpx.TransportError):
            url = f"http://127.0.0.1:{self.base + 30 + node}/{role}"
            return httpx.get(url, trust_env=False, timeout=2).status_code == 200
        return False

    def await_whole(self) -> None:
        """Wait until a primary writes, with two standbys that follow, one of them synchronous."""

        def is_whole() -> bool:
            with suppress(psycopg.Error):
                found = self.rows("SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'", admin=True)
                return sorted(state for (state,) in found) == ["async", "sync"] and self.synchronous() is not None
            return False

        until(is_whole, self.list, seconds=120)

    def list(self) -> str:
        """The members as patronictl shows them."""
        return _run("patronictl", "-c", str(self.directory / "patroni1.yml"), "list")

    def crash(self, node: int) -> None:
        """Kill -9 the node's Patroni and its Postgres."""
        self._node("kill", node)

    def orphan(self, node: int) -> None:
        """Kill -9 the node's Patroni alone."""
        self._node("orphan", node)

    def stop(self, node: int) -> None:
        """Shut the node down, with its etcd."""
        self._node("stop", node)

    def start(self, node: int) -> None:
        """Bring the node back."""
        self._node("start", node)

    def _node(self, verb: str, node: int) -> None:
        _run(str(SCRIPTS / "node.sh"), verb, str(node), str(self.directory))

    def switch_over(self, leader: int, candidate: int) -> None:
        """Make *candidate* the primary instead of *leader*, as an operator would."""
        config = str(self.directory / f"patroni{candidate}.yml")
        nodes = ("--leader", f"node{leader}", "--candidate", f"node{candidate}")
        _run("patronictl", "-c", config, "switchover", *nodes, "--force")

    def logs(self) -> str:
        """The last lines of each part's log."""
        tails = [(path.name, path.read_text(errors="replace")[-4000:]) for path in sorted(self.directory.glob("log/*"))]
        return "\n".join(f"== {name}\n{tail}" for name, tail in tails)


@contextmanager
def cluster() -> Generator[Cluster]:
    """A new cluster until this context ends, in a folder that the user postgres can reach."""
    directory = Path(tempfile.mkdtemp(prefix="taskflow-ha-"))
    directory.chmod(0o755)
    base = _free_base()
    try:
        _run(str(SCRIPTS / "up.sh"), str(directory), HA_PORT=str(base))
        lines = (directory / "urls.env").read_text().splitlines()
        yield Cluster(directory, dict(line.split("=", 1) for line in lines), base)
    finally:
        _run(str(SCRIPTS / "down.sh"), str(directory))
        shutil.rmtree(directory)


def _free_base() -> int:
    """The first of fifty ports, the ones that are needed free."""
    ports = [offset + node for offset in (10, 20, 30, 40) for node in NODES] + [0, 1]
    for base in range(17000, 30000, 100):
        with suppress(OSError):
            for port in ports:
                socket.create_server(("127.0.0.1", base + port)).close()
            return base
    raise AssertionError("no fifty free ports")


def _run(*command: str, **settings: str) -> str:
    """Run a command to its end; what it said. Its output goes to a file, for what it starts outlives it."""
    with tempfile.TemporaryFile("w+") as output:
        began = time.monotonic()
        status = subprocess.run(
            command,
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=300,
            check=False,
        ).returncode
        output.seek(0)
        said = output.read()
    assert status == 0, f"{' '.join(command)}: status {status} after {time.monotonic() - began:.0f} s\n{said}"
    return said
