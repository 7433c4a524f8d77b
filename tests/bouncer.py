"""A PgBouncer in transaction mode before the server of the tests."""

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from commands import free_port, until
from proxy import proxy
from psycopg.conninfo import conninfo_to_dict, make_conninfo

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

CONFIG = """
[databases]
{database} = {target}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
; So few that clients really share them, and meet in each other's sessions.
default_pool_size = 4
max_client_conn = 500
"""


@contextmanager
def bouncer(dsn: str) -> Generator[str]:
    """The DSN that leads to the database of *dsn* by way of a PgBouncer, which runs until this context ends."""
    with proxy(dsn) as server, _bouncer(server.dsn) as way:  # it may not enter the directory of the server's socket
        yield way


@contextmanager
def _bouncer(dsn: str) -> Generator[str]:
    assert PROGRAM is not None
    parts = conninfo_to_dict(dsn)
    defaults = {"host": "127.0.0.1", "port": 5432, "user": getpass.getuser(), "password": None}
    target = {name: parts.get(name) or default for name, default in defaults.items()}
    own_port = free_port()
    with tempfile.TemporaryDirectory(prefix="bouncer") as directory:
        config = Path(directory) / "pgbouncer.ini"
        config.write_text(
            CONFIG.format(
                database=parts["dbname"],
                target=" ".join(f"{name}='{value}'" for name, value in target.items() if value),
                own_port=own_port,
            )
        )
        Path(directory).chmod(0o755)
        with (Path(directory) / "log").open("wb") as output:
            process = subprocess.Popen(
                [PROGRAM, str(config)],
                cwd="/",
                stdout=output,
                stderr=output,
                user="nobody" if os.geteuid() == 0 else None,  # it refuses to be root's
            )
        try:
            way = make_conninfo(dsn, host="127.0.0.1", port=own_port, sslmode="disable")
            until(lambda: _answers(way), lambda: (Path(directory) / "log").read_text(), seconds=20)
            yield way
        finally:
            process.terminate()
            process.wait(20)


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
